"""A table of methods: what is missing is trained and sampled, then all of it is put together.

A ``Benchmark`` says what is in the table, ``main`` is its command line. What a run has finished is
not done again.
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
from pathlib import Path

import omegaconf

from benchmarks.earlier import Earlier
from duo_ext import Refused
from duo_ext.files import write_whole
from duo_ext.report import pages
from duo_ext.report.results import load, save

FEW = 32  # rows of more steps take most of the time: they come last, of the first seed alone
FRONTIER = (4, 8, 16)
TEMPERATURES = ("0.85", "0.92", "1.08")
OWN, OWN_FRONTIER = 16, range(2, 9)  # steps by samplers of the core
HOST = ("--sampler", "host")
GREEDY = (*HOST, "--noise-removal", "greedy")
PASSES = (("few", "spread", "spread-frontier", "comb", "comb-frontier"), ("frontier", "reach"))
PASSES += (("greedy",), ("many",), ("many-greedy",))
READABLE = ("many", "spread", "comb")  # parts, of the first seed, whose samples are shown


class Table:
    """Runs what is missing and puts the rows together."""

    passes = PASSES

    def __init__(self, benchmark, options):
        self.benchmark, self.options = benchmark, options
        self.runs = Path(options.runs).absolute()
        self.earlier = Earlier(options.output if options.add else None)
        self.by_name = {method.name: method for method in benchmark.methods}
        self.locks = collections.defaultdict(threading.Lock)
        names = options.only or list(self.by_name)
        for name in names:
            if name not in self.by_name:
                known = ", ".join(self.by_name)
                raise Refused(f"--only is '{name}'; it must be of: {known}")
        wanted = {self.by_name[name].after for name in names} | set(names)
        self.methods = [method for method in benchmark.methods if method.name in wanted]

    def make(self):
        """Do what is missing, and put the rows together."""
        if not self.options.table:
            self.work()
        results = self.collect()
        save(results, self.options.output)
        self.render(results)
        self.show()

    def render(self, results):
        """Write the page of what was put together."""
        pages.render(self.options.output)

    def show(self):
        """Write what was sampled now, for a person to read, after what --output has of it."""
        path = Path(self.options.output) / "samples.md"
        pages = [path.read_text()] if self.options.add and path.exists() else []
        for method in self.methods:
            seed = self.options.seeds[0]
            parts = [part for part in READABLE if part in self.missing(method, seed)]
            paths = [self.place(method, seed) / part / "samples.md" for part in parts]
            pages += [page.read_text() for page in paths if page.exists()]
        if pages:  # each with the same first line
            first, *others = pages
            rest = [page.partition("\n\n")[2] for page in others]
            write_whole(path, "\n".join([first, *rest]).encode())

    def work(self):
        """Train and sample what is missing, ``--jobs`` at a time."""
        work = [
            (method, seed, parts)
            for parts in self.passes
            for seed in self.options.seeds
            for method in self.methods
            if seed in self.seeds(method)
        ]
        with concurrent.futures.ThreadPoolExecutor(self.options.jobs) as pool:
            list(pool.map(lambda item: self.finish(*item), work))

    def seeds(self, method):
        seeds = self.options.seeds
        return seeds if method.train and not method.once else seeds[:1]

    def place(self, method, seed):
        slug = "".join(c if c.isalnum() else "-" for c in method.name.lower())
        return self.runs / slug / str(seed)

    def checkpoint(self, method, seed):
        """The one that the guard kept, or a teacher's that was best on held-out text; the last one
        where there is none of them. guard.json tells."""
        if not method.train:
            return method.checkpoint
        folder, end = self.place(method, seed) / "checkpoints", {"sedd_ext": "pth"}
        best = folder / f"best.{end.get(method.program, 'ckpt')}"
        last = {"duo_ext": folder / "last.ckpt", "sedd_ext": folder.parent}
        return str(best if best.exists() else last[method.program])

    def teacher(self, method, seed):
        """(the method that a method comes after, the seed of that which it starts from)."""
        before = self.by_name[method.after]
        seeds = self.seeds(before)
        return before, seed if seed in seeds else seeds[0]

    def finish(self, method, seed, parts):
        """Sample those of the ``parts`` that are not done, of a method that is trained first."""
        place = self.place(method, seed)
        wanted = {
            part: arguments
            for part, arguments in self.missing(method, seed).items()
            if part in parts and not (place / part / "results.json").exists()
        }
        if not wanted:
            return
        self.train(method, seed)
        common = (f"--{method.model}", self.checkpoint(method, seed), "--names", method.name)
        common += ("--samples", self.options.samples, "--judge", self.benchmark.judge)
        for part, arguments in wanted.items():
            module, output = f"{method.program}.evaluate", place / part
            self.command(place, module, *common, *arguments, "--output", output)

    def missing(self, method, seed):
        """The ``parts`` by samplers of which --output has no rows."""
        return {
            part: arguments
            for part, arguments in self.parts(method, seed).items()
            if (method.name, seed, sampler_of(arguments)) not in self.earlier.rows
        }

    def train(self, method, seed):
        """Train a method that is not done, its teacher first, and note its seconds, those of start
        and guard too."""
        if not method.train:
            return
        if method.after:
            self.train(*self.teacher(method, seed))
        place = self.place(method, seed)
        with self.locks[place]:
            if not (place / "done").exists():
                start = time.perf_counter()
                self.command(place, method.program, *self.training(method, seed))
                write_whole(place / "done", f"{time.perf_counter() - start:.1f}".encode())

    def parts(self, method, seed):
        """{part: arguments of evaluate}, of those that have something to sample."""
        steps, first = [*self.options.steps, *method.steps], seed == self.options.seeds[0]
        few = [s for s in steps if s <= FEW]
        many = [s for s in steps if s > FEW and first]
        frontier = [s for s in FRONTIER if s in steps and (first or s < FRONTIER[-1])]
        reach = [step for step in frontier if step < FRONTIER[-1]] if method.reach else []
        greedy = (few if first else frontier) if method.greedy else []
        own = [s for s in steps if s <= OWN]
        others = ("--temperature", *TEMPERATURES, *((method.reach,) if method.reach else ()))
        found = {
            "few": (few, (*HOST, *method.extra)),
            "frontier": (frontier, (*HOST, "--temperature", *TEMPERATURES)),
            "reach": (reach, (*HOST, "--temperature", method.reach)),
            "greedy": (greedy, GREEDY),
            "many": (many, HOST),
            "many-greedy": (many if method.greedy else [], GREEDY),
        }
        for sampler, words in method.own.items():
            found[sampler] = own, words
            found[f"{sampler}-frontier"] = (
                [s for s in own if s in OWN_FRONTIER],
                (*words, *others),
            )
        return {name: ("--steps", *own, *more) for name, (own, more) in found.items() if own}

    def training(self, method, seed):
        arguments = [*method.train, f"seed={seed}", f"hydra.run.dir={self.place(method, seed)}"]
        if method.after:
            teacher = self.checkpoint(*self.teacher(method, seed))
            arguments.append(f"algo.teacher_path={teacher}")
        plain = method.train[0].removeprefix("+experiment=")
        smoke = self.benchmark.smoke
        added = smoke.get(plain) or smoke[method.program] if self.options.smoke else ()
        return [*arguments, *added]

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
            raise Refused(f"{module} failed with {done.returncode}; see {place}/output.txt")

    def collect(self):
        """The results: what --output has of a method, a seed and a sampler, else what was sampled
        now."""
        rows, parts, distillations = [], [*self.earlier.results], []
        for method in self.benchmark.methods:
            for seed in self.all_seeds(method):
                earlier = self.earlier.of(method, seed)
                own, sampled = self.sampled(method, seed)
                rows, parts = rows + earlier + own, parts + sampled
                known = self.earlier.distillations.get((method.name, seed))
                distillations += known or self.distillation(method, seed)
        if not parts:
            raise Refused(f"--runs is '{self.options.runs}'; it holds no samples of any method")
        self.earlier.agrees(parts[-1]["judge"])
        return {
            "rows": rows,
            "judge": parts[0]["judge"],
            "data": parts[0]["data"],
            "commit": said("commit", parts, ", "),
            "hardware": said("hardware", parts, "; "),
            "command": said("command", [*self.earlier.results, {"command": self.line()}], "; "),
            "distillations": distillations,
        }

    def line(self):
        """The command line that this is."""
        return shlex.join(["python", "-m", self.benchmark.module, *sys.argv[1:]])

    def all_seeds(self, method):
        """The seeds of a method that are wanted now or that --output has."""
        wanted = self.seeds(method) if method in self.methods else []
        return sorted({*wanted, *self.earlier.seeds(method)})

    def sampled(self, method, seed):
        """(the rows of all parts that were sampled and are missing, the parts)."""
        rows, parts, place = [], [], self.place(method, seed)
        for folder in (place / part for part in self.missing(method, seed)):
            if not (folder / "results.json").exists():
                continue
            part = load(str(folder))
            parts.append(part)
            own = {"family": method.family, "distillation_seed": seed}
            own |= {"after": method.after} if method.after else {}
            rows += [
                self.portable(folder, row) | (own if row["model"] != "judge" else {})
                for row in part["rows"]
            ]
        return rows, parts

    def portable(self, folder, row):
        """A row whose checkpoint is named as seen from the folder of all runs."""
        if "${" in row["checkpoint"]:
            return row
        path = os.path.join(folder, row["checkpoint"])
        return row | {"checkpoint": os.path.relpath(path, self.runs)}

    def distillation(self, method, seed):
        """What a training that is done took, and which student its guard kept: [one] or none."""
        place = self.place(method, seed)
        if not (place / "done").exists():
            return []
        guard = place / "guard.json"
        looks = json.loads(guard.read_text()) if guard.exists() else {"kept": None}
        seconds, updates = float((place / "done").read_text()), self.updates(place, looks)
        found = {
            "name": method.name,
            "seed": seed,
            "kept_pair": looks["kept"],
            "seconds": seconds,
            "updates": updates,
            "updates_per_second": updates / seconds,
        }
        return [found]

    def updates(self, place, looks):
        """The pairs that were made until the guard's last look, the last pair unless it stopped the
        distillation; without a guard the pairs or, of any other training, the steps asked for."""
        if "history" in looks:
            return looks["history"][-1]["pair"]
        config = omegaconf.OmegaConf.load(place / ".hydra" / "config.yaml")
        steps = omegaconf.OmegaConf.select(config, "trainer.max_steps")
        return steps or config.training.n_iters


def sampler_of(arguments):
    return arguments[arguments.index("--sampler") + 1]


def said(key, parts, between):
    """What the parts have under a key, each once; a part may have several already."""
    words = (word for part in parts for word in part[key].split(between))
    return between.join(dict.fromkeys(words))


def main(benchmark, description, arguments=None, made_by=Table, samples=512):
    """The command line of a benchmark; ``description`` is what --help says first."""
    parser = argparse.ArgumentParser(description=description)
    name = benchmark.module.rpartition(".")[2]
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--samples", type=int, default=samples)
    parser.add_argument("--steps", nargs="+", type=int, default=benchmark.steps)
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="these and what they need")
    jobs_help = "programs at a time, one thread each"
    parser.add_argument("--jobs", type=int, default=benchmark.jobs, help=jobs_help)
    parser.add_argument("--runs", default=f"runs/{name}", help="where the students are kept")
    parser.add_argument("--output", default=f"results/{name}")
    add_help = "to what --output has of methods, seeds and samplers, which is not done again"
    parser.add_argument("--add", action="store_true", help=add_help)
    parser.add_argument("--table", action="store_true", help="put together what is there, no more")
    parser.add_argument("--smoke", action="store_true", help="trainings of two steps, as a try")
    try:
        made_by(benchmark, parser.parse_args(arguments)).make()
    except Refused as error:
        sys.exit(f"error: {error}")
