"""The published recipes at full size on a CPU: python -m benchmarks.full_size --help

Each experiment owt_idlm_* and tinygsm_idlm_* goes through the user's command line with 170 million
parameters, V = 50258, L = 1024 or 512, a batch of one text, in float32: the teacher sampled, two
pairs, a look at the student, a save; then, by the same command, resumed for a third pair. A phase's
seconds and peak memory are in OUTPUT/results.json and table.md after each recipe. What the commit
at hand has measured is not measured again.
"""

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import published, stopwatch
from duo_ext import host
from duo_ext.data import corpus
from duo_ext.files import write_whole
from duo_ext.hosting import trees
from duo_ext.machine import hardware
from sedd_ext import host as sedd_host

GB = 1e9
PAIRS = 2  # of the first command; the second does one more


@dataclass(frozen=True)
class Recipe:
    """A program and its teacher. ``common`` are overrides in which {text}, {tokenizer}, {judge},
    {teacher}, {folder} and others stand for paths; ``pairs`` is the key of how many, ``length`` is
    that of its texts."""

    program: str
    teacher: str
    common: tuple
    pairs: str
    length: int = 1024


LOOK = ("every={pairs}", "samples=4", "steps=[1]", "teacher_steps=2")
LOOK = tuple(f"algo.guard.{setting}" for setting in LOOK)
DUO = (
    *(*published.DUO_PATHS, "hydra.run.dir={folder}/run", "+machine=cpu", *LOOK),
    *("loader.global_batch_size=1", "loader.batch_size=1", "loader.eval_batch_size=1"),
    "eval.perplexity_batch_size=1",
)
PAIRED = tuple(word for word in DUO if not word.startswith(("data=", "data.train=")))
PAIRED += ("data.train={tinygsm}", "data.valid={tinygsm}")
SEDD = (
    *(*published.SEDD_PATHS, "hydra.run.dir={folder}/run", "+machine=cpu", *LOOK),
    *("training.batch_size=1", "++training.micro_batch=1", "eval.batch_size=1"),
    "eval.perplexity_batch_size=1",
)
RECIPES = {
    "owt_idlm_mdlm": Recipe("duo_ext", "mdlm-owt", DUO, "trainer.max_steps"),
    "owt_idlm_duo": Recipe("duo_ext", "duo.ckpt", DUO, "trainer.max_steps"),
    "owt_idlm_dcd": Recipe("duo_ext", "duo-dcd.ckpt", DUO, "trainer.max_steps"),
    "owt_idlm_sedd": Recipe("sedd_ext", "sedd-small", SEDD, "training.n_iters"),
    "tinygsm_idlm_mdlm": Recipe("duo_ext", "mdlm-owt", PAIRED, "trainer.max_steps", 512),
    "tinygsm_idlm_duo": Recipe("duo_ext", "duo.ckpt", PAIRED, "trainer.max_steps", 512),
}
PAIR = ("fake update", "student update")
EXPECTED = {
    "first": {"fake update": PAIRS, "student update": PAIRS, "look": 1, "the teacher's samples": 1},
    "resumed": {"fake update": 1, "student update": 1, "look": 0},
}

