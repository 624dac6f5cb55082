"""The harness of gpu_check: what fails, what takes too long, what misses its bound; and the small
parts that its items are made of."""

import dataclasses
import json
import math
import zipfile

import pytest
import torch

from benchmarks import one_pair, scale
from benchmarks.gpu_check import __main__ as program
from benchmarks.gpu_check import agreement, command_lines, demo, harness, items, networks, pair
from benchmarks.gpu_check.autocast import networks_in
from benchmarks.gpu_check.draws import FromCPU
from benchmarks.gpu_check.harness import Bound, Item
from duo_ext import Refused

FAKE = """
import os, time

def good(report, setting):
    report.note(first=1)
    report.note(value=3, told=os.environ.get("TOLD"), device=setting.device)

def failing(report, setting):
    report.note(before=5)
    raise ZeroDivisionError("of this item")

def crashing(report, setting):
    report.note(before=6)
    os._exit(9)

def endless(report, setting):
    report.note(before=7)
    os.system("sleep 60")
"""


@pytest.fixture
def items_of(tmp_path, monkeypatch):
    """``items_of(name=bounds)``: items with the functions of FAKE."""
    (tmp_path / "fake_items.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{harness.REPOSITORY}")

    def make(**bounds):
        seconds = {"endless": 5}
        return [
            Item(name, f"fake_items:{name}", seconds.get(name, 60), tuple(of))
            for name, of in bounds.items()
        ]

    return make


@pytest.fixture
def run(tmp_path):
    """``run(items, ...)``: (all passed, {name: what its file holds})."""

    def go(chosen, dry=True, **environment):
        setting = harness.Setting(dry, str(tmp_path / "runs"))
        passed = harness.run(chosen, setting, tmp_path / "out", environment)
        files = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
        return passed, files

    return go


def test_a_failure_is_kept_and_the_next_item_goes_on(items_of, run):
    passed, files = run(items_of(failing=(), crashing=(), good=[Bound("value", "==", 3, dry=True)]))
    assert not passed and [files[name]["held"] for name in ("failing", "crashing", "good")] == [
        False, False, True
    ]  # fmt: skip
    assert "ZeroDivisionError: of this item" in files["failing"]["error"]
    assert "Traceback" in files["failing"]["error"] and files["failing"]["values"] == {"before": 5}
    assert files["crashing"]["error"].startswith("9") and files["crashing"]["values"] == {
        "before": 6
    }
    assert files["good"]["values"] == {"first": 1, "value": 3, "told": None, "device": "cpu"}


def test_an_item_has_its_seconds_and_keeps_what_it_measured(items_of, run):
    passed, files = run(items_of(endless=(), good=()), TOLD="so")
    assert not passed and files["endless"]["error"].startswith("more than its 5 seconds")
    assert files["endless"]["values"] == {"before": 7} and files["endless"]["seconds"] < 30
    assert files["good"]["held"] and files["good"]["values"]["told"] == "so"


def test_bounds(items_of, run):
    bounds = [Bound("value", "<=", 2, dry=True), Bound("absent", ">=", 0, dry=True)]
    passed, files = run(items_of(good=[*bounds, Bound("value", ">=", 4)]))
    assert not passed and files["good"]["error"] is None
    assert files["good"]["checks"] == [
        {"bound": "value <= 2", "value": 3, "held": False},
        {"bound": "absent >= 0", "value": None, "held": False},
    ]  # the third is not for a dry run
    passed, files = run(items_of(good=[Bound("value", ">=", 4)]))
    assert passed and files["good"]["checks"] == []


@pytest.mark.parametrize("limit, code", [(3, 0), (2, 1)])
def test_the_exit_code(items_of, tmp_path, monkeypatch, limit, code):
    chosen = items_of(good=[Bound("value", "<=", limit, dry=True)], failing=())
    monkeypatch.setattr(items, "COMMANDS", {"1": chosen})
    places = ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]
    assert program.main(["1", "--dry", "--only", "good", *places]) == code
    assert not (tmp_path / "out" / "failing.json").exists()


def test_no_gpu_and_no_such_item_are_sentences(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="error: no GPU is visible; --dry"):
        program.main(["1"])
    with pytest.raises(SystemExit, match="error: --only: command 1 has no item none"):
        program.main(["1", "--only", "none"])


@pytest.mark.parametrize("command", items.COMMANDS)
def test_a_command_takes_ten_minutes_at_most(command):
    chosen = items.COMMANDS[command]
    assert sum(item.seconds for item in chosen) < 600
    assert len(chosen) <= 8  # so many files come back


def test_every_item_is_there():
    import importlib

    names = [item.name for chosen in items.COMMANDS.values() for item in chosen]
    assert len(set(names)) == len(names) == 10
    for chosen in items.COMMANDS.values():
        for item in chosen:
            module, _, function = item.function.partition(":")
            assert callable(getattr(importlib.import_module(module), function))


