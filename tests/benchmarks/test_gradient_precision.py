"""The benchmark of the gradient's precision runs, at a size that takes seconds."""

import json

import pytest
import torch

from benchmarks import gradient_precision as precision
from benchmarks import gradients, shipped
from benchmarks.rounding import Precision

V, L = 40, 8
PLAN = precision.Walk("moved", 1e-3, (0, 3))


def network(case=None):
    torch.manual_seed(0)
    network = shipped.dit(V, width=32, blocks=1, cond=16, heads=2, length=L)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def size(**changes):
    given = {"walks": (PLAN,), "length": L, "batch": 2, "micro_batches": 2, "look": 2}
    return precision.Size(network, "at random", ("mdlm",), **given | changes)


@pytest.fixture
def texts_NL():
    torch.manual_seed(1)
    return torch.randint(V - 1, (16, L))


def networks(case):
    made = shipped.denoisers(network(), shipped.CASES[case].time_conditioning)
    for parameter in made[1].backbone.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return made


@pytest.mark.parametrize("case", shipped.CASES)
def test_float64_and_float32_have_one_sample_and_nearly_one_gradient(case, texts_NL):
    process, three = shipped.CASES[case].process(V), networks(case)
    batch = shipped.batch(texts_NL, 4)
    with precision.same_draws():
        ways = precision.student_gradient, precision.feature_gradient
        for way in ways:
            g, h = (way(process, three, batch, 1, Precision.of(p)) for p in ("float32", "float64"))
            assert gradients.cosine(g.double(), h) > 0.999
            assert g.any()


@pytest.mark.parametrize("case", ["mdlm", "categorical"])
def test_the_gradient_at_the_features_needs_no_backward_pass_of_a_network(case, texts_NL):
    process, three = shipped.CASES[case].process(V), networks(case)
    precision.feature_gradient(process, three, shipped.batch(texts_NL, 2), 1, Precision.of("TF32"))
    for denoiser in three:
        assert all(p.grad is None for p in denoiser.backbone.parameters())


@pytest.mark.parametrize("student", ["moved", "distilled"])
def test_a_walk_has_a_row_for_each_number_of_updates_and_precision(student, texts_NL):
    plan = precision.Walk(student, 1e-3, PLAN.updates)
    found = list(precision.walk("mdlm", network(), texts_NL, size(), plan))
    names = [*precision.MAIN, *precision.MORE]
    expected = [("student", updates, name) for updates in (0, 3) for name in names]
    expected += [("fake", 3, name) for name in ("TF32", "bf16")]
    assert [(r["gradient"], r["updates"], r["precision"]) for r in found] == expected
    rows = {(r["updates"], r["precision"]): r for r in found if r["gradient"] == "student"}
    for name in names:  # the fake is the teacher, to the last bit
        assert rows[0, name]["cosine"] == 1
    assert rows[3, "float64"]["cosine"] > 0.9999
    assert rows[3, "bf16"]["noise"] > rows[3, "TF32"]["noise"] > rows[3, "float64"]["noise"]


def test_a_moved_student_stays(texts_NL):
    """Only the fake of a moved student is trained."""
    student = precision.moved(network())
    before = [p.clone() for p in student.parameters()]
    list(precision.walk("mdlm", network(), texts_NL, size(precisions=("TF32",)), PLAN))
    again = precision.moved(network())
    assert all(map(torch.equal, before, again.parameters()))


def test_files(monkeypatch, tmp_path, texts_NL):
    monkeypatch.setattr(precision, "MAIN", ("TF32", "bf16"))
    monkeypatch.setattr(precision, "SIZES", {"0.9M": size(precisions=("TF32", "bf16"))})
    monkeypatch.setattr(shipped, "texts", lambda length: texts_NL)
    for _ in range(2):  # the second time in the place of the first
        precision.main(["--sizes", "0.9M", "--cases", "mdlm", "--output", str(tmp_path)])
    rows = json.loads((tmp_path / "results.json").read_text())
    assert len(rows) == (2 + 1) * 2
    assert rows[0]["hardware"] and rows[0]["batch"] == 2
    assert "| moved | 0.001 | 3 | fake | bf16 |" in (tmp_path / "table.md").read_text()
