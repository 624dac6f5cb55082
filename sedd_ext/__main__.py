"""``python -m sedd_ext [--host PATH] [--check] key=value ...``: SEDD's settings, with IDLM."""

import os
import re
import sys

import hydra
from hydra.core.hydra_config import HydraConfig

from duo_ext import compat, folder, line, machine
from duo_ext.settings import choose
from sedd_ext import host, settings

GROUPS = ("algo", "data")  # ours, which SEDD's defaults do not list


def hydra_arguments(arguments):
    """``algo=idlm`` and ``data=sotu`` as Hydra takes groups that are added.

    The algorithm (algo=sedd if none is named) is the first override: others change what it
    declares. Hydra's own flags stay before the overrides or behind them; it takes none amid them.
    """
    arguments = [f"+{a}" if a.partition("=")[0] in GROUPS else a for a in arguments]
    named = [a for a in arguments if a.startswith("+algo=")] or ["+algo=sedd"]
    others = [a for a in arguments if a not in named]
    overrides = (n for n, a in enumerate(others) if re.match(r"~|[^-].*=", a))
    first = next(overrides, len(others))
    return [*others[:first], *named, *others[first:]]


def run(config):
    from sedd_ext import modes  # imports the host, which is active by now

    with line.one_sentence():
        mode = choose("mode", config.mode, modes.MODES)
        settings.check(config)
        mode(config, HydraConfig.get().runtime.output_dir)


def main():
    """Find the host, compose the configuration, make the run folder and run."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and the sentence is made here
    with line.one_sentence(folder.ABOUT_FILES):
        own, rest = line.own_arguments(sys.argv[1:])
        sys.argv[1:] = line.with_overrides(hydra_arguments(rest), folder.guarded)
        tree = host.find(own.host).activate()
        line.hush()
        if own.check:
            return report(tree)
        if folder.is_first_process():
            print(f"host: {tree}", flush=True)
        hydra.main(version_base=None, config_path=str(tree.configs), config_name="config")(run)()


def report(tree):
    print(f"host: {tree}")
    for remedy in compat.BEFORE:
        state = "applied" if remedy in tree.remedies else "not needed"
        print(f"{state:>10}  {remedy.name}")
    print(machine.cpu())


if __name__ == "__main__":
    main()
