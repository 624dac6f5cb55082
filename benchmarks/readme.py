"""The tables of README.md and results/README.md, from results/sotu32: python -m benchmarks.readme

GenPPL at equal entropy, and what else is measured at temperature 1: means over the seeds, in the
place of the tables that are there.
"""

import re
from pathlib import Path

from duo_ext.files import write_whole
from duo_ext.report.compare import plain, seeds_joined
from duo_ext.report.equal_entropy import comparisons
from duo_ext.report.results import load
from duo_ext.report.tables import markdown, number

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "sotu32"
PAGES = {  # and what is in the main table of each: {evaluations: steps of the plain teacher}
    ROOT / "README.md": {5: 64},
    ROOT / "results" / "README.md": {5: 64, 9: 128},
}

STUDENTS = {"MDLM": "IDLM-MDLM", "Duo": "IDLM-Duo", "Duo-DCD": "IDLM-DCD", "SEDD": "IDLM-SEDD"}
COLUMNS = ["", "evaluations", *STUDENTS]
HEAD = markdown(COLUMNS, [])
BESIDE = {  # column: (key of a row, format)
    "bigram TV": ("bigram_tv", ".3f"),
    "energy distance": ("energy", ".4f"),
    "known words": ("known_words", ".3f"),
    "known long words": ("known_long_words", ".3f"),
    "word length": ("word_length", ".2f"),
}
COLUMNS_BESIDE = ["", "evaluations", *BESIDE]
HEAD_BESIDE = markdown(COLUMNS_BESIDE, [], words=1)


def main_table(rows, wanted):
    """Markdown: for each number of evaluations the plain teachers, the same by the sampler of
    their students, and the students, all at the plain teachers' entropies."""
    groups = {
        own[0].teacher: (references, own)
        for references, own in comparisons(rows)
        if {row["noise_removal"] for row in references.values()} == {"ancestral"}
    }
    body = []
    for evaluations, steps in wanted.items():
        teachers = [groups[teacher][0][steps] for teacher in STUDENTS]
        body.append([f"teacher, {steps} steps", teachers[0]["evaluations"], *map(_row, teachers)])
        for label, name in (("teacher, same sampler", None), ("**student**", STUDENTS)):
            found = [
                _moved(groups[teacher][1], name[teacher] if name else teacher, evaluations, steps)
                for teacher in STUDENTS
            ]
            body.append([label, evaluations, *found])
    return markdown(COLUMNS, body)


def _row(row):
    return _cell(*(row[key] for key in ("genppl", "genppl_low", "genppl_high")))


def _moved(own, name, evaluations, steps):
    """The cell of a model by the sampler that students are trained for."""
    wanted = (name, evaluations, True)
    (found,) = (
        moved
        for moved in own
        if (moved.name, moved.evaluations, moved.sampler.startswith("spread")) == wanted
    )
    return _cell(*found.at[steps][:3])


def _cell(value, low, high):
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def beside_table(rows):
    """Markdown: the other statistics of each plain teacher in 64 steps, of the same in 4 by the
    sampler of its student, and of the student in 4 and 8."""
    found = {
        (row["name"], row["sampler"], row["steps"]): row
        for row in plain(seeds_joined(rows))
        if row["noise_removal"] == "ancestral"
    }
    body = []
    for teacher, student in STUDENTS.items():
        body += [
            _beside(f"{teacher}, plain", found[teacher, "host", 64]),
            _beside(f"{teacher}, the student's sampler", found[teacher, "spread", 4]),
            *(_beside(student, found[student, "spread", steps]) for steps in (4, 8)),
        ]
    return markdown(COLUMNS_BESIDE, body, words=1)


def _beside(label, row):
    values = [number(row[key], spec) for key, spec in BESIDE.values()]
    return [label, row["evaluations"], *values]


def page(text, rows, wanted):
    """The page ``text`` with the tables of these rows, where it has them."""
    made = {HEAD: lambda: main_table(rows, wanted), HEAD_BESIDE: lambda: beside_table(rows)}
    for head, table in made.items():
        text = re.sub(rf"{re.escape(head)}(\|.*\n)*", lambda _, table=table: table(), text)
    return text


if __name__ == "__main__":
    rows = load(str(RESULTS))["rows"]
    for path, wanted in PAGES.items():
        write_whole(str(path), page(path.read_text(), rows, wanted).encode())
