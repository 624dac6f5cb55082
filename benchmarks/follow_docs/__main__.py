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
import re
import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.follow_docs import rules, scratch
from benchmarks.follow_docs.blocks import PAGES, ROOT, blocks, commands
from duo_ext import host
from duo_ext.commands.line import one_sentence
from duo_ext.files import write_whole
from duo_ext.hosting import trees
from duo_ext.machine import hardware
from duo_ext.report.tables import markdown
from sedd_ext import host as sedd_host

TAIL = 2000  # characters of what a failed command printed
PACKAGES = ("torch", "lightning", "transformers", "hydra-core", "datasets")
AS_WRITTEN, SMALL, NOT_RUN = "as written", "small", "not run"

HEAD = """# README and docs, followed

`{command}`

Every block of code in README, docs and results/README.md, run page by page in fresh clones: {ran}
commands in {trees}; {failed} failed. {hardware}, Python {python}, {versions}, commit {commit}.

Seconds on the wall, beside other work. A command runs in the trees of its program.

"""


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.follow_docs", description=__doc__.split("\n\n")[1]
    )
    parser.add_argument("--host", nargs="+", default=[], metavar="PATH", help="checkouts as well")
    parser.add_argument("--pages", nargs="+", metavar="FILE", help="by default all")
    parser.add_argument(
        "--whole", metavar="REGEX", help="run these as written, however long they take"
    )
    parser.add_argument("--seconds", type=float, default=3600, help="that a command has")
    parser.add_argument("--runs", default="runs/follow_docs", help="clones and what they make")
    parser.add_argument("--output", default="results/follow_docs", metavar="FOLDER")
    return parser.parse_args(arguments)


@dataclass(frozen=True)
class Step:
    """A command, or a block of another language, in one tree. ``text`` is as the page has it,
    ``ran`` as it is run; ``tree`` is None where it cannot be."""

    page: str
    block: int
    number: int
    language: str
    text: str
    tree: str | None
    rule: rules.Rule
    reason: str = ""

    @property
    def command(self):
        return "python $BLOCK" if self.language == "python" else self.text

    @property
    def ran(self):
        return self.rule.applied(self.command)

    @property
    def how(self):
        if self.reason:
            return NOT_RUN
        return AS_WRITTEN if self.ran == self.command else SMALL

    @property
    def side(self):
        return "sedd" if rules.OURS_OF_SEDD.search(self.text) else "duo"

    @property
    def identity(self):
        """By which a result is found again."""
        keys = ("page", "text", "tree", "ran")
        return {key: getattr(self, key) for key in keys}

    @property
    def row(self):
        told = {"how": self.how, "changed": self.rule.told, "reason": self.reason}
        place = {"block": self.block, "number": self.number, "language": self.language}
        return self.identity | place | told


# what is to be done ------------------------------------------------------------------------------


def texts(page):
    """[(number of the block, language, command or block)] of a page."""
    for block, (language, text) in enumerate(blocks(page), 1):
        for part in commands(text) if language == "bash" else [text.strip()]:
            yield block, language, part


def plan(pages, hosts, whole):
    """All steps, tree by tree and page by page."""
    found = []
    for page in pages:
        for number, (block, language, text) in enumerate(texts(page)):
            step = Step(_name(page), block, number, language, text, None, rules.AS_WRITTEN)
            found += in_trees(step, hosts, whole)
    order = (*rules.TREES, None)
    return sorted(found, key=lambda step: order.index(step.tree))


def _name(page):
    return page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name


def in_trees(step, hosts, whole):
    """A step in each tree in which it runs, or once with the reason why it does not."""
    rule, given = rules.rule_for(step.text), (rules.STANDALONE, *hosts)
    wanted = [tree for tree in rules.trees_of(step.text) if tree in given]
    missing = [tree for tree in rule.needs or rules.trees_of(step.text)[:1] if tree not in given]
    if whole and re.search(whole, step.text):
        rule = replace(rule, added="", replaced=(), reason="")
    if rule.reason:
        return [replace(step, rule=rule, reason=rule.reason)]
    if not wanted or (rule.needs and missing):
        return [replace(step, rule=rule, reason=f"--host gave no {', '.join(missing)}")]
    return [replace(step, rule=rule, tree=tree) for tree in wanted]


def named(paths):
    """{name: root} of checkouts."""
    found = {}
    for path in paths:
        root = Path(path).expanduser().absolute()
        finder = sedd_host if not trees.lacking(root, sedd_host.FILES) else host
        found[finder.find(root).name] = root
    return found


# doing it ----------------------------------------------------------------------------------------


