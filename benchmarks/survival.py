"""What a run survives: ``python -m benchmarks.survival --help``.

Makes the faults of benchmarks/faults happen to tiny runs of duo_ext and sedd_ext, and a collapse
to a small student. Writes FOLDER/results.json and FOLDER.md, the table: fault, times tried, what
was lost. Exits with 1 if a promise was not kept.
"""

import argparse
import contextlib
import json
import multiprocessing
import shlex
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict

import torch

from benchmarks import collapse, faults
from benchmarks.tiny import PAIRS, PROGRAMS, Tiny
from duo_ext.files import write_whole
from duo_ext.hosting import trees
from duo_ext.machine import hardware

HEAD = """# What a run survives

A run is {pairs} pairs of a distillation in the standalone tree (23,000 weights, a checkpoint after
every pair). "Same end" compares weights, averages, fake and the moments of both optimizers with
those of a run that nothing happened to. Two processes are gloo's, on one machine.

    {command}

Seed {seed}, float32, {hardware}, commit {commit}, {minutes} minutes.

| program | fault | tried | held | what was seen | what was lost |
|---|---|---:|---:|---|---|
"""


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.survival", description=__doc__.split("\n\n")[1]
    )
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--kills", type=int, default=30, help="at random; a third more in saves")
    parser.add_argument("--kills-alone", action="store_true", help="no other faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", default="results/reliability", metavar="FOLDER")
    return parser.parse_args(arguments)


def rows_of(program, options):
    """The rows of one program: this process holds its modules, which no other's may meet."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tiny = Tiny(program, f"{folder}/{program}")
        for row in _rows(tiny, options):
            print(f"{row.program}: {row.fault}: {row.held} of {row.tried}: {row.seen}", flush=True)
            rows.append(asdict(row))
    return rows


def _rows(tiny, options):
    yield from faults.all_of(tiny, options.kills, options.seed, options.kills_alone)
    if tiny.program.name == "duo_ext" and not options.kills_alone:
        yield collapse.forced_collapse(tiny, options.seed)


def page(results):
    """The table as Markdown."""
    lines = [f"| {' | '.join(str(value) for value in row.values())} |" for row in results["rows"]]
    return HEAD.format(pairs=PAIRS, **results) + "\n".join(lines) + "\n"


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    options, start = parse(arguments), time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        alone = [
            stack.enter_context(ProcessPoolExecutor(1, mp_context=context))
            for _ in options.programs
        ]
        futures = [
            pool.submit(rows_of, program, options)
            for pool, program in zip(alone, options.programs, strict=True)
        ]
        rows = [row for future in futures for row in future.result()]
    results = {
        "rows": rows,
        "seed": options.seed,
        "hardware": hardware("cpu"),
        "commit": trees.own_commit(),
        "command": shlex.join(["python", "-m", "benchmarks.survival", *arguments]),
        "minutes": round((time.perf_counter() - start) / 60),
    }
    write_whole(f"{options.output}/results.json", json.dumps(results, indent=1).encode())
    write_whole(f"{options.output}.md", page(results).encode())
    print(f"written: {options.output}/results.json, {options.output}.md")
    return int(any(row["held"] < row["tried"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