HEAD = """# The published recipes at full size, on a CPU

`{command}`

{size}. Float32, micro-batches and batch of one text, {hardware}. Each recipe is the user's command
line, `python -m {{duo_ext, sedd_ext}} +experiment=...`, run twice in one folder: the teacher
sampled, two pairs, a look at the student, a save; then resumed for a third pair and a save. Weights
are random, so losses and samples mean nothing, and a wrong number is only one that is not finite.

What a missing hub and a CPU force is overridden, nothing else: text, its folder of tokens and a
byte-level BPE of GPT-2's size (data.*); a teacher of random weights in the published layout; a
judge of two layers of width 64; machine=cpu (float32 where the recipes say bf16); a batch of 1;
{pairs} pairs and one more; looks at 4 samples, the teacher's at 2 steps, the student's at 1, a text
at a time. A pair is of one text: the published one is of 512.

Seconds on the wall of each phase; other work on the machine lengthens them, but not the CPU seconds
that results.json has beside them (not of the first rows). In brackets the most memory that the
process held in it (resource.getrusage), GB. Set-up: imports, text, networks; resumed: with the
checkpoint read.

| recipe | host | commit | set-up | {columns} | resumed: set-up | pair | save | most memory |
|---|---|---|---:|{rules}---:|---:|---:|---:|
"""
PHASES = ("the teacher's samples", "fake update", "student update", "look", "save")


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.full_size", description=__doc__.split("\n\n")[1]
    )
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--host", metavar="PATH", help="a checkout of Duo or SEDD")
    parser.add_argument("--runs", default="runs/full_size", help="teachers and run folders")
    parser.add_argument("--keep", action="store_true", help="keep teachers and checkpoints")
    parser.add_argument("--again", action="store_true", help="measure also what is there")
    parser.add_argument("--rank", type=int, default=0, help="of adapters; 0: full networks")
    parser.add_argument("--small", action="store_true", help="a network of width 32, to try it")
    parser.add_argument("--output", default="results/full_size", metavar="FOLDER")
    return parser.parse_args(arguments)


class Runner:
    """Runs recipes and keeps their rows."""

    def __init__(self, options):
        self.options, self.path = options, Path(options.output) / "results.json"
        self.folder = Path(options.runs).absolute()
        self.shape = published.SMALL if options.small else published.Shape()
        self.rows = json.loads(self.path.read_text())["rows"] if self.path.exists() else []

    def done(self, name):
        """Whether this commit has measured it, at this size."""
        made = self._identity(name) | {"commit": trees.own_commit(), "error": None}
        alike = (row for row in self.rows if row.get("rank") == made.get("rank"))
        return any(made.items() <= row.items() for row in alike)

    def _identity(self, name):
        tree = self._tree(RECIPES[name]).name
        of_adapters = {"rank": self.options.rank} if self.options.rank else {}
        return {"recipe": name, "host": tree, "small": self.options.small} | of_adapters

    def _tree(self, recipe):
        """The tree in which a recipe runs."""
        finder = sedd_host if recipe.program == "sedd_ext" else host
        return finder.find(self.options.host or finder.STANDALONE)

    def run(self, name):
        """Measure a recipe; its row, which holds an error where it failed."""
        recipe, place = RECIPES[name], self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        paths = published.make_common(self.folder) | {"folder": place}
        paths["tinygsm"] = published.make_problems(self.folder) / "tinygsm.jsonl"
        length = {} if self.options.small else {"length": recipe.length}
        shape = dataclasses.replace(self.shape, **length)
        paths["teacher"] = published.make_teacher(self.folder, recipe.teacher, shape)
        row = self._identity(name) | self._made() | {"error": None}
        for part, pairs in (("first", PAIRS), ("resumed", PAIRS + 1)):
            if not row["error"]:
                row |= self._command(name, part, pairs, paths)
        if not self.options.keep:
            shutil.rmtree(place)
            _remove(paths["teacher"])
        return row

    def _made(self):
        return {
            "commit": trees.own_commit(),
            "hardware": hardware("cpu"),
            "torch": torch.__version__,
        }

    def _command(self, name, part, pairs, paths):
        """{part: what one command did, "error": why it failed or None}."""
        recipe = RECIPES[name]
        words = [f"+experiment={name}", *recipe.common, f"{recipe.pairs}={{pairs}}"]
        words = [word.format(pairs=PAIRS if "every" in word else pairs, **paths) for word in words]
        words += self.shape.words if self.options.small else []
        words += [f"algo.adapter.rank={self.options.rank}"] if self.options.rank else []
        watched, printed = paths["folder"] / f"{part}.jsonl", paths["folder"] / f"{part}.printed"
        command = ["-m", "benchmarks.stopwatch", str(watched), recipe.program]
        command += ["--host", str(self._tree(recipe).root)]
        print(f"{name}, {part}: {shlex.join(words)}", flush=True)
        environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | os.environ
        with printed.open("wb") as output:
            streams = {"stdout": output, "stderr": subprocess.STDOUT}
            code = subprocess.call([sys.executable, *command, *words], env=environment, **streams)
        laps = [json.loads(line) for line in watched.read_text().splitlines()]
        done = {"phases": _phases(laps), "logs": [lap["logs"] for lap in laps if lap["logs"]]}
        error = _wrong(code, done["phases"], part, printed)
        return {part: done, "error": error}

    def keep(self, row):
        """Put a row in the place of its like, and write table and JSON."""
        alike = ("recipe", "host", "small", "rank")
        others = [r for r in self.rows if any(r.get(key) != row.get(key) for key in alike)]
        self.rows = [*others, row]
        self.rows.sort(key=lambda r: (r["small"], r["host"] != "standalone", r["host"]))
        made = {"rows": self.rows, "command": "python -m benchmarks.full_size"}
        write_whole(str(self.path), (json.dumps(made, indent=1) + "\n").encode())
        write_whole(str(self.path.with_name("table.md")), page(made).encode())


