"""python -m benchmarks.gpu_check {1,2,3} [--dry] ...: see docs/gpu.md."""

import argparse
import os
import sys
from pathlib import Path

import torch

from benchmarks.gpu_check import harness, items

MISSING = "no GPU is visible; --dry tries every item on a CPU, at a small size"


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description="What is to be known of a GPU, in three commands of ten minutes each: 1, the "
        "numbers are right; 2, what a pair costs; 3, whole runs. Exits with 1 if an item failed or "
        "missed a bound.",
    )
    parser.add_argument("command", choices=items.COMMANDS)
    parser.add_argument("--dry", action="store_true", help="on a CPU, at a small size")
    parser.add_argument(
        "--patience", type=float, metavar="N", help="times its seconds that an item has: 1, dry 10"
    )
    parser.add_argument("--only", nargs="+", metavar="ITEM", help="some items of the command")
    parser.add_argument("--host", nargs="+", default=[], help="checkouts of Duo and SEDD as well")
    parser.add_argument("--wheels", metavar="FOLDER", help="pure Python wheels to be used")
    parser.add_argument("--students", default="runs", help="where demo-mdlm and demo-duo are")
    parser.add_argument("--runs", default="runs/gpu_check", help="for what is made on the way")
    parser.add_argument(
        "--output", default=os.environ.get("OUT", "results/gpu_check"), metavar="FOLDER"
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    chosen = items.COMMANDS[options.command]
    if options.only:
        if unknown := set(options.only) - {item.name for item in chosen}:
            sys.exit(f"error: --only: command {options.command} has no item {', '.join(unknown)}")
        chosen = [item for item in chosen if item.name in options.only]
    if not options.dry and not torch.cuda.is_available():
        sys.exit(f"error: {MISSING}")
    runs = Path(options.runs).absolute()
    hosts = tuple(str(Path(path).absolute()) for path in options.host)
    patience = options.patience or (10 if options.dry else 1)
    setting = harness.Setting(options.dry, str(runs), hosts, options.students, patience)
    path = [str(harness.REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    if options.wheels:
        path.insert(0, harness.unpack(options.wheels, runs / "site"))
    environment = {"PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1"}
    return int(not harness.run(chosen, setting, Path(options.output).absolute(), environment))


if __name__ == "__main__":
    sys.exit(main())
