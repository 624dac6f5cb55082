"""The tables of README.md and results/README.md, from results/: python -m benchmarks.readme

GenPPL at equal entropy, and what else is measured at temperature 1: means over the seeds, in the
place of the tables that are there.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from duo_ext.files import write_whole
from duo_ext.report.compare import plain, seeds_joined
from duo_ext.report.equal_entropy import comparisons
from duo_ext.report.results import load
from duo_ext.report.tables import markdown, number

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
WORDS = {  # column: (key of a row, format)
    "known words": ("known_words", ".3f"),
    "known long words": ("known_long_words", ".3f"),
    "word length": ("word_length", ".2f"),
}


@dataclass(frozen=True)
class Study:
    """A folder of results and its two tables, which are known by their heads: ``students`` are the
    teachers that are the columns of the first and their students, ``beside`` what is in the second.
    """

    folder: str
    students: dict[str, str]
    beside: dict[str, tuple[str, str]]

    @property
    def columns(self):
        return ["", "evaluations", *self.students]

    @property
    def columns_beside(self):
        return ["", "evaluations", *self.beside]

    @property
    def rows(self):
        return load(str(RESULTS / self.folder))["rows"]


CHARACTERS = Study(
    "sotu32",
    {"MDLM": "IDLM-MDLM", "Duo": "IDLM-Duo", "Duo-DCD": "IDLM-DCD", "SEDD": "IDLM-SEDD"},
    {"bigram TV": ("bigram_tv", ".3f"), "energy distance": ("energy", ".4f"), **WORDS},
)
TOKENS = Study(
    "sotu_bpe_cpu",
    {"MDLM": "IDLM-MDLM", "Duo": "IDLM-Duo"},
    {"unigram KL": ("unigram_kl", ".3f"), "MAUVE": ("mauve", ".2f"), **WORDS},
)
PAGES = (  # page, study, and what is in its main table: {evaluations: steps of the plain teacher}
    (ROOT / "README.md", CHARACTERS, {5: 64}),
    (RESULTS / "README.md", CHARACTERS, {5: 64, 9: 128}),
    (RESULTS / "README.md", TOKENS, {3: 16, 5: 64, 9: 128}),
)


def main_table(study, rows, wanted):
    """Markdown: for each number of evaluations the plain teachers, the same by the sampler of
    their students, and the students, all at the plain teachers' entropies."""
    groups = {
        own[0].teacher: (references, own)
        for references, own in comparisons(rows)
        if {row["noise_removal"] for row in references.values()} == {"ancestral"}
    }
    body = []
    for evaluations, steps in wanted.items():
        teachers = [groups[teacher][0][steps] for teacher in study.students]
        body.append([f"teacher, {steps} steps", teachers[0]["evaluations"], *map(_row, teachers)])
        for label, names in (
            ("teacher, same sampler", study.students.keys()),
            ("**student**", study.students.values()),
        ):
            found = [
                _moved(groups[teacher][1], name, evaluations, steps)
                for teacher, name in zip(study.students, names, strict=True)
            ]
            body.append([label, evaluations, *found])
    return markdown(study.columns, body)


def _row(row):
    return _cell(*(row[key] for key in ("genppl", "genppl_low", "genppl_high")))


def _moved(own, name, evaluations, steps):
    """The cell of a model by the sampler that students are trained for; empty for a student of
    which there is no row yet."""
    if name not in {moved.name for moved in own}:
        return ""
    wanted = (name, evaluations, True)
    (found,) = (
        moved
        for moved in own
        if (moved.name, moved.evaluations, moved.sampler.startswith("spread")) == wanted
    )
    return _cell(*found.at[steps][:3])


def _cell(value, low, high):
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def beside_table(study, rows):
    """Markdown: the other statistics of each plain teacher in 64 steps, of the same in 4 by the
    sampler of its student, and of the student in 4 and 8."""
    found = {
        (row["name"], row["sampler"], row["steps"]): row
        for row in plain(seeds_joined(rows))
        if row["noise_removal"] == "ancestral"
    }

    def line(label, *key):
        row = found[key]
        numbers = [number(row[own], spec) for own, spec in study.beside.values()]
        return [label, row["evaluations"], *numbers]

    body = []
    for teacher, student in study.students.items():
        body += [
            line(f"{teacher}, plain", teacher, "host", 64),
            line(f"{teacher}, the student's sampler", teacher, "spread", 4),
            *(
                line(student, student, "spread", steps)
                for steps in (4, 8)
                if (student, "spread", steps) in found
            ),
        ]
    return markdown(study.columns_beside, body, words=1)


def page(text, study, rows, wanted):
    """The page ``text`` with the tables of these rows, where it has them."""
    made = {
        markdown(study.columns, []): lambda: main_table(study, rows, wanted),
        markdown(study.columns_beside, [], words=1): lambda: beside_table(study, rows),
    }
    for head, table in made.items():
        text = re.sub(rf"{re.escape(head)}(\|.*\n)*", lambda _, table=table: table(), text)
    return text


if __name__ == "__main__":
    for path, study, wanted in PAGES:
        write_whole(str(path), page(path.read_text(), study, study.rows, wanted).encode())
