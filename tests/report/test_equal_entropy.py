"""Models moved to the entropy of their plain teachers, by hand."""

import pytest

from duo_ext.report import equal_entropy

FRONTIER = ((10.0, 1.0, 2.8), (5.0, 0.8, 2.6))  # GenPPL, temperature, entropy


def moved(rows, teacher, name):
    """What is compared with a teacher under a name."""
    return [
        own for _, group in equal_entropy.comparisons(rows) for own in group
        if (own.teacher, own.name) == (teacher, name)
    ]  # fmt: skip


def test_a_method_is_moved_to_its_own_teachers_entropy(results):
    """At entropy 2.7, half way between the temperatures, the geometric mean of 12 and 3; a seed
    of one temperature cannot be moved, and 8 steps of a teacher are no reference."""
    (own,) = moved(results["rows"], "Duo", "IDLM-Duo")
    assert (own.evaluations, own.seeds, own.unigram_kl) == (9, 1, 0.01)
    assert own.at == {32: (pytest.approx(6.0), pytest.approx(5.4), pytest.approx(6.6), False)}
    assert not moved(results["rows"], "MDLM", "MDLM")


def test_each_seed_is_moved_by_itself(results, row):
    """6 and 8: their mean, the lower low end and the higher high one."""
    more = row("IDLM-Duo", 8, 4.0, 2.6, temperature=0.8, distillation_seed=16.0)
    (own,) = moved([*results["rows"], more], "Duo", "IDLM-Duo")
    assert own.seeds == 2
    assert own.at[32] == (pytest.approx(7.0), pytest.approx(5.4), pytest.approx(8.8), False)


def test_the_plain_teacher_is_the_hosts_and_itself_by_another_sampler_stands_beside(results, row):
    """Only of the same last step; beyond the temperatures it says so."""
    common = {"name": "Duo", "steps": 4, "model": "teacher", "sampler": "spread"}
    spread = [row(genppl=ppl, temperature=t, entropy=h + 0.2, **common) for ppl, t, h in FRONTIER]
    greedy = row("Duo", 32, 9.0, 2.6, model="teacher", noise_removal="greedy")
    ((references, own), *others) = equal_entropy.comparisons([*results["rows"], *spread, greedy])
    assert not others and [group["genppl"] for group in references.values()] == [14.0]
    assert [(m.name, m.evaluations) for m in own] == [("Duo", 5), ("IDLM-Duo", 9)]
    assert own[0].sampler == "spread, ancestral"
    named = [r | {"after": "Duo"} if r["name"] == "IDLM-Duo" else r for r in results["rows"]]
    ((_, same),) = equal_entropy.comparisons([*named, *spread, greedy])
    assert same == own  # once, where the student says from which teacher it is too
    value, _, _, beyond = own[0].at[32]
    assert value == pytest.approx(5.0 * 0.5**0.5) and beyond


def test_a_students_student_is_compared_with_it_and_it_with_itself(results, row):
    """Duo-DCD is moved to its own teacher's entropy and, as IDLM-DCD's teacher, to its own."""
    common = {"steps": 8, "sampler": "spread"}
    rows = [*results["rows"], row("Duo-DCD", 64, 11.0, 2.8)]
    for ppl, temperature, entropy in FRONTIER:
        own = common | {"temperature": temperature, "entropy": entropy}
        rows.append(row("Duo-DCD", genppl=ppl, **own))
        rows.append(row("IDLM-DCD", genppl=ppl / 2, after="Duo-DCD", **own))
    assert [own.at[64][0] for own in moved(rows, "Duo-DCD", "Duo-DCD")] == [pytest.approx(10.0)]
    assert [own.at[64][0] for own in moved(rows, "Duo-DCD", "IDLM-DCD")] == [pytest.approx(5.0)]
    assert [own.at[32][0] for own in moved(rows, "Duo", "Duo-DCD")] == [pytest.approx(50**0.5)]
    assert not moved(rows, "Duo", "IDLM-DCD")


def test_a_plain_teacher_is_not_compared_with_itself(results, row):
    colder = row("Duo", 32, 10.0, 2.6, model="teacher", temperature=0.9)
    judges = {k: v for k, v in row("judge", 128, 3.0, model="judge").items() if k != "family"}
    assert not moved([*results["rows"], colder, judges], "Duo", "Duo")


def test_the_table_has_the_teacher_first_and_what_passes_it_in_bold(results):
    *_, head, _, first, second = equal_entropy.section(results["rows"]).splitlines()
    assert head.endswith("| unigram KL | at 32 steps |")
    assert first == "| Duo | plain, at its own entropy |  |  |  | 14.00 / 2.700 [12.60, 15.40] |"
    assert second == "| Duo | IDLM-Duo | 9 | 1 | 0.0100 | **6.00** [5.40, 6.60] |"
    better = [r | {"genppl": 5.0} if r["model"] == "teacher" else r for r in results["rows"]]
    assert "| 6.00 [5.40, 6.60] |" in equal_entropy.section(better)
    assert equal_entropy.section(results["rows"][:1]) == ""


def test_the_figure_has_a_panel_for_each_teacher(results):
    (axes,) = equal_entropy.plot(results).axes
    assert axes.get_title() == "at the entropy of Duo in 32 steps (2.700)"
    plain, level, student = axes.lines
    assert plain.get_xydata().tolist() == [[9, 24.0], [33, 14.0]]
    assert student.get_xydata().tolist() == [[9, pytest.approx(6.0)]]
    assert set(level.get_ydata()) == {14.0}
    assert equal_entropy.plot(results | {"rows": results["rows"][:1]}) is None


def test_the_samplers_of_a_model_share_a_colour_in_the_figure(results):
    others = [r | {"sampler": "spread"} for r in results["rows"] if r["name"] == "IDLM-Duo"]
    (axes,) = equal_entropy.plot(results | {"rows": [*results["rows"], *others]}).axes
    *_, first, second = axes.lines
    assert first.get_color() == second.get_color()
    assert first.get_fillstyle() != second.get_fillstyle()
