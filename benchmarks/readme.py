"""The main table of README.md and results/README.md, from results/sotu32: python -m
benchmarks.readme

GenPPL at equal entropy, means over the seeds, in the place of the table that is there.
"""

import re
from pathlib import Path

from duo_ext.files import write_whole
from duo_ext.report.equal_entropy import comparisons
from duo_ext.report.results import load

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "sotu32"
PAGES = {  # and what is in the table of each: {evaluations: steps of the plain teacher}
    ROOT / "README.md": {5: 64},
    ROOT / "results" / "README.md": {5: 64, 9: 128},
}

STUDENTS = {"MDLM": "IDLM-MDLM", "Duo": "IDLM-Duo", "Duo-DCD": "IDLM-DCD", "SEDD": "IDLM-SEDD"}
HEAD = f"| | evaluations | {' | '.join(STUDENTS)} |\n|---|---:|{'---|' * len(STUDENTS)}\n"


def table(rows, wanted):
    """Markdown: for each number of evaluations the plain teachers, the same by the sampler of
    their students, and the students, all at the plain teachers' entropies."""
    groups = {own[0].teacher: (plain, own) for plain, own in comparisons(rows) if _ancestral(plain)}
    body = []
    for evaluations, steps in wanted.items():
        plain = [groups[teacher][0][steps] for teacher in STUDENTS]
        body.append([f"teacher, {steps} steps", plain[0]["evaluations"], *map(_row, plain)])
        for label, name in (("teacher, same sampler", None), ("**student**", STUDENTS)):
            found = [
                _moved(groups[teacher][1], name[teacher] if name else teacher, evaluations, steps)
                for teacher in STUDENTS
            ]
            body.append([label, evaluations, *found])
    return HEAD + "".join(f"| {' | '.join(map(str, line))} |\n" for line in body)


def _ancestral(plain):
    return {row["noise_removal"] for row in plain.values()} == {"ancestral"}


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


def page(text, rows, wanted):
    """The page ``text`` with the table of these rows."""
    return re.sub(rf"{re.escape(HEAD)}(\|.*\n)*", lambda _: table(rows, wanted), text)


if __name__ == "__main__":
    rows = load(str(RESULTS))["rows"]
    for path, wanted in PAGES.items():
        write_whole(str(path), page(path.read_text(), rows, wanted).encode())
