"""Every method on data=sotu, 32 symbols: python -m benchmarks.sotu32 [--help]

Distils the shipped teachers with each method and seed, samples teachers and students, and writes
results.json, table.md and figure.png to --output. What a run has finished is not done again.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from duo_ext import report
from duo_ext.evaluation import hardware
from duo_ext.files import write_whole
from duo_ext.trees import own_commit

STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
FEW = 32  # rows of more steps take most of the time, and come last
FRONTIER = (4, 8, 16)
TEMPERATURES = ("0.85", "0.92", "1.08")
PASSES = (("few", "frontier"), ("greedy",), ("many",))


@dataclass(frozen=True)
class Method:
    """A line of the table: what trains it, on what, and how it is sampled.

    ``train`` are the arguments of ``program``; without any it is the shipped model ``checkpoint``.
    ``after`` is the method whose checkpoint is the teacher; ``extra`` are arguments of its first
    evaluation; ``greedy``: sampled with a greedy last step too; ``once``: of the first seed alone.
    """

    family: str
    name: str
    train: tuple = ()
    checkpoint: str = ""
    after: str = ""
    extra: tuple = ()
    greedy: bool = False
    once: bool = False

    @property
    def program(self):
        return "sedd_ext" if self.family == "SEDD" else "duo_ext"

    @property
    def model(self):
        return "student" if self.train else "teacher"


def experiment(name, *overrides):
    return (f"+experiment={name}", *overrides)


METHODS = (
    Method("MDLM", "MDLM", checkpoint="${idlm_asset:teachers/mdlm.ckpt}", extra=("--ceiling",)),
    Method("MDLM", "IDLM-MDLM", experiment("sotu_idlm_mdlm", "algo.on_policy=0")),
    Method("MDLM", "IDLM-MDLM, on-policy", experiment("sotu_idlm_mdlm")),
    Method(
        "MDLM",
        "IDLM-MDLM, on-policy, equal seconds",
        experiment("sotu_idlm_mdlm", "trainer.max_steps=160"),
        once=True,
    ),
    Method("Duo", "Duo", checkpoint="${idlm_asset:teachers/duo.ckpt}", greedy=True),
    Method("Duo", "Duo-DCD", experiment("sotu_dcd"), greedy=True),
    Method("Duo", "IDLM-Duo", experiment("sotu_idlm_duo"), greedy=True),
    Method("Duo", "IDLM-Duo, Gaussian", experiment("sotu_idlm_duo", "algo.noising=gaussian")),
    Method(
        "Duo", "IDLM-Duo, on-policy", experiment("sotu_idlm_duo", "algo.on_policy=0.5"), once=True
    ),
    Method("Duo", "IDLM-DCD", experiment("sotu_idlm_dcd"), after="Duo-DCD", greedy=True),
    Method(
        "Duo",
        "IDLM-DCD, Gaussian",
        experiment("sotu_idlm_dcd", "algo.noising=gaussian"),
        after="Duo-DCD",
    ),
    Method("SEDD", "SEDD", checkpoint="${idlm_asset:teachers/sedd}"),
    Method("SEDD", "IDLM-SEDD", experiment("sotu_idlm_sedd", "algo.on_policy=0")),
    Method("SEDD", "IDLM-SEDD, on-policy", experiment("sotu_idlm_sedd")),
)
SMOKE = {
    "duo_ext": ("trainer.max_steps=2", "algo.guard.every=0", "algo.fake_warmup=1"),
    "sedd_ext": ("training.n_iters=2", "algo.guard.every=0", "algo.fake_warmup=1"),
    "sotu_dcd": ("trainer.max_steps=2",),
}


class Table:
    """Runs what is missing and puts the rows together."""

    def __init__(self, options):
        self.options, self.runs = options, Path(options.runs)
        self.by_name = {method.name: method for method in METHODS}
        self.locks = collections.defaultdict(threading.Lock)
        names = options.only or [method.name for method in METHODS]
        wanted = {method.after for method in METHODS if method.name in names} | set(names)
        self.methods = [method for method in METHODS if method.name in wanted]
        for name in names:
            if name not in self.by_name:
                known = ", ".join(self.by_name)
                raise ValueError(f"--only is '{name}'; it must be of: {known}")

    def make(self):
        """Do what is missing, ``--jobs`` at a time, and put the rows together."""
        work = [
            (method, seed, parts)
            for parts in PASSES
            for seed in self.options.seeds
            for method in self.methods
            if seed in self.seeds(method)
        ]
        with concurrent.futures.ThreadPoolExecutor(self.options.jobs) as pool:
            list(pool.map(lambda item: self.finish(*item), work))
        results = self.collect()
        report.save(results, self.options.output)
        report.render(self.options.output)

    def seeds(self, method):
        seeds = self.options.seeds
        return seeds if method.train and not method.once else seeds[:1]

    def place(self, method, seed):
        slug = "".join(c if c.isalnum() else "-" for c in method.name.lower())
        return self.runs.absolute() / slug / str(seed)

    def checkpoint(self, method, seed):
        """The student that the guard kept, or the last one where there is no guard or none was
        inside its bounds; guard.json tells."""
        if not method.train:
            return method.checkpoint
        folder, end = self.place(method, seed) / "checkpoints", {"sedd_ext": "pth"}
        best = folder / f"best.{end.get(method.program, 'ckpt')}"
        last = {"duo_ext": folder / "last.ckpt", "sedd_ext": folder.parent}
        return str(best if best.exists() else last[method.program])

    def finish(self, method, seed, parts):
        """Train, where that is not done, and sample the ``parts``."""
        place = self.place(method, seed)
        self.train(method, seed)
        common = (f"--{method.model}", self.checkpoint(method, seed), "--names", method.name)
        common += ("--samples", self.options.samples)
        for part, arguments in self.parts(method, seed).items():
            output = place / part
            if part in parts and not (output / "results.json").exists():
                module = f"{method.program}.evaluate"
                self.command(place, module, *common, *arguments, "--output", output)

    def train(self, method, seed):
        place = self.place(method, seed)
        with self.locks[place]:
            if method.train and not (place / "done").exists():
                if method.after:
                    self.train(self.by_name[method.after], seed)
                start = time.perf_counter()
                self.command(place, method.program, *self.training(method, seed))
                write_whole(place / "done", f"{time.perf_counter() - start:.1f}".encode())

    def parts(self, method, seed):
        """{part: arguments of evaluate}, of those that have something to sample."""
        steps, first = self.options.steps, seed == self.options.seeds[0]
        few, many = ([s for s in steps if (s <= FEW) == small] for small in (True, False))
        frontier = [s for s in FRONTIER if s in steps and (first or s < FRONTIER[-1])]
        greedy = few if first and method.greedy else []
        found = {
            "few": (few, method.extra),
            "frontier": (frontier, ("--temperature", *TEMPERATURES)),
            "greedy": (greedy, ("--noise-removal", "greedy")),
            "many": (many, ()),
        }
        return {name: ("--steps", *own, *more) for name, (own, more) in found.items() if own}

    def training(self, method, seed):
        arguments = [*method.train, f"seed={seed}", f"hydra.run.dir={self.place(method, seed)}"]
        if method.after:
            teacher = self.checkpoint(self.by_name[method.after], seed)
            arguments.append(f"algo.teacher_path={teacher}")
        if self.options.smoke:
            plain = method.train[0].removeprefix("+experiment=")
            arguments += SMOKE.get(plain, SMOKE[method.program])
        return arguments

    def command(self, place, module, *arguments):
        """Run a module, its output in a file beside what it makes."""
        place.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", module, *map(str, arguments)]
        print(shlex.join(["python", *command[1:]]), flush=True)
        with open(place / "output.txt", "a") as output:
            done = subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        if done.returncode:
            raise ValueError(f"{module} failed with {done.returncode}; see {place}/output.txt")

    def collect(self):
        rows, parts = [], []
        for method in self.methods:
            for seed in self.seeds(method):
                for path in sorted(self.place(method, seed).glob("*/results.json")):
                    part = report.load(str(path.parent))
                    parts.append(part)
                    own = {"family": method.family, "distillation_seed": seed}
                    rows += [
                        self.portable(path.parent, row) | (own if row["model"] != "judge" else {})
                        for row in part["rows"]
                    ]
        return {
            "rows": rows,
            "judge": parts[0]["judge"],
            "data": parts[0]["data"],
            "commit": own_commit(),
            "hardware": hardware("cpu"),
            "command": shlex.join(["python", "-m", "benchmarks.sotu32", *sys.argv[1:]]),
            "distillations": [d for m in self.methods for d in self.distillations(m)],
        }

    def portable(self, folder, row):
        """A row whose checkpoint is named as seen from the folder of all runs."""
        if "${" in row["checkpoint"]:
            return row
        path = os.path.join(folder, row["checkpoint"])
        return row | {"checkpoint": os.path.relpath(path, self.runs.absolute())}

    def distillations(self, method):
        """How each distillation ended, by its guard, and its seconds, those of the guard too."""
        for seed in self.seeds(method) if method.train else ():
            place = self.place(method, seed)
            path = place / "guard.json"
            kept = json.loads(path.read_text())["kept"] if path.exists() else None
            seconds = float((place / "done").read_text())
            yield {"name": method.name, "seed": seed, "kept_pair": kept, "seconds": seconds}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--steps", nargs="+", type=int, default=STEPS)
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="these and what they need")
    parser.add_argument("--jobs", type=int, default=2, help="programs at a time, one thread each")
    parser.add_argument("--runs", default="runs/sotu32", help="where the students are kept")
    parser.add_argument("--output", default="results/sotu32")
    parser.add_argument("--smoke", action="store_true", help="two pairs a distillation")
    try:
        Table(parser.parse_args(arguments)).make()
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
