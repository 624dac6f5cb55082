"""Every method on data=sotu, 32 symbols: python -m benchmarks.sotu32 [--help]

Distils the shipped teachers with each method and seed, samples teachers and students, and writes
results.json, table.md and figure.png to --output. What a run has finished is not done again.
"""

import argparse
import concurrent.futures
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from duo_ext import report
from duo_ext.evaluation import hardware
from duo_ext.trees import own_commit

STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
FRONTIER = ("--steps", "4", "8", "16", "--temperature", "0.85", "0.92", "1.08")
DUO_WAYS = ("--noise-removal", "ancestral", "greedy")
SEDD_WAYS = ("--predictor", "analytic", "renormalised")


@dataclass(frozen=True)
class Method:
    """A line of the table: what trains it, on what, and how it is sampled.

    ``train`` are the arguments of ``program``; without any it is the shipped model ``checkpoint``.
    ``teacher`` is the setting that takes the checkpoint of the method ``after``.
    """

    family: str
    name: str
    train: tuple = ()
    checkpoint: str = ""
    after: str = ""
    ways: tuple = ()

    @property
    def program(self):
        return "sedd_ext" if self.family == "SEDD" else "duo_ext"

    @property
    def model(self):
        return "student" if self.train else "teacher"


def experiment(name, *overrides):
    return (f"+experiment={name}", *overrides)


METHODS = (
    Method("MDLM", "MDLM", checkpoint="${idlm_asset:teachers/mdlm.ckpt}"),
    Method("MDLM", "IDLM-MDLM", experiment("sotu_idlm_mdlm", "algo.on_policy=0")),
    Method("MDLM", "IDLM-MDLM, on-policy", experiment("sotu_idlm_mdlm")),
    Method("Duo", "Duo", checkpoint="${idlm_asset:teachers/duo.ckpt}", ways=DUO_WAYS),
    Method("Duo", "Duo-DCD", experiment("sotu_dcd"), ways=DUO_WAYS),
    Method("Duo", "IDLM-Duo", experiment("sotu_idlm_duo"), ways=DUO_WAYS),
    Method("Duo", "IDLM-Duo, Gaussian", experiment("sotu_idlm_duo", "algo.noising=gaussian")),
    Method("Duo", "IDLM-DCD", experiment("sotu_idlm_dcd"), after="Duo-DCD", ways=DUO_WAYS),
    Method(
        "Duo",
        "IDLM-DCD, Gaussian",
        experiment("sotu_idlm_dcd", "algo.noising=gaussian"),
        after="Duo-DCD",
    ),
    Method("SEDD", "SEDD", checkpoint="${idlm_asset:teachers/sedd}", ways=SEDD_WAYS),
    Method("SEDD", "IDLM-SEDD", experiment("sotu_idlm_sedd", "algo.on_policy=0"), ways=SEDD_WAYS),
    Method("SEDD", "IDLM-SEDD, on-policy", experiment("sotu_idlm_sedd"), ways=SEDD_WAYS),
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
        names = options.only or [method.name for method in METHODS]
        wanted = {method.after for method in METHODS if method.name in names} | set(names)
        self.methods = [method for method in METHODS if method.name in wanted]
        for name in names:
            if name not in {method.name for method in METHODS}:
                known = ", ".join(method.name for method in METHODS)
                raise ValueError(f"--only is '{name}'; it must be of: {known}")

    def make(self):
        """Train in the order of dependence, ``--jobs`` at a time, and sample what is trained."""
        with concurrent.futures.ThreadPoolExecutor(self.options.jobs) as pool:
            for after in (False, True):
                chosen = [m for m in self.methods if bool(m.after) == after]
                parts = [(m, seed) for m in chosen for seed in self.seeds(m)]
                list(pool.map(lambda part: self.finish(*part), parts))
        results = self.collect()
        report.save(results, self.options.output)
        report.render(self.options.output)

    def seeds(self, method):
        return self.options.seeds if method.train else [1]

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

    def finish(self, method, seed):
        place, options = self.place(method, seed), self.options
        if method.train and not (place / "done").exists():
            self.command(place, method.program, *self.training(method, seed))
            (place / "done").touch()
        role = f"--{method.model}"
        common = (role, self.checkpoint(method, seed), "--names", method.name)
        common += ("--samples", options.samples, *method.ways)
        steps = ("--steps", *options.steps)
        for name, ways in (("plain", steps), ("frontier", FRONTIER)):
            output = place / name
            if not (output / "results.json").exists() and (name == "plain" or not options.smoke):
                self.command(
                    place, f"{method.program}.evaluate", *common, *ways, "--output", output
                )

    def training(self, method, seed):
        arguments = [*method.train, f"seed={seed}", f"hydra.run.dir={self.place(method, seed)}"]
        if method.after:
            (teacher,) = (m for m in METHODS if m.name == method.after)
            arguments.append(f"algo.teacher_path={self.checkpoint(teacher, seed)}")
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
                    rows += [self.portable(path.parent, row) | own for row in part["rows"]]
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
        """How each distillation ended, by its guard."""
        for seed in self.seeds(method) if method.train else ():
            path = self.place(method, seed) / "guard.json"
            kept = json.loads(path.read_text())["kept"] if path.exists() else None
            yield {"name": method.name, "seed": seed, "kept_pair": kept}


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
