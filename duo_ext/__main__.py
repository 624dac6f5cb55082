"""``python -m duo_ext key=value ...``: Duo's command line with the registered algorithms."""

import contextlib
import os
import sys

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from duo_ext import ALGORITHMS, corpus, host

TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


@contextlib.contextmanager
def one_sentence(about_files=""):
    """An error of the user's is one line and exit code 1; HYDRA_FULL_ERROR=1 shows where."""
    try:
        yield
    except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
        if TRACEBACK:
            raise
        foreign_file = isinstance(error, OSError) and not isinstance(error, HydraException)
        message = str(error).partition("Config search path:")[0]
        sys.exit(" ".join(f"error: {about_files * foreign_file}{message}".split()))
    except KeyboardInterrupt:
        sys.exit("interrupted")


def run(config):
    """Run the configured mode in the host, with a registered class where the name is ours."""
    os.environ["HYDRA_FULL_ERROR"] = str(int(TRACEBACK))  # for the other processes of a DDP run
    name = config.algo.name
    with one_sentence():
        algorithm = hydra.utils.get_class(ALGORITHMS[name]) if name in ALGORITHMS else None
        host.find().module("main").main(config, algorithm)


def main():
    """Compose the configuration, make the run folder and run."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and the sentence is made here
    with one_sentence(about_files="hydra.run.dir must be a folder that can be made: "):
        tree = host.find().activate()
        tree.module("main")
        corpus.register_resolvers()
        sys.argv.insert(1, f"--config-dir={host.overlay()}")
        hydra.main(version_base=None, config_path=str(tree.configs), config_name="config")(run)()


if __name__ == "__main__":
    main()
