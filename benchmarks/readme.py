"""The tables of README.md, results/README.md and docs, and a figure: python -m benchmarks.readme

They are of results/: GenPPL at equal entropy, and what else is measured at temperature 1, means
over the seeds. A page's table is known by its head, and a new one takes its place.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks import adapters
from duo_ext.files import write_whole
from duo_ext.report.compare import plain, seeds_joined
from duo_ext.report.equal_entropy import DRAWN, comparisons, draw_plain
from duo_ext.report.figures import blank, dress, figure, line_style, with_interval
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
    """A folder of results: ``students`` are each teacher's students in the tables, ``beside`` what
    is told of them besides GenPPL at equal entropy, ``combed`` the teachers that are sampled by
    comb there, and their students; the others by spread."""

    folder: str
    students: dict[str, tuple[str, ...]]
    beside: dict[str, tuple[str, str]]
    combed: tuple[str, ...] = ()

    @property
    def results(self):
        return load(str(RESULTS / self.folder))

    @property
    def rows(self):
        return self.results["rows"]

    def sampler(self, teacher):
        """The sampler of the core by which a teacher and its students are in the tables."""
        return "comb" if teacher in self.combed else "spread"


CHARACTERS = Study(
    "sotu32",
    {
        "MDLM": ("IDLM-MDLM",),
        "Duo": ("IDLM-Duo",),
        "Duo-DCD": ("IDLM-DCD",),
        "SEDD": ("IDLM-SEDD",),
    },
    {
        "unigram KL": ("unigram_kl", ".4f"),
        "bigram TV": ("bigram_tv", ".3f"),
        "energy distance": ("energy", ".4f"),
        "MAUVE": ("mauve", ".2f"),
        **WORDS,
    },
    combed=("MDLM", "SEDD"),
)
TOKENS = Study(
    "sotu_bpe_cpu",
    {"MDLM": ("IDLM-MDLM",), "Duo": ("IDLM-Duo",)},
    {"unigram KL": ("unigram_kl", ".3f"), "MAUVE": ("mauve", ".2f"), **WORDS},
    combed=("MDLM",),
)
ADAPTERS = Study(
    "adapters",
    {
        family: tuple(m.name for m in adapters.METHODS if m.family == family and m.train)
        for family in adapters.FULL
    },
    {"unigram KL": ("unigram_kl", ".4f"), "bigram TV": ("bigram_tv", ".3f"), **WORDS},
)


def main_table(study, rows, wanted):
    """Markdown: for each number of evaluations in ``wanted``, {evaluations: steps of the plain
    teacher}, the plain teachers, the same by the study's sampler, and the students by it, all at
    the plain teachers' entropies."""
    groups, body = _groups(rows), []
    for evaluations, steps in wanted.items():
        teachers = [groups[teacher][0][steps] for teacher in study.students]
        body.append([f"teacher, {steps} steps", teachers[0]["evaluations"], *map(_row, teachers)])
        for label, names in (
            ("teacher, same sampler", study.students),
            ("**student**", [student for (student,) in study.students.values()]),
        ):
            found = [
                _moved(groups[teacher][1], name, study.sampler(teacher), evaluations, steps)
                for teacher, name in zip(study.students, names, strict=True)
            ]
            body.append([label, evaluations, *found])
    return markdown(["", "evaluations", *study.students], body)


def beside_table(study, rows):
    """Markdown: the other statistics of each plain teacher in 64 steps, of the same in 4 by the
    study's sampler, and of the student by it in 4 and 8."""
    told, body = _others(study, rows), []
    for teacher, (student,) in study.students.items():
        sampler = study.sampler(teacher)
        for label, *key in (
            (f"{teacher}, plain", teacher, "host", 64),
            (f"{teacher}, {sampler}", teacher, sampler, 4),
            (f"{student}, {sampler}", student, sampler, 4),
            (f"{student}, {sampler}", student, sampler, 8),
        ):
            body.append([label, *told(*key)])
    return markdown(["", "evaluations", *study.beside], body, words=1)


