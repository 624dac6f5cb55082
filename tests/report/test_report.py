"""duo_ext.report: the file's round trip, the comparisons by hand, the table and the figure."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from duo_ext import Refused
from duo_ext.report import compare, families, figures, pages, tables
from duo_ext.report.__main__ import main
from duo_ext.report.results import load, save


def row(model, steps, genppl, entropy=5.0, width=0.05, **changes):
    return {
        "model": model, "name": {"student": "idlm_mdlm"}.get(model, "mdlm"), "algo": "any",
        "host": "standalone", "steps": steps, "evaluations": steps + 1, "sampler": "host",
        "grid": "host",
        "predictor": "ancestral",
        "noise_removal": "ancestral", "temperature": 1.0, "nucleus": 1.0, "precision": "float64",
        "samples": 256, "seed": 1, "genppl": genppl,
        "genppl_low": genppl * (1 - width), "genppl_high": genppl * (1 + width),
        "entropy": entropy, "unigram_kl": 0.0042, "bigram_tv": 0.131, "seconds": 2.0 * steps,
        "distinct_2": 0.1, "distinct_3": 0.2, "distinct_4": 0.3,
        "checkpoint": "best.ckpt", "checkpoint_sha256": "00",
    } | changes  # fmt: skip


def results(*rows):
    return {
        "rows": list(rows),
        "judge": {"name": "tiny-judge", "heldout_ppl": 11.3},
        "data": {},
        "commit": "abc",
        "hardware": "two cores",
        "command": "make demo",
    }


CURVES = results(
    row("student", 2, 82.0, 5.05),
    row("student", 4, 59.0, 5.02),
    row("teacher", 16, 60.0),
    row("teacher", 4, 100.0),
    row("teacher", 8, 80.0),
)


# ---------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("bytes_", [b"\xef\xbb\xbf", b""])
def test_a_byte_order_mark_is_no_matter(tmp_path, bytes_):
    (tmp_path / "results.json").write_bytes(bytes_ + json.dumps(CURVES).encode())
    assert load(str(tmp_path)) == CURVES


@pytest.mark.parametrize("place", ["local", "memory"])
def test_save_then_load_returns_the_results(tmp_path, place):
    folder = tmp_path / "new" / "run" if place == "local" else "memory://report/round-trip"
    save(CURVES, folder)
    assert load(folder) == CURVES
    files, path = fsspec.core.url_to_fs(str(folder))
    assert [name.rpartition("/")[2] for name in files.ls(path, detail=False)] == ["results.json"]


def test_numbers_that_json_lacks_become_null_and_come_back_as_nan(tmp_path):
    broken = row("teacher", 1, math.nan, bigram_tv=math.inf)
    save(results(broken), tmp_path)
    text = (tmp_path / "results.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    loaded = load(tmp_path)["rows"][0]
    assert all(math.isnan(loaded[k]) for k in ("genppl", "genppl_low", "genppl_high", "bigram_tv"))
    assert loaded["entropy"] == 5.0
    assert "n/a [n/a, n/a]" in tables.table(load(tmp_path))


@pytest.mark.parametrize(
    ("folder", "files"),
    [("local", LocalFileSystem), ("memory://report/atomic", MemoryFileSystem)],
    ids=["local", "memory"],
)
@pytest.mark.parametrize("step", ["open", "mv"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, folder, files, step
):
    folder = str(tmp_path) if folder == "local" else folder
    save(CURVES, folder)

    def fail(self, *arguments, **options):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(files, step, fail)
        with pytest.raises(OSError, match="disk full"):
            save(results(row("teacher", 1, 9.0)), folder)
    assert load(folder) == CURVES
    left = files().ls(folder, detail=False)
    assert [name.rpartition("/")[2] for name in left] == ["results.json"]


def test_the_new_file_is_whole_before_it_takes_its_place(tmp_path, monkeypatch):
    save(CURVES, tmp_path)
    new, seen, move = results(row("teacher", 1, 9.0)), [], LocalFileSystem.mv

    def watch(self, source, target, **options):
        seen.append([json.loads(Path(path).read_text()) for path in (source, target)])
        move(self, source, target, **options)

    monkeypatch.setattr(LocalFileSystem, "mv", watch)
    save(new, tmp_path)
    assert seen == [[new, CURVES]] and load(tmp_path) == new


def without(key, *where):
    broken = json.loads(json.dumps(CURVES))
    holder = broken
    for part in where:
        holder = holder[part]
    del holder[key]
    return json.dumps(broken)


MALFORMED = {
    "is not JSON": "{",
    "has no list of rows": "[]",
    "has no list of rows; it must be": '{"rows": 3}',
    "has no rows; an evaluation": '{"rows": []}',
    "lacks judge.heldout_ppl, judge.name": without("judge"),
    "lacks judge.name": without("name", "judge"),
    "lacks hardware": without("hardware"),
    "row 1 lacks entropy": without("entropy", "rows", 1),
    "row 0 has model 'pupil'; wanted: teacher, student, judge": json.dumps(
        results(row("pupil", 1, 9.0))
    ),
    "row 0 has entropy 'high'; wanted: a number": json.dumps(
        results(row("teacher", 1, 9.0, entropy="high"))
    ),
    "row 0 has steps None; wanted: a positive number": json.dumps(
        results(row("teacher", 1, 9.0) | {"steps": None})
    ),
}


@pytest.mark.parametrize("complaint", MALFORMED)
def test_a_malformed_file_is_one_clear_sentence(tmp_path, complaint):
    (tmp_path / "results.json").write_text(MALFORMED[complaint])
    with pytest.raises(ValueError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/results.json") and complaint in message
    assert "\n" not in message


def test_rows_from_before_there_were_two_samplers_are_the_hosts(tmp_path):
    old = [
        {key: row[key] for key in row if key not in ("sampler", "grid")} for row in CURVES["rows"]
    ]
    save(results(*old), tmp_path)
    assert load(tmp_path) == CURVES


# ---------------------------------------------------------------------------------- comparisons


def test_samplers_are_compared_with_themselves_and_told_apart():
    rows = (row("teacher", 4, 100.0), row("teacher", 4, 70.0, sampler="ancestral"))
    for sampler, wanted in (("host", [(4, False)]), ("ancestral", [(None, False), (4, True)])):
        student = row("student", 2, 82.0, sampler=sampler)
        found = compare.step_reduction(results(*rows, student))
        assert [(entry["strict"], entry["plain"]) for entry in found] == wanted
        assert {entry["sampler"] for entry in found} == {sampler}
    assert "- idlm_mdlm, ancestral, steps 2: 4 = 2x, " in tables.page(results(*rows, student))
    assert "x the seconds of the plain teacher [4 = 2x" in tables.page(results(*rows, student))
    head, _, titles, *_ = tables.table(results(*rows)).splitlines()
    assert "sampler" not in head and "| sampler |" in titles


def reduction(*rows, **options):
    """{steps: (strict, within_interval)} of the student rows."""
    found = compare.step_reduction(results(*rows), **options)
    return {entry["steps"]: (entry["strict"], entry["within_interval"]) for entry in found}


def test_step_reduction_by_hand():
    first, second = compare.step_reduction(CURVES)
    assert first == {
        "name": "idlm_mdlm", "sampler": "host", "grid": "host", "predictor": "ancestral",
        "noise_removal": "ancestral", "precision": "float64", "seed": 1, "steps": 2,
        "strict": 4, "strict_ratio": 2.0,
        "within_interval": 8, "within_interval_ratio": 4.0,
        "strict_speedup": 2.0, "within_interval_speedup": 4.0, "plain": False,
    }  # fmt: skip
    assert (second["steps"], second["strict"], second["strict_ratio"]) == (4, 16, 4.0)


def test_equal_genppl_is_matched_and_the_interval_must_reach():
    assert reduction(row("teacher", 8, 80.0), row("student", 2, 80.0, width=0)) == {2: (8, 8)}
    teacher = row("teacher", 8, 80.0, genppl_high=84.0)
    assert reduction(teacher, row("student", 2, 90.0, genppl_low=84.0)) == {2: (None, 8)}
    assert reduction(teacher, row("student", 2, 90.0, genppl_low=84.1)) == {2: (None, None)}


def test_teacher_rows_of_another_entropy_do_not_count():
    student = row("student", 2, 50.0, entropy=4.9)
    teachers = row("teacher", 4, 100.0, entropy=5.0), row("teacher", 8, 80.0, entropy=5.01)
    assert reduction(student, *teachers) == {2: (4, 4)}
    assert reduction(student, *teachers, entropy_tolerance=0.03) == {2: (8, 8)}
    assert reduction(student, *teachers, entropy_tolerance=0.01) == {2: (None, None)}
    above = row("student", 2, 50.0, entropy=5.1 + 1e-9)
    assert reduction(above, teachers[0]) == {2: (None, None)}


@pytest.mark.parametrize(
    "changes",
    [{"noise_removal": "greedy"}, {"precision": "float32"}, {"temperature": 0.9}, {"nucleus": 0.9}],
)
def test_only_rows_of_the_same_sampler_are_compared(changes):
    teacher = row("teacher", 8, 80.0)
    assert reduction(row("student", 2, 50.0), teacher | changes) == {2: (None, None)}
    tempered = "temperature" in changes or "nucleus" in changes
    expected = {} if tempered else {2: (None, None)}
    assert reduction(row("student", 2, 50.0, **changes), teacher) == expected


def test_a_step_count_is_matched_only_if_every_seed_is():
    teachers = row("teacher", 8, 80.0), row("teacher", 8, 70.0, seed=2), row("teacher", 4, 100.0)
    assert reduction(row("student", 2, 75.0, width=0), *teachers) == {2: (4, 4)}


def test_a_student_without_text_matches_nothing():
    assert reduction(row("student", 2, math.nan), row("teacher", 8, 80.0)) == {2: (None, None)}


def test_log_genppl_is_linear_in_entropy_between_points_and_beyond_them():
    points = [(2.0, math.exp(4.0)), (1.0, math.exp(1.0)), (3.0, math.exp(5.0))]
    expected = {
        1.0: (1.0, False), 1.5: (2.5, False), 2.0: (4.0, False), 2.5: (4.5, False),
        3.0: (5.0, False), 4.0: (6.0, True), 0.5: (-0.5, True),
    }  # fmt: skip
    for entropy, (log, beyond) in expected.items():
        genppl, extrapolated = compare.interpolate_at_entropy(points, entropy)
        assert math.log(genppl) == pytest.approx(log, abs=1e-12)
        assert extrapolated is beyond


def test_points_of_one_entropy_are_averaged_and_one_entropy_is_not_a_line():
    points = [(1.0, math.exp(1.0)), (1.0, math.exp(3.0)), (2.0, math.exp(4.0))]
    genppl, _ = compare.interpolate_at_entropy(points, 1.5)
    assert math.log(genppl) == pytest.approx(3.0)
    for few in ([], points[:2]):
        with pytest.raises(ValueError, match="a line needs two"):
            compare.interpolate_at_entropy(few, 1.5)


def test_matched_entropy_moves_the_teacher_to_the_student():
    teachers = [row("teacher", 4, 100.0, 5.0), row("teacher", 4, 25.0, 4.8, temperature=0.9)]
    others = [
        row("teacher", 8, 9.0, 4.9),
        row("teacher", 4, 9.0, 4.9, nucleus=0.9),
        row("teacher", 4, 9.0, 4.9, noise_removal="greedy"),
    ]
    students = [row("student", 4, 40.0, 4.9), row("student", 8, 40.0, 4.9)]
    (entry,) = compare.matched_entropy(results(*teachers, *others, *students))
    assert entry["teacher"] == pytest.approx(50.0)
    assert entry["ratio"] == pytest.approx(0.8)
    assert (entry["steps"], entry["student"], entry["extrapolated"]) == (4, 40.0, False)
    page = tables.page(results(*teachers, *others, *students))
    assert "steps 4: 40.00 against 50.00 at entropy 4.900, ratio 0.80" in page
    beyond = tables.page(results(*teachers, row("student", 4, 40.0, 5.1)))
    assert "against 200.0* at entropy 5.100" in beyond


# ------------------------------------------------------------------------------------- Markdown


def test_table_says_once_what_the_rows_share_and_orders_them():
    head, _, titles, rule, *body = tables.table(CURVES).splitlines()
    assert head == (
        "Judge tiny-judge (held-out perplexity 11.30); sampler host; predictor ancestral; "
        "noise removal ancestral; temperature 1.0; nucleus 1.0; precision float64; samples 256; "
        "seed 1; two cores; `make demo`"
    )
    assert titles == (
        "| model | name | steps | network evaluations | GenPPL [95 %] | entropy | unigram KL "
        "| bigram TV | seconds |"
    )
    assert {line.count("|") for line in (titles, rule, *body)} == {10}
    assert body[1] == (
        "| teacher | mdlm | 8 | 9 | 80.00 [76.00, 84.00] | 5.000 | 0.0042 | 0.131 | 16.0 |"
    )
    order = [tuple(line.split(" | ")[i] for i in (0, 2)) for line in body]
    assert order == [
        ("| teacher", "4"), ("| teacher", "8"), ("| teacher", "16"),
        ("| student", "2"), ("| student", "4"),
    ]  # fmt: skip


def test_a_setting_that_varies_is_a_column():
    mixed = results(row("teacher", 4, 100.0), row("teacher", 4, 90.0, noise_removal="greedy"))
    mixed["rows"].append(row("teacher", 4, 80.0, temperature=0.9))
    head, _, titles, _, *body = tables.table(mixed).splitlines()
    assert "| name | noise removal | temperature | steps |" in titles
    assert "noise removal" not in head and "temperature" not in head and "nucleus 1.0" in head
    assert any("| mdlm | greedy | 1.0 | 4 |" in line for line in body)


def test_page_lists_the_step_reduction_under_the_table():
    page = tables.page(CURVES)
    assert page.startswith(tables.table(CURVES))
    assert "\n- idlm_mdlm, steps 2: 4 = 2x, 2x the seconds [8 = 4x, 4x the seconds]\n" in page
    assert "matches" not in tables.page(results(row("teacher", 4, 100.0)))
    far = results(row("teacher", 4, 100.0, entropy=4.0), row("student", 2, 50.0))
    assert "- idlm_mdlm, steps 2: none [none]" in tables.page(far)


def test_samples_keep_every_character():
    long = "word  " * 60 + "\n\n```python\n\tx = 1\n```\n# <|endoftext|>"
    text = tables.samples_markdown({"teacher, 8 steps": ["plain"], "student": [long, ""]})
    assert re.findall("^## (.*)$", text, re.M) == ["teacher, 8 steps", "student"]
    assert max(map(len, text.splitlines())) <= 100
    (block,) = re.findall("^````text\n(.*?)\n````$", text, re.M | re.S)
    assert block.replace("\n", "") == long.replace("\n", "")
    assert block.endswith("\n\n```python\n\tx = 1\n```\n# <|endoftext|>")
    assert text.count("\nSample 2\n") == 1


# --------------------------------------------------------------------------------------- figure


def curves(axes):
    """The (x, y) points of every plotted line that has markers."""
    lines = [line for line in axes.get_lines() if line.get_marker() != "None"]
    return [list(zip(*map(list, line.get_data()), strict=True)) for line in lines]


def test_figure_draws_the_rows():
    left, middle, right = figures.plot(CURVES).axes
    assert curves(left) == [[(4, 100.0), (8, 80.0), (16, 60.0)], [(2, 82.0), (4, 59.0)]]
    assert curves(middle) == [[(4, 5.0), (8, 5.0), (16, 5.0)], [(2, 5.05), (4, 5.02)]]
    assert sorted(curves(right)) == sorted([[(r["entropy"], r["genppl"])] for r in CURVES["rows"]])
    assert [a.get_xscale() for a in (left, middle, right)] == ["log", "log", "linear"]
    assert [a.get_yscale() for a in (left, middle, right)] == ["log", "linear", "log"]
    assert sorted(t.get_text() for t in right.texts) == ["16", "2", "4", "4", "8"]
    (band,) = middle.patches
    edges = band.get_extents().transformed(middle.transData.inverted())
    assert (edges.y0, edges.y1) == pytest.approx((4.9, 5.1))
    (heldout,) = [line for line in left.get_lines() if line.get_label() == "held-out text"]
    assert list(heldout.get_ydata()) == [11.3, 11.3]
    assert len({line.get_color() for line in left.get_lines()}) == 3


def test_temperatures_are_lines_over_entropy_and_stay_out_of_the_curves_over_steps():
    sweep = results(
        row("teacher", 4, 100.0, 5.0),
        row("teacher", 4, 50.0, 4.8, temperature=0.8),
        row("teacher", 8, 80.0, 5.0),
        row("teacher", 8, math.nan, 4.9, temperature=0.8),
    )
    left, _, right = figures.plot(sweep).axes
    assert curves(left) == [[(4, 100.0), (8, 80.0)]]
    assert curves(right) == [[(4.8, 50.0), (5.0, 100.0)], [(5.0, 80.0)]]


def test_a_sweep_without_temperature_1_is_the_panel_over_entropy_alone(tmp_path):
    sweep = results(*(row("teacher", 4, 100.0, temperature=t) for t in (0.8, 0.9)))
    figures.figure(figures.plot(sweep), tmp_path / "figure.png")
    assert [axes.get_visible() for axes in figures.plot(sweep).axes] == [False, False, True]


def test_rows_of_fewer_samples_belong_to_the_same_curve():
    few = results(row("teacher", 16, 60.0, samples=128), row("teacher", 8, 80.0))
    left, middle, _ = figures.plot(few).axes
    assert curves(left) == [[(8, 80.0), (16, 60.0)]]
    assert len(middle.patches) == 1


def test_samplers_are_series_of_their_own():
    both = results(row("teacher", 4, 100.0), row("teacher", 4, 90.0, noise_removal="greedy"))
    drawing = figures.plot(both)
    assert curves(drawing.axes[0]) == [[(4, 100.0)], [(4, 90.0)]]
    labels = [text.get_text() for text in drawing.legends[0].get_texts()]
    assert labels == ["teacher mdlm, ancestral", "teacher mdlm, greedy", "held-out text"]


# --------------------------------------------------------------------------------- command line


def test_main_writes_table_and_figure_and_goes_on_past_a_missing_folder(tmp_path, capsys):
    save(CURVES, tmp_path / "good")
    assert main([str(tmp_path / "none"), str(tmp_path / "good")]) == 1
    message = f"{tmp_path}/none/results.json does not exist; an evaluation writes it\n"
    assert capsys.readouterr().err == message
    written = sorted(path.name for path in (tmp_path / "good").iterdir())
    assert written == ["figure.png", "results.json", "table.md"]
    assert (tmp_path / "good" / "table.md").read_text() == tables.page(CURVES)
    assert (tmp_path / "good" / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert main([str(tmp_path / "good")]) == 0


def test_the_command_ends_without_a_traceback(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "duo_ext.report", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "has no list of rows" in done.stderr


# ------------------------------------------------------------------------------- what is missing

MISSING = r"\b(nan|inf|None)\b"
NULL = ("genppl", "genppl_low", "genppl_high", "entropy", "unigram_kl", "bigram_tv", "seconds")


def rendered(folder, given):
    """The table of results that are written as they are."""
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(given))
    pages.render(str(folder))
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    text = (folder / "table.md").read_text()
    assert not re.search(MISSING, text.partition("## Published")[0])
    return text


@pytest.mark.parametrize(
    ("key", "value"),
    [*((key, None) for key in (*NULL, "mauve")), ("genppl", math.nan), ("genppl_high", math.inf)],
)
def test_a_number_that_there_is_not_stands_as_none_wherever_it_is_missing(tmp_path, key, value):
    """In a row of a teacher or a student, over temperatures, of one seed of two, in a family."""
    rows = [row("teacher", steps, 100.0 / steps, mauve=0.5) for steps in (4, 8, 16)]
    rows += [row("teacher", 4, 20.0, 4.5, temperature=0.8, mauve=0.5)]
    for seed in (1, 2):
        own = {"distillation_seed": seed, "mauve": 0.4}
        rows += [
            row("student", 4, 12.0, **own),
            row("student", 4, 9.0, 4.6, temperature=0.8, **own),
        ]
    for number in range(len(rows)):
        changed = [{"family": "MDLM"} | own for own in rows]
        changed[number][key] = value
        save(results(*changed), str(tmp_path))
        loaded = load(str(tmp_path))
        texts = families.page(loaded).partition("## Published")[0], tables.page(loaded)
        joined = tables.page(loaded | {"rows": compare.seeds_joined(loaded["rows"])})
        assert "n/a" in joined and not any(re.search(MISSING, text) for text in (*texts, joined))
    for number in (2, 4, 7):
        rows[number][key] = value
    rendered(tmp_path, results(*rows))
    rendered(tmp_path, results(*({"family": "MDLM"} | own for own in rows)))


def test_an_answered_share_without_its_interval_and_a_family_that_is_null(tmp_path):
    text = rendered(tmp_path, results(row("teacher", 4, 10.0) | {"accuracy": 0.5, "family": None}))
    assert "0.500" in text


def test_a_bar_in_a_name_is_no_new_cell():
    assert tables.markdown(["name", "n"], [["a|b", 1]]).splitlines()[-1] == r"| a\|b | 1 |"


def test_a_held_out_perplexity_that_there_is_not(tmp_path):
    for family in ({}, {"family": "MDLM"}):
        given = results(row("teacher", 4, 10.0) | family)
        given["judge"]["heldout_ppl"] = None
        assert "(held-out perplexity n/a)" in rendered(tmp_path, given)


def test_a_mean_over_seeds_is_none_where_one_has_none():
    rows = [row("student", 4, 12.0, distillation_seed=1, mauve=0.4)]
    rows += [row("student", 4, 14.0, distillation_seed=2, mauve=None, genppl_low=math.nan)]
    (joined,) = compare.seeds_joined(rows)
    assert joined["genppl"] == 13.0 and joined["mauve"] is None and joined["seeds"] == 2
    assert math.isnan(joined["genppl_low"]) and joined["genppl_high"] == 14.0 * 1.05


def test_points_near_each_other_reach_no_number_far_away():
    points = [(5.0, 10.0), (5.0 + 1e-9, 20.0)]
    assert compare.interpolate_at_entropy(points, 6.0) == (math.inf, True)


WRONG_TYPES = {
    "name 3; wanted: a text": {"name": 3},
    "noise_removal ['x']; wanted: a text": {"noise_removal": ["x"]},
    "family 1; wanted: a text": {"family": 1},
    "distillation_seed [1]; wanted: one": {"distillation_seed": [1]},
    "steps True; wanted: a positive number": {"steps": True},
    "steps nan; wanted: a positive number": {"steps": math.nan},
    "temperature '1'; wanted: a positive number": {"temperature": "1"},
    "evaluations None; wanted: a positive number": {"evaluations": None},
    "seed 'a'; wanted: a number": {"seed": "a"},
    "genppl -1; wanted: a positive number": {"genppl": -1},
    "genppl 0; wanted: a positive number": {"genppl": 0},
    "seconds 0; wanted: a positive number": {"seconds": 0},
    "entropy '5'; wanted: a number": {"entropy": "5"},
    "mauve {}; wanted: a number": {"mauve": {}},
}


@pytest.mark.parametrize("complaint", WRONG_TYPES)
def test_a_row_of_other_types_is_named(tmp_path, complaint):
    given = results(row("teacher", 4, 10.0), row("student", 4, 9.0) | WRONG_TYPES[complaint])
    (tmp_path / "results.json").write_text(json.dumps(given))
    with pytest.raises(Refused) as refused:
        load(str(tmp_path))
    assert str(refused.value) == f"{tmp_path}/results.json: row 1 has {complaint}"


OTHERS = {
    "is not JSON": b"\xff\xfe\xfa",
    "has no list of rows": b"[]",
    "has judge.heldout_ppl 'x'; wanted: a positive number": {
        "judge": {"name": "a", "heldout_ppl": "x"}
    },
    "has distillations; wanted: a list": {"distillations": {"a": 1}},
    "has distillations; wanted: ": {"distillations": [{"name": "a", "seconds": "long"}]},
}


@pytest.mark.parametrize("complaint", OTHERS)
def test_a_file_of_other_types_is_one_sentence(tmp_path, complaint):
    content = OTHERS[complaint]
    if isinstance(content, dict):
        content = json.dumps(CURVES | content).encode()
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(Refused, match=re.escape(f"{tmp_path}/results.json {complaint}")):
        load(str(tmp_path))


def test_trainings_may_lack_numbers(tmp_path):
    trainings = [{"name": "a", "seconds": 3600, "updates": 10}, {"name": "a", "updates": 20}]
    given = results(row("teacher", 4, 10.0, family="MDLM")) | {"distillations": trainings}
    assert "| a | 2 | 15 | n/a | n/a | none, none |" in rendered(tmp_path, given)


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_no_backend_is_asked_for(tmp_path, backend):
    """As a notebook sets it; nor are characters that the terminal lacks, or docstrings."""
    folder = tmp_path / "é"
    save(results(row("teacher", 4, 10.0)), str(folder))
    environment = os.environ | {"MPLBACKEND": backend, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-OO", "-m", "duo_ext.report", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path}/\\xe9: table.md, figure.png\n"
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
