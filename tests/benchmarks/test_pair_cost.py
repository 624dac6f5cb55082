"""The benchmark runs, at a size that takes seconds, and reports all that it should."""

import json
import math

import pytest
import torch

from benchmarks import meters, one_pair, pair_cost
from duo_ext.core import rows

pytest.importorskip("peft")

TINY = one_pair.Size(vocab=40, length=8, batch=2, blocks=1, width=32)


@pytest.fixture
def device():
    return torch.device("cpu")


@pytest.mark.parametrize("case", one_pair.CASES)
def test_all_forms_of_each_case_are_measured(case, device):
    found = pair_cost.measure(case, TINY, device, repeats=2)
    forms = [form for form in one_pair.FORMS if form in one_pair.CASES[case]]
    assert [row["form"] for row in found] == forms
    for row in found:
        assert len(row["repeats"]) == 2 and row["case"] == case
        assert row["peak_bytes"] > 0
    assert case in pair_cost.as_markdown({"pairs": found, "growth": []})


@pytest.mark.parametrize(("parameters", "tensors"), [(set(), 2), ({2**22}, 0)])
def test_memory_is_what_lives_at_once(parameters, tensors):
    """Two tensors of 4 MiB together, then two others; those of a parameter's size do not count."""

    def run():
        a, b = torch.empty(2**20), torch.empty(2**20)
        del a
        c = torch.empty(2**20)
        del b, c

    changes = meters.allocations(run)
    assert meters.peak(changes) == pytest.approx(2**23, rel=0.01)
    assert meters.most_tensors(changes, 2**22, parameters) == tensors


def test_the_core_keeps_no_tensor_of_batch_length_and_vocabulary(device, monkeypatch):
    """The textbook does. Rows are taken in chunks of an eighth."""
    size = one_pair.Size(vocab=1000, length=32, batch=4, blocks=1, width=32)
    monkeypatch.setitem(rows.CHUNK, "cpu", size.tokens * size.vocab // 8)
    for case in ("mdlm", "sedd", "categorical"):
        forms = (one_pair.CORE, one_pair.SHARED, one_pair.TEXTBOOK)
        *cores, textbook = pair_cost.measure(case, size, device, 1, forms)
        for core in cores:
            assert core["tensors_BLV"] == 0 < textbook["tensors_BLV"]
            assert core["peak_bytes"] < textbook["peak_bytes"]


def test_growth_and_files(monkeypatch, tmp_path):
    command = "pair_cost --vocab 40 --length 8 --batch 2 --blocks 1 --widths 32 --repeats 1"
    arguments = [*command.split(), "--cases", "mdlm", "--output", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.setattr(pair_cost, "keep_memory", lambda: "as it was")
    pair_cost.main()
    pair_cost.main()  # rows take the place of their like
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["form"] for row in found["pairs"]] == list(one_pair.FORMS)
    assert [g["doubled"] for g in found["growth"]] == ["batch", "length", "vocab", "width"]
    assert all(math.isfinite(g["pair"]) for g in found["growth"])
    assert "| mdlm | vocab |" in (tmp_path / "out" / "table.md").read_text()


def test_exponents_of_powers():
    assert pair_cost._slope([3 * 2.0**-1.5, 3.0, 3 * 2.0**1.5]) == pytest.approx(1.5)


def test_adapters_take_at_most_six_bytes_a_parameter_and_four_on_bf16(device):
    """Of rank 16 and width 768, where blocks are all but a twentieth: all that lasts
    from pair to pair, and gradients. Full networks take 32, and gradients of one at a time."""
    size = one_pair.Size(vocab=512, length=4, batch=1, blocks=2, width=768)
    found = {}
    for form in (one_pair.CORE, *one_pair.FROZEN):
        pair = one_pair.Pair("mdlm", form, size, device)
        pair.run()
        found[form] = pair.state()
    assert found[one_pair.CORE] == pytest.approx(36, abs=0.1)
    assert 4 < found[one_pair.ADAPTED] <= 6
    assert 2 < found[one_pair.HALVED] <= 4
