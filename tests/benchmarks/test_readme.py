"""The tables of README.md, results/README.md and docs."""

import pytest

from benchmarks import readme


@pytest.mark.parametrize(("path", "study", "tables"), readme.PAGES)
def test_the_page_has_the_numbers_of_the_results(path, study, tables):
    text, rows = path.read_text(), study.rows
    assert readme.page(text, study, rows, tables) == text
    changed = [row | {"genppl": 2 * row["genppl"]} for row in rows]
    assert readme.page(text, study, changed, tables) != text


@pytest.mark.parametrize(("path", "study", "tables"), readme.PAGES[1:])
def test_what_is_beside_genppl_is_of_the_results(path, study, tables):
    text, rows = path.read_text(), study.rows
    for key, _ in study.beside.values():
        changed = [row | {key: row[key] and row[key] + 1} for row in rows]
        assert readme.page(text, study, changed, tables) != text
