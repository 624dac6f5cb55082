"""Results as Markdown: a line a command, its seconds in each tree, and what its words stand for."""

from benchmarks.follow_docs import rules
from benchmarks.follow_docs.blocks import PAGES
from benchmarks.follow_docs.steps import AS_WRITTEN, NOT_REACHED, NOT_RUN, SMALL, name_of
from duo_ext.report.tables import markdown

HEAD = """# README and docs, followed

`{command}`

Every block of code in README, docs and results/README.md, run page by page in fresh clones: {ran}
commands in {trees}; {failed} failed, {left} are still to be run. {hardware},
Python {python}, {versions}, commit {commit}.

Seconds on the wall, beside other work. A command runs in the trees of its program.

"""


def page(results):
    """The table as Markdown: a line a command, its seconds in each tree."""
    lines = {}
    for row in results["rows"]:
        line = lines.setdefault((row["page"], row["number"]), {})
        line[row["tree"]] = row
    columns = [rules.STANDALONE, *results["trees"]]
    body = [_line(line, columns) for _, line in sorted(lines.items(), key=_order)]
    told = [row["error"] for row in results["rows"] if row["how"] != NOT_RUN]
    left = told.count(NOT_REACHED)
    commits = [f"{name} {(at or '')[:7]}".strip() for name, at in results["trees"].items()]
    head = HEAD.format(
        **results
        | {
            "ran": len(told) - left,
            "failed": sum(bool(error) for error in told) - left,
            "left": left,
            "trees": ", ".join([rules.STANDALONE, *commits]),
            "versions": ", ".join(f"{k} {v}" for k, v in results["versions"].items()),
            "commit": results["commit"][:7],
        }
    )
    table = markdown(["page", "command", "how", *columns], body, words=3)
    return f"{head}{table}\n{_legend()}"


def _order(item):
    names = [name_of(page) for page in PAGES]
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
    if row["error"]:
        return "still to run" if row["error"] == NOT_REACHED else "FAILED"
    return f"{row['seconds']:.0f}"


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
