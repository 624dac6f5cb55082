"""The main table of results/README.md."""

from benchmarks import readme
from duo_ext.report.results import load


def test_the_page_has_the_numbers_of_the_results():
    text, rows = readme.PAGE.read_text(), load(str(readme.RESULTS))["rows"]
    assert readme.HEAD in text
    assert readme.page(text, rows) == text
    changed = [row | {"genppl": 2 * row["genppl"]} for row in rows]
    assert readme.page(text, changed) != text
