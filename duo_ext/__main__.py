"""``python -m duo_ext [--host PATH] [--check] key=value ...``: Duo's command line, extended."""

import os

from duo_ext import line


def run(config):
    """Run the configured mode in the host, with a registered class where the name is ours."""
    os.environ["HYDRA_FULL_ERROR"] = "1" if line.TRACEBACK else "0"  # for other processes