def lines_table(study, rows):
    """Markdown, a line for each model: GenPPL in 5 and 9 evaluations at the entropy of the plain
    teacher in 64 steps, and the other statistics in 5, of the plain teacher in 65."""
    groups, told, body = _groups(rows), _others(study, rows), []
    for teacher, students in study.students.items():
        (references, own), sampler = groups[teacher], study.sampler(teacher)
        evaluations, *others = told(teacher, "host", 64)
        body.append([f"{teacher}, plain in {evaluations}", _row(references[64]), "", *others])
        named = {f"{teacher}, same sampler": teacher, **{name: name for name in students}}
        for label, name in named.items():
            moved = [_moved(own, name, sampler, evaluations, 64) for evaluations in (5, 9)]
            body.append([label, *moved, *told(name, sampler, 4)[1:]])
    return markdown(["", "GenPPL in 5", "in 9", *study.beside], body, words=1)


def plot(study):
    """A panel for each teacher, GenPPL over evaluations at its entropy in 64 plain steps: itself,
    plain and by the study's sampler, and its student by it."""
    results = study.results
    groups, drawing = _groups(results["rows"]), blank(3 * len(study.students), 3.6)
    panels = drawing.subplots(1, len(study.students), sharey=True, squeeze=False)[0]
    for axes, (teacher, (student,)) in zip(panels, study.students.items(), strict=True):
        (references, own), sampler = groups[teacher], study.sampler(teacher)
        draw_plain(axes, results["rows"], references[DRAWN], "teacher, plain")
        for index, (label, name) in enumerate((("teacher", teacher), ("student", student))):
            points = [(m.evaluations, *m.at[DRAWN][:3]) for m in _line(own, name, sampler)]
            style = line_style(index, label)
            with_interval(axes, *zip(*points, strict=True), f"{label}, few-step sampler", style)
        dress(axes, "evaluations", f"GenPPL under {results['judge']['name']}", teacher)
        axes.label_outer()
    handles = panels[0].get_legend_handles_labels()
    drawing.legend(*handles, loc="outside lower center", ncols=4, frameon=False)
    return drawing


def _groups(rows):
    """{teacher: (its plain rows by steps, what is compared with them)}."""
    return {
        own[0].teacher: (references, own)
        for references, own in comparisons(rows)
        if {row["noise_removal"] for row in references.values()} == {"ancestral"}
    }


def _row(row):
    return _cell(*(row[key] for key in ("genppl", "genppl_low", "genppl_high")))


def _moved(own, name, sampler, evaluations, steps):
    """The cell of a model by a sampler."""
    (found,) = (m for m in _line(own, name, sampler) if m.evaluations == evaluations)
    return _cell(*found.at[steps][:3])


def _line(own, name, sampler):
    """What is compared of a model by a sampler, by evaluations."""
    return [m for m in own if m.name == name and m.sampler.startswith(sampler)]


def _cell(value, low, high):
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _others(study, rows):
    """told(name, sampler, steps): evaluations and the other statistics, at temperature 1."""
    found = {
        (row["name"], row["sampler"], row["steps"]): row
        for row in plain(seeds_joined(rows))
        if row["noise_removal"] == "ancestral"
    }

    def told(*key):
        row = found[key]
        return [row["evaluations"], *(number(row[own], as_) for own, as_ in study.beside.values())]

    return told


def of_steps(wanted):
    return functools.partial(main_table, wanted=wanted)


PAGES = (  # page, study, its tables there
    (ROOT / "README.md", CHARACTERS, (of_steps({5: 64}),)),
    (RESULTS / "README.md", CHARACTERS, (of_steps({3: 16, 4: 128, 5: 64, 9: 128}), beside_table)),
    (RESULTS / "README.md", TOKENS, (of_steps({3: 16, 5: 64, 9: 128}), beside_table)),
    (ROOT / "docs" / "adapters.md", ADAPTERS, (lines_table,)),
)


def page(text, study, rows, tables):
    """The page ``text`` with the tables of these rows in the place of those with their heads."""
    for table in tables:
        made = table(study, rows)
        head = "".join(made.splitlines(keepends=True)[:2])
        text = re.sub(rf"{re.escape(head)}(\|.*\n)*", lambda _, made=made: made, text)
    return text


if __name__ == "__main__":
    for path, study, tables in PAGES:
        write_whole(str(path), page(path.read_text(), study, study.rows, tables).encode())
    figure(plot(CHARACTERS), str(RESULTS / CHARACTERS.folder / "few_steps.png"))
