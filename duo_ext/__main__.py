"""``python -m duo_ext [--host PATH] [--check] key=value ...``: Duo's command line, extended."""

import atexit
import os
import sys

import hydra
from omegaconf import DictConfig

from duo_ext import ALGORITHMS, host, ranks
from duo_ext.commands import checking, folder, line
from duo_ext.hosting import duo


def run(config: DictConfig) -> None:
    """Run the configured mode in the host, with a registered class where the name is ours."""
    os.environ["HYDRA_FULL_ERROR"] = "1" if line.TRACEBACK else "0"  # for other processes
    name = config.algo.name
    with line.one_sentence():
        algorithm = hydra.utils.get_class(ALGORITHMS[name]) if name in ALGORITHMS else None
        host.active().run(config, algorithm)


def main() -> None:
    """Find the host, compose the configuration, make the run folder and run."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and the sentence is made here
    with line.one_sentence(folder.ABOUT_FILES):
        own, rest = line.own_arguments(sys.argv[1:])
        sys.argv[1:] = line.with_overrides(rest, folder.guarded)
        tree = host.find(own.host).activate()
        line.hush()
        if own.check:
            return checking.report(tree, duo.AFTER)
        atexit.register(ranks.leave)  # Lightning leaves a group of nccl only
        os.environ["DUO_ROOT"] = str(tree.root)  # for the other processes of a DDP run
        if folder.is_first_process():
            print(f"host: {tree}", flush=True)
        hydra.main(version_base=None, config_path=str(tree.configs), config_name="config")(run)()


if __name__ == "__main__":
    main()
