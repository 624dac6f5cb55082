"""The main table of results/README.md, from results/sotu32: python -m benchmarks.readme

GenPPL / entropy at temperature 1, means over the seeds, in the place of the table that is there.
"""

import re
from pathlib import Path

from duo_ext.files import write_whole
from duo_ext.report import compare, families
from duo_ext.report.results import load

PAGE = Path(__file__).parent.parent / "results" / "README.md"
RESULTS = PAGE.parent / "sotu32"
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)

# label: (name in the results, last step)
LINES = {
    "Duo teacher": ("Duo", "ancestral"),
    "Duo-DCD": ("Duo-DCD", "ancestral"),
    "IDLM-Duo": ("IDLM-Duo", "ancestral"),
    "IDLM-DCD": ("IDLM-DCD", "ancestral"),
    "Duo-DCD, greedy": ("Duo-DCD", "greedy"),
    "IDLM-DCD, greedy": ("IDLM-DCD", "greedy"),
    "MDLM teacher": ("MDLM", "ancestral"),
    "SDTT": ("SDTT", "ancestral"),
    "IDLM-MDLM": ("IDLM-MDLM, on-policy", "ancestral"),
    "MDLM teacher, seeded prior": ("MDLM, seeded prior", "ancestral"),
    "IDLM-MDLM, seeded prior": ("IDLM-MDLM, seeded prior", "ancestral"),
    "SEDD teacher": ("SEDD", "ancestral"),
    "IDLM-SEDD": ("IDLM-SEDD, on-policy", "ancestral"),
    "the judge's own samples": ("judge", "ancestral"),
}
HEAD = f"| | {' | '.join(map(str, STEPS))} |\n|---|{'---:|' * len(STEPS)}\n"


def table(rows):
    """Markdown, a line for each of LINES."""
    cells = {
        (row["name"], row["noise_removal"], row["steps"]): row
        for row in families.plain(compare.seeds_joined(rows))
    }
    body = [
        [label, *(_cell(cells.get((*line, steps))) for steps in STEPS)]
        for label, line in LINES.items()
    ]
    return HEAD + "".join(f"| {' | '.join(line)} |\n" for line in body)


def _cell(row):
    return f"{row['genppl']:.1f} / {row['entropy']:.2f}" if row else ""


def page(text, rows):
    """The page ``text`` with the table of these rows."""
    return re.sub(rf"{re.escape(HEAD)}(\|.*\n)*", lambda _: table(rows), text)


if __name__ == "__main__":
    text = page(PAGE.read_text(), load(str(RESULTS))["rows"])
    write_whole(str(PAGE), text.encode())