def test_wheels_are_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "one-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("one/__init__.py", "x = 1")
    place = harness.unpack(tmp_path, tmp_path / "site")
    assert (tmp_path / "site" / "one" / "__init__.py").read_text() == "x = 1"
    assert place == str(tmp_path / "site")


def lap(phase, seconds, **logs):
    return {"phase": phase, "seconds": seconds, "logs": logs or None}


def test_pairs_are_all_the_seconds_between_their_ends():
    laps = [lap("set-up", 9), lap("rest", 9), lap("the teacher's samples", 9)]
    laps += [lap("fake update", 1), lap("rest", 2), lap("fake update", 1, **{"fake/loss": 1.0})]
    laps += [lap("student update", 3, **{"student/loss": 1.0}), lap("rest", 0.5), lap("look", 50)]
    laps += [lap("fake update", 1), lap("student update", 2, **{"student/loss": 1.0})]
    laps += [lap("rest", 1), lap("save", 9)]
    assert command_lines.pairs(laps) == [7, 3.5]
    assert [list(log) for log in command_lines.updates(laps)] == [
        ["fake/loss"], ["student/loss"], ["student/loss"]
    ]  # fmt: skip


def test_logs_of_another_run_differ():
    ours = [{"fake/loss": 2.0}, {"student/loss": -1.0}]
    assert command_lines.furthest(ours, ours) == 0
    assert command_lines.furthest(ours, [{"fake/loss": 2.0}, {"student/loss": -1.1}]) > 0.09
    assert command_lines.furthest(ours, ours[:1]) == math.inf
    assert command_lines.furthest([], []) == math.inf


def test_nan_is_the_worst_of_all_numbers():
    first = {"a": 1.0, "b": 1.0}
    assert math.isnan(command_lines.furthest([first], [first | {"b": math.nan}]))
    good = {f"{n}_{key}": 1.0 for n in ("fake", "student") for key in ("cosine", "loss_difference")}
    found = agreement._worst([good, dict.fromkeys(good, math.nan)])
    assert all(map(math.isnan, found.values()))
    row = {"precision": "float32", "log_ratio": -0.5, "entropy_difference": 0.1}
    assert demo._furthest([row]) == {"furthest_genppl": 0.5, "furthest_entropy": 0.1}
    found = demo._furthest([row, row | {"log_ratio": math.nan}])
    assert math.isnan(found["furthest_genppl"]) and found["furthest_entropy"] == 0.1


@pytest.mark.parametrize(
    "precision, expected", [("float32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_an_autocast_of_the_networks_own_changes_no_precision(precision, expected):
    layer, products = torch.nn.Linear(4, 4), torch.get_float32_matmul_precision()
    with networks_in(precision, "cpu"), torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(2, 4)).dtype == expected
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(2, 4)).dtype == torch.bfloat16
    assert torch.get_float32_matmul_precision() == products


def test_numbers_are_drawn_on_the_cpu():
    """The device "meta" holds no numbers: what is moved there was drawn before."""
    drawn = []
    with FromCPU():
        torch.manual_seed(1)
        drawn.append(torch.rand(3, device="cpu"))
        torch.rand(3, device="meta")  # takes the next numbers of the CPU's generator
        drawn.append(torch.rand(3, device="cpu"))
        x = torch.empty(3, device="meta")
        assert torch.randn_like(x).device.type == "meta"
    torch.manual_seed(1)
    expected = torch.rand(9).split(3)
    assert torch.equal(drawn[0], expected[0]) and torch.equal(drawn[1], expected[2])


@pytest.mark.parametrize("name", networks.PROCESSES)
def test_a_process_agrees_with_itself(standalone, name):
    """Twice the CPU: cosines of 1 and the same losses, of gradients that are not 0."""
    _, make = networks.tree_of(standalone.root)
    row = agreement.compare(make, name, agreement.SMALL, "cpu")
    assert min(row["fake_cosine"], row["student_cosine"]) > 1 - 1e-9
    assert row["fake_loss_difference"] == row["student_loss_difference"] == 0


def test_a_pair_is_measured_and_profiled(standalone, monkeypatch):
    monkeypatch.setattr(pair, "PROFILED", 2)
    size = dataclasses.replace(pair.SMALL, batch=2)
    found = pair._measured("mdlm", one_pair.CORE, size, torch.device("cpu"))
    assert 0 < found["mfu"] < 1
    assert found["seconds_of_512"] == pytest.approx(256 * found["seconds"])
    assert any("aten::" in line for line in found["profile"])
    assert set(pair.CASES.values()) <= set(scale.PROCESSES)


def test_cosine_of_nothing_is_none():
    assert networks.cosine(torch.ones(3), torch.zeros(3)) is None
    assert networks.cosine(torch.ones(3), -torch.ones(3)) == pytest.approx(-1)


def test_a_demo_that_was_sampled_otherwise_is_refused():
    found = {"steps": 4, "sampler": "host"}
    assert demo.recorded("teacher", "duo", found)["steps"] == 4
    with pytest.raises(Refused, match="no row of the teacher in 4 steps by margin; make it anew"):
        demo.recorded("teacher", "duo", found | {"sampler": "margin"})
