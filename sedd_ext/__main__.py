"""``python -m sedd_ext [--host PATH] [--check] key=value ...``: SEDD's settings, with IDLM."""

import functools
import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from duo_ext.commands import checking, folder, line
from duo_ext.values import choose
from sedd_ext import host, settings
from sedd_ext.remedies import AFTER

# {a group of ours: the sign of its overrides}. SEDD's defaults lack algo; algo's own list data.
GROUPS = {"algo": "+", "data": ""}


def hydra_arguments(arguments: list[str]) -> list[str]:
    """The words of a command line, with the signs that Hydra wants: ``+algo=idlm``.

    SEDD's defaults do not list the group algo, so Hydra takes it with a plus alone. The algorithm
    (algo=sedd if none is named) becomes the first override, because others change what it declares.
    Hydra's own flags stay where they are.
    """
    return line.with_overrides(arguments, _with_algorithm)


def _with_algorithm(overrides):
    words = [_group(word) for word in overrides]
    algo = [word for word in words if word.startswith("+algo=")] or ["+algo=sedd"]
    return algo + [word for word in words if word not in algo]


def _group(word):
    """The override with the sign that its group needs, in place of its own sign."""
    key, equals, value = word.partition("=")
    name = key.lstrip("+")
    return f"{GROUPS[name]}{name}{equals}{value}" if name in GROUPS else word


def run(config: DictConfig) -> None:
    """Do what ``mode`` says with a composed configuration."""
    from sedd_ext import modes  # imports the host, which is active by now

    with line.one_sentence():
        mode = choose("mode", config.mode, modes.MODES)
        settings.check(config)
        with host.active().refusing():
            mode(config, HydraConfig.get().runtime.output_dir)


def main() -> None:
    """Find the host, compose its configuration, make the run's folder and run."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and the sentence is made here
    with line.one_sentence(folder.ABOUT_FILES):
        own, rest = line.own_arguments(sys.argv[1:])
        guarded = functools.partial(folder.guarded, ranks=folder.TORCHRUN)
        sys.argv[1:] = line.with_overrides(hydra_arguments(rest), guarded)
        tree = host.find(own.host).activate()
        line.hush()
        if own.check:
            return checking.report(tree, AFTER)
        if folder.is_first_process(folder.TORCHRUN):
            print(f"host: {tree}", flush=True)
        hydra.main(version_base=None, config_path=str(tree.configs), config_name="config")(run)()


if __name__ == "__main__":
    main()
