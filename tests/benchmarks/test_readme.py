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


def test_the_figure_has_the_numbers_of_the_table():
    study = readme.CHARACTERS
    table = readme.main_table(study, study.rows, {5: 64}).splitlines()
    of_plain, of_teacher, of_student = ([c.split()[0] for c in _cells(line)] for line in table[2:])
    panels = readme.plot(study).axes
    assert [axes.get_title() for axes in panels] == list(study.students)
    for panel, axes in enumerate(panels):
        plain, reference, teacher, student = axes.get_lines()
        assert f"{_at(plain, 65):.1f}" == of_plain[panel] == f"{reference.get_ydata()[0]:.1f}"
        assert f"{_at(teacher, 5):.1f}" == of_teacher[panel]
        assert f"{_at(student, 5):.1f}" == of_student[panel]


def _cells(line):
    return [cell.strip() for cell in line.split("|")[3:-1]]


def _at(line, evaluations):
    return dict(zip(*line.get_data(), strict=True))[evaluations]
