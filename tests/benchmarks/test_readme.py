"""The tables of README.md and results/README.md."""

import pytest

from benchmarks import readme
from duo_ext.report.results import load


@pytest.mark.parametrize("path", readme.PAGES, ids=lambda path: path.parent.name)
def test_the_page_has_the_numbers_of_the_results(path):
    text, rows, wanted = path.read_text(), load(str(readme.RESULTS))["rows"], readme.PAGES[path]
    assert readme.HEAD in text
    assert readme.page(text, rows, wanted) == text
    changed = [row | {"genppl": 2 * row["genppl"]} for row in rows]
    assert readme.page(text, changed, wanted) != text


def test_what_is_beside_genppl_is_of_the_results():
    (path, wanted) = list(readme.PAGES.items())[-1]
    text, rows = path.read_text(), load(str(readme.RESULTS))["rows"]
    assert readme.HEAD_BESIDE in text
    for key, _ in readme.BESIDE.values():
        changed = [row | {key: row[key] and row[key] + 1} for row in rows]
        assert readme.page(text, changed, wanted) != text