def _phases(laps):
    """{phase: how often, seconds of all, most bytes}."""
    phases = {}
    for lap in laps:
        nothing = {"times": 0, "seconds": 0.0, "cpu_seconds": 0.0, "peak_bytes": 0}
        phase = phases.setdefault(lap["phase"], nothing)
        phase["times"] += 1
        phase["seconds"] += lap["seconds"]
        phase["cpu_seconds"] += lap["cpu_seconds"]
        phase["peak_bytes"] = max(phase["peak_bytes"], lap["peak_bytes"])
    return phases


def _wrong(code, phases, part, printed):
    """What went wrong in a command, or None."""
    if code:
        return f"{part}: exit code {code}\n{printed.read_text(errors='replace')[-1500:]}"
    counts = {name: phases.get(name, {"times": 0})["times"] for name in EXPECTED[part]}
    if counts != EXPECTED[part] or stopwatch.SAVE not in phases:
        return f"{part}: {counts}, wanted {EXPECTED[part]} and a save"
    return None


def _remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def page(results):
    """The table as Markdown."""
    rows = results["rows"]
    sizes = sorted({"width 32, 2 blocks, L = 64" if r["small"] else FULL for r in rows})
    head = HEAD.format(
        command=results["command"],
        size="; ".join(sizes),
        hardware=rows[0]["hardware"],
        pairs=PAIRS,
        columns=" | ".join(PHASES),
        rules="---:|" * len(PHASES),
    )
    return head + "".join(_line(row) for row in rows)


FULL = "12 blocks of width 768, V = 50258, L = 1024 (TinyGSM: 512): 170 million parameters"


def _line(row):
    name = f"{row['recipe']}, rank {row['rank']}" if row.get("rank") else row["recipe"]
    cells = [name, row["host"], row["commit"][:7]]
    if row["error"]:
        told = row["error"].strip().splitlines()
        return f"| {' | '.join([*cells, f'{told[0]}: {told[-1][:150]}'])} |\n"
    first, resumed = row["first"]["phases"], row["resumed"]["phases"]
    cells += [_cell(first, stopwatch.SETUP), *(_cell(first, phase) for phase in PHASES)]
    cells += [_cell(resumed, stopwatch.SETUP), _cell(resumed, *PAIR), _cell(resumed, "save")]
    most = max(p["peak_bytes"] for p in (*first.values(), *resumed.values()))
    return f"| {' | '.join(cells)} | {most / GB:.1f} |\n"


def _cell(phases, *names):
    """Seconds of one of each, and the most memory."""
    found = [phases[name] for name in names]
    seconds = sum(phase["seconds"] / phase["times"] for phase in found)
    return f"{seconds:.1f} [{max(phase['peak_bytes'] for phase in found) / GB:.1f}]"


def main(arguments=None):
    options = parse(arguments)
    host.find(host.STANDALONE).activate()  # its DIT has the published layout; hosts are children
    corpus.register_resolvers()
    runner, failed = Runner(options), 0
    for name in options.only:
        if not options.again and runner.done(name):
            print(f"{name}: measured")
            continue
        row = runner.run(name)
        runner.keep(row)
        failed += bool(row["error"])
        print(row["error"] or _line(row), flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
