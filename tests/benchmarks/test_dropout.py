"""The rules of dropout do what their names say, and the benchmark runs."""

import json

import pytest
import torch

from benchmarks import dropout, shipped

V, L = 33, 128


def network(name=None, dropout=0.0):
    torch.manual_seed(0)
    network = shipped.dit(V, width=32, blocks=1, cond=16, dropout=0.5, heads=2, length=L)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(shipped, "teacher", network)
    monkeypatch.setattr(dropout, "BATCH", 2)
    monkeypatch.setattr(dropout, "WARMUP", 1)


@pytest.fixture
def texts_NL():
    torch.manual_seed(1)
    return torch.randint(V - 1, (8, L))


# (student in the fake's update, fake), (student, fake) in the student's
MODES = {
    "none": [(False, False), (False, False)],
    "own": [(False, True), (True, False)],
    "fake": [(False, True), (False, False)],
    "both": [(True, True), (True, False)],
}


@pytest.mark.parametrize("rule", dropout.RULES)
def test_modes(rule, texts_NL):
    machine = dropout.make("mdlm", rule, 1, 0)
    student, fake = (machine.networks[name].backbone for name in ("student", "fake"))
    seen = []
    for name in ("fake_loss", "student_loss"):
        loss = getattr(machine.process, name)

        def watched(*arguments, loss=loss):
            seen.append((student.training, fake.training))
            assert not machine.teacher.backbone.training
            return loss(*arguments)

        setattr(machine.process, name, watched)
    for _ in range(2):
        machine.step(texts_NL[:2], torch.zeros(2, L, dtype=torch.bool))
    assert seen == MODES[rule]


def test_none_is_what_the_distiller_does(texts_NL):
    updates = []
    for cls in (dropout.Ruled, dropout.distiller.Distiller):
        machine = dropout.make("mdlm", "none", 1, 0)
        machine.__class__ = cls
        batch = texts_NL[:2], torch.zeros(2, L, dtype=torch.bool)
        updates.append([machine.step(*batch) for _ in range(2)])
    assert updates[0] == updates[1]


def test_files(monkeypatch, tmp_path, texts_NL):
    monkeypatch.setattr(shipped, "texts", lambda *a, **k: texts_NL)
    command = "--cases mdlm --seeds 1 --pairs 1 --samples 2 --fit 1 --micro-batches 2"
    dropout.main([*command.split(), "--output", str(tmp_path)])
    found = json.loads((tmp_path / "results.json").read_text())
    assert len(found["distillations"]) == len(dropout.RULES) * len(dropout.STEPS)
    ways = {row["rule"]: row for row in found["gradients"]}
    assert list(ways)[:-1] == list(dropout.RULES)
    assert ways["none"]["cosine"] == pytest.approx(1)
    assert "| mdlm | both | 16 | 1 |" in (tmp_path / "table.md").read_text()
