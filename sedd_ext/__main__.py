"""``python -m sedd_ext [--host PATH] [--check] key=value ...``: SEDD's settings, with IDLM."""

import os
import sys

import hydra
from hydra._internal.utils import get_args
from hydra.core.hydra_config import HydraConfig

from duo_ext import compat
from duo_ext.__main__ import one_sentence, own_arguments
from duo_ext.settings import choose
from sedd_ext import host, settings

# Our groups, and how Hydra takes them: SEDD's defaults do not list algo, whose entries list data.
GROUPS = {"algo": "+", "data": ""}


def hydra_arguments(arguments):
    """The words with ``algo=idlm`` as Hydra takes a group that is added.

    The algorithm (algo=sedd if none is named) is the first of the overrides: others change what it
    declares. Hydra's own flags stay where they are.
    """
    overrides = get_args(arguments).overrides
    count = len(overrides)
    start = next(i for i in range(len(arguments) + 1) if arguments[i : i + count] == overrides)
    words = [_group(word) for word in overrides]
    algo = [word for word in words if word.startswith("+algo=")] or ["+algo=sedd"]
    others = [word for word in words if word not in algo]
    return [*arguments[:start], *algo, *others, *arguments[start + count :]]


def _group(word):
    """An override with the sign that its group needs, whatever sign it has."""
    key, equals, value = word.partition("=")
    name = key.lstrip("+")
    return f"{GROUPS[name]}{name}{equals}{value}" if name in GROUPS else word


def run(config):
    from sedd_ext import modes  # imports the host, which is active by now

    with one_sentence():
        mode = choose("mode", config.mode, modes.MODES)
        settings.check(config)
        mode(config, HydraConfig.get().runtime.output_dir)


def main():
    """Find the host, compose the configuration, make the run folder and run."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and the sentence is made here
    with one_sentence(about_files="hydra.run.dir must be a folder that can be made and written: "):
        own, rest = own_arguments(sys.argv[1:])
        sys.argv[1:] = hydra_arguments(rest)
        tree = host.find(own.host).activate()
        if own.check:
            return report(tree)
        if os.environ.get("RANK", "0") == "0":
            print(f"host: {tree}", flush=True)
        hydra.main(version_base=None, config_path=str(tree.configs), config_name="config")(run)()


def report(tree):
    print(f"host: {tree}")
    for remedy in compat.BEFORE:
        state = "applied" if remedy in tree.remedies else "not needed"
        print(f"{state:>10}  {remedy.name}")


if __name__ == "__main__":
    main()
