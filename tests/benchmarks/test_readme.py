"""The tables of README.md and results/README.md."""

import pytest

from benchmarks import readme


@pytest.mark.parametrize(("path", "study", "wanted"), readme.PAGES)
def test_the_page_has_the_numbers_of_the_results(path, study, wanted):
    text, rows = path.read_text(), study.rows
    assert readme.page(text, study, rows, wanted) == text
    changed = [row | {"genppl": 2 * row["genppl"]} for row in rows]
    assert readme.page(text, study, changed, wanted) != text


@pytest.mark.parametrize(("path", "study", "wanted"), readme.PAGES[1:])
def test_what_is_beside_genppl_is_of_the_results(path, study, wanted):
    text, rows = path.read_text(), study.rows
    for key, _ in study.beside.values():
        changed = [row | {key: row[key] and row[key] + 1} for row in rows]
        assert readme.page(text, study, changed, wanted) != text
