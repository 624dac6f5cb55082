"""A folder's table.md and figures, from its results.json."""

from duo_ext.files import write_whole
from duo_ext.report import equal_entropy, families, figures, tables
from duo_ext.report.compare import seeds_joined
from duo_ext.report.results import load


def render(folder: str) -> None:
    """Rewrite ``folder``/table.md and ``folder``/figure.png from ``folder``/results.json, and
    equal_entropy.png where methods are compared so."""
    results = load(folder)
    joined = results | {"rows": seeds_joined(results["rows"])}
    text, by_family = tables.page(joined), any(row.get("family") for row in results["rows"])
    if by_family:
        text = f"{families.page(results)}\n## All rows\n\n{text}"
    write_whole(f"{folder}/table.md", text.encode())
    drawing = families.plot(results) if by_family else figures.plot(joined)
    figures.figure(drawing, f"{folder}/figure.png")
    if by_family and (compared := equal_entropy.plot(results)):
        figures.figure(compared, f"{folder}/equal_entropy.png")