class Follower:
    """Runs steps and keeps their rows."""

    def __init__(self, options):
        self.options, self.hosts = options, named(options.host)
        self.place = scratch.Scratch(options.runs, self.hosts)
        chosen = [Path(page).absolute() for page in options.pages or PAGES]
        pages = [*PAGES, *(page for page in chosen if page not in PAGES)]
        self.all = plan(pages, self.hosts, options.whole)
        names = [_name(page) for page in chosen]
        self.steps = [step for step in self.all if step.page in names]
        self.path = Path(options.output) / "results.json"
        self.rows = json.loads(self.path.read_text())["rows"] if self.path.exists() else []

    def row(self, step):
        """The row of a step that ran before, or None."""
        same = step.identity.items()
        found = next((row for row in self.rows if same <= row.items()), None)
        return found and found | step.row

    def follow(self):
        """Run what has not run; whether nothing failed."""
        self.place.open()
        groups = {}
        for step in self.steps:
            groups.setdefault((step.tree, step.page, step.side), []).append(step)
        for where, group in groups.items():
            self.follow_page(where, group)
        return not any(self.row(step)["error"] for step in self.steps)

    def follow_page(self, where, group):
        """Run those of a page's steps in one folder; all of them, if the folder is lost."""
        missing = [s for s in group if (self.row(s) or {"error": "not run"})["error"]]
        if missing and where[0] and not self.place.place(*where).exists():
            missing = group
        if missing and where[0]:
            self.place.ready(*where)
        for step in missing:
            at = f"[{self.steps.index(step) + 1}/{len(self.steps)}] {step.tree or '-'} {step.page}"
            print(f"{at}: {short(step.text)}", file=sys.stderr, flush=True)
            row = self.run(step)
            end = row["error"] or step.reason or f"{row['seconds']} s"
            print(f"  {step.how}: {end}", file=sys.stderr, flush=True)
            self.keep(step, row)

    def run(self, step):
        """The row of a step, with an error where it failed."""
        row = step.row | {"seconds": None, "error": None}
        if step.reason:
            return row
        if step.language not in ("bash", "python"):
            return row | {"error": f"a block of {step.language} is neither run nor in the table"}
        if "$STANDINS" in step.ran:
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
        """Put a row in the place of its like, and write table and JSON."""
        same = step.identity.items()
        self.rows = [other for other in self.rows if not same <= other.items()] + [row]
        write_whole(self.path, (json.dumps(self.results(), indent=1) + "\n").encode())
        write_whole(self.path.with_name("table.md"), page(self.results()).encode())

    def results(self):
        words = ["PATH" if word in self.options.host else word for word in sys.argv[1:]]
        return {
            "rows": [row for row in map(self.row, self.all) if row],
            "trees": {name: trees.commit(root) for name, root in self.hosts.items()},
            "commit": trees.own_commit(),
            "hardware": hardware("cpu"),
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "command": shlex.join(["python", "-m", "benchmarks.follow_docs", *words]),
        }


# the table ---------------------------------------------------------------------------------------


def page(results):
    """The table as Markdown: a line a command, its seconds in each tree."""
    lines = {}
    for row in results["rows"]:
        line = lines.setdefault((row["page"], row["number"]), {})
        line[row["tree"]] = row
    columns = [rules.STANDALONE, *results["trees"]]
    body = [_line(line, columns) for _, line in sorted(lines.items(), key=_order)]
    ran = [row for row in results["rows"] if row["how"] != NOT_RUN]
    commits = [f"{name} {(at or '')[:7]}".strip() for name, at in results["trees"].items()]
    head = HEAD.format(
        **results
        | {
            "ran": len(ran),
            "failed": sum(bool(row["error"]) for row in results["rows"]),
            "trees": ", ".join([rules.STANDALONE, *commits]),
            "versions": ", ".join(f"{k} {v}" for k, v in results["versions"].items()),
            "commit": results["commit"][:7],
        }
    )
    table = markdown(["page", "command", "how", *columns], body, words=3)
    return f"{head}{table}\n{_legend()}"


def _order(item):
    names = [_name(page) for page in PAGES]
    (page, number), _ = item
    return (names.index(page) if page in names else -1, number)


def _line(line, columns):
    row = next(iter(line.values()))
    told = {AS_WRITTEN: "", SMALL: row["changed"], NOT_RUN: row["reason"]}[row["how"]]
    how = f"{row['how']}: {told}" if told else row["how"]
    cells = [row["page"], f"`{short(row['text'])}`", how]
    return [_escaped(cell) for cell in cells] + [_cell(line.get(tree)) for tree in columns]


def _cell(row):
    if row is None:
        return ""
    return "FAILED" if row["error"] else f"{row['seconds']:.0f}"


def _escaped(text):
    return text.replace("|", "\\|")


def short(text, width=90):
    """A command on one line, its end cut off."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[:width]}..."


def _legend():
    """What the words of rules.py stand for, and what was there before a page was begun."""
    words = [f"- `${name}`: `{words}`" for name, words in rules.WORDS.items()]
    words += [f"- `{name}`: {meaning}" for name, meaning in rules.MEANINGS.items()]
    bound = [
        f"- {page}: `{name}` is a copy of `{source}`"
        for page, given in rules.BOUND.items()
        for name, source in given.items()
    ]
    parts = ("Words above:", "", *words, "", "There before a page is begun:", "", *bound)
    return "\n".join(parts) + "\n"


def main(arguments=None):
    follower = Follower(parse(arguments))
    held = follower.follow()
    print(f"written: {follower.path}", file=sys.stderr)
    return int(not held)


if __name__ == "__main__":
    with one_sentence():
        sys.exit(main())
