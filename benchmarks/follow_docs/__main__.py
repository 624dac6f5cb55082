"""Runs every block of README and docs, as a reader would: python -m benchmarks.follow_docs --help

Each page is followed from its top in a fresh clone of this repository and, with --host, of real
checkouts. What cannot run here word for word is made small, or left out with its reason, by the
table in rules.py. Results are in OUTPUT/results.json and table.md after each command; what has run
is not run again while its text stays the same. Exits with 1 if a command failed.
"""

import argparse
import importlib.metadata
import json
import platform
import shlex
import signal
import sys
import time
from pathlib import Path

from benchmarks.follow_docs import scratch, table
from benchmarks.follow_docs.blocks import PAGES
from benchmarks.follow_docs.steps import name_of, plan
from duo_ext import host
from duo_ext.commands.line import one_sentence
from duo_ext.files import write_whole
from duo_ext.hosting import trees
from duo_ext.machine import hardware
from sedd_ext import host as sedd_host

TAIL = 2000  # characters of what a failed command printed
LANGUAGES = ("bash", "python")
PACKAGES = ("torch", "lightning", "transformers", "hydra-core", "datasets")


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.follow_docs", description=__doc__.split("\n\n")[1]
    )
    parser.add_argument("--host", nargs="+", default=[], metavar="PATH", help="checkouts as well")
    parser.add_argument("--pages", nargs="+", metavar="FILE", help="by default all")
    whole = "run as written, however long it takes, what this finds in 'PAGE: COMMAND'"
    parser.add_argument("--whole", metavar="REGEX", help=whole)
    parser.add_argument("--seconds", type=float, default=3600, help="that a command has")
    parser.add_argument("--runs", default="runs/follow_docs", help="clones and what they make")
    parser.add_argument("--output", default="results/follow_docs", metavar="FOLDER")
    return parser.parse_args(arguments)


def named(paths):
    """{name: root} of checkouts."""
    found = {}
    for path in paths:
        root = Path(path).expanduser().absolute()
        finder = sedd_host if not trees.lacking(root, sedd_host.FILES) else host
        found[finder.find(root).name] = root
    return found


class Follower:
    """Runs steps and keeps their rows."""

    def __init__(self, options):
        self.options, self.hosts = options, named(options.host)
        self.place = scratch.Scratch(options.runs, self.hosts)
        chosen = [Path(page).absolute() for page in options.pages or PAGES]
        pages = [*PAGES, *(page for page in chosen if page not in PAGES)]
        self.all = plan(pages, self.hosts, options.whole)
        names = [name_of(page) for page in chosen]
        self.steps = [step for step in self.all if step.page in names]
        self.path = Path(options.output) / "results.json"
        self.rows = json.loads(self.path.read_text())["rows"] if self.path.exists() else []

    def row(self, step):
        """The row of a step, as it ran before if it did."""
        same = step.identity.items()
        found = next((row for row in self.rows if same <= row.items()), None)
        ended = ("commit", "seconds", "error")
        return step.row | {key: found[key] for key in ended if found and key in found}

    def follow(self):
        """Run what has not run; whether nothing failed."""
        self.place.open()
        self.write()
        groups = {}
        for step in self.steps:
            groups.setdefault((step.tree, step.page, step.side), []).append(step)
        for where, group in groups.items():
            self.follow_page(where, group)
        return not any(self.row(step)["error"] for step in self.steps)

    def follow_page(self, where, group):
        """Run those of a page's steps in one folder; all of them, if the folder is lost."""
        missing = [step for step in group if self.row(step)["error"]]
        if missing and where[0] and not self.place.place(*where).exists():
            missing = group
        if missing and where[0]:
            self.place.ready(*where)
        for step in missing:
            at = f"[{self.steps.index(step) + 1}/{len(self.steps)}] {step.tree or '-'} {step.page}"
            print(f"{at}: {table.short(step.text)}", file=sys.stderr, flush=True)
            row = self.run(step)
            end = row["error"] or f"{row['seconds']} s"
            print(f"  {step.how}: {end}", file=sys.stderr, flush=True)
            self.keep(step, row)

    def run(self, step):
        """The row of a step, with an error where it failed."""
        row = step.row | {"commit": trees.own_commit(), "error": None}
        if step.language not in LANGUAGES:
            return row | {"error": f"a block of {step.language} is neither run nor in the table"}
        if "$OWT" in step.ran:
            self.place.stand_ins()
        where = (step.tree, step.page, step.side)
        printed = self.place.place(*where).with_name(f"{step.side}-{step.number}.txt")
        block = printed.with_suffix(".py")
        printed.parent.mkdir(parents=True, exist_ok=True)
        block.write_text(f"{step.text}\n", encoding="utf-8")
        environment = self.place.environment(*where) | {"BLOCK": str(block)}
        start = time.perf_counter()
        place = self.place.place(*where)
        code = scratch.run(step.ran, place, environment, printed, self.options.seconds)
        row["seconds"] = round(time.perf_counter() - start, 1)
        if code:
            told = printed.read_text(errors="replace")[-TAIL:]
            row["error"] = self.place.masked(f"exit code {code}: {told}")
        return row

    def keep(self, step, row):
        """Put a row in the place of its like."""
        same = step.identity.items()
        self.rows = [other for other in self.rows if not same <= other.items()] + [row]
        self.write()

    def write(self):
        """Write table and JSON, with what is still to be run."""
        write_whole(self.path, (json.dumps(self.results(), indent=1) + "\n").encode())
        write_whole(self.path.with_name("table.md"), table.page(self.results()).encode())

    def results(self):
        words = ["--host", *["PATH"] * len(self.hosts)] if self.hosts else []
        words += ["--whole", self.options.whole] if self.options.whole else []
        return {
            "rows": [self.row(step) for step in self.all],
            "trees": {name: trees.commit(root) for name, root in self.hosts.items()},
            "commit": trees.own_commit(),
            "hardware": hardware("cpu"),
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "command": shlex.join(["python", "-m", "benchmarks.follow_docs", *words]),
        }


def main(arguments=None):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # what it has started ends too
    follower = Follower(parse(arguments))
    held = follower.follow()
    print(f"written: {follower.path}", file=sys.stderr)
    return int(not held)


if __name__ == "__main__":
    with one_sentence():
        sys.exit(main())
