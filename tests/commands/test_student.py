"""commands.student: the texts of a checkpoint from Python are those of ``evaluate``."""

import sys
import warnings

import pytest
import torch

from duo_ext import Refused, evaluate, host, load_student
from duo_ext.commands import options, streams
from duo_ext.measuring.subject import Setting


@pytest.fixture
def student(standalone, teacher):
    path = teacher("mdlm")
    return path, load_student(path, host=host.STANDALONE, device="cpu")


@pytest.mark.parametrize("sampler", ["host", "ancestral"])
def test_texts_are_those_of_evaluate(student, sampler):
    path, found = student
    given = options.parse(
        evaluate.SIDE,
        ["--student", path, "--samples", "5", "--output", "", "--device", "cpu"],
    )
    subject = evaluate.load("student", path, given)
    wanted, _, _ = streams.sample([(subject, Setting(4, sampler, temperature=0.9))], given)[0]
    tokens = found.sample_tokens(5, steps=4, sampler=sampler, temperature=0.9)
    assert torch.equal(tokens, wanted) and tokens.shape == (5, found.length)
    texts = found.sample(5, steps=4, sampler=sampler, temperature=0.9)
    assert texts == found.frame.decode(wanted)
    assert texts != found.sample(5, steps=4, seed=4, sampler=sampler, temperature=0.9)


def test_a_host_may_call_its_network_by_name(student, monkeypatch):
    """As Duo's main does."""
    _, found = student
    network, seen = type(found._subject.model.backbone), []

    def named(self, x, sigma=None):
        return torch.nn.Module.__call__(self, x=x, sigma=sigma)

    monkeypatch.setattr(network, "__call__", named)
    [tokens] = found.batches(3, steps=2, sampler="host", see=seen.append)
    assert tokens.shape == (3, found.length)
    assert len(seen) == 3 and all(z_BL.shape == tokens.shape for z_BL in seen)


def test_warnings_of_a_checkouts_modules_are_left_out(standalone, teacher, monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", [])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_student(teacher("mdlm"), host=host.STANDALONE, device="cpu")
        warnings.warn("`torch.cuda.amp.autocast(args...)` is deprecated.", FutureWarning, 1)
    assert [w for w in caught if "is deprecated" in str(w.message)] == []


def test_a_step_that_the_host_has_not_is_refused(student):
    with pytest.raises(Refused, match=r"--predictor is 'foo'; it must be one of ancestral, psi"):
        student[1].sample(steps=1, predictor="foo")


def test_what_cannot_be_loaded_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"^--student is '.*none.ckpt'; it cannot be opened"):
        load_student(tmp_path / "none.ckpt", host=host.STANDALONE)


@pytest.mark.parametrize(
    ("way", "sentence"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"temperature": 0}, "temperature is 0; it must be above 0"),
        ({"nucleus": 2}, "nucleus is 2; it must be above 0, at most 1"),
        ({"noise_removal": "gredy"}, "noise_removal is gredy; it must be one of ancestral, greedy"),
        ({"count": 0}, "--samples is 0; at least 1"),
        ({"batch_size": -1}, "--batch-size is -1; at least 1"),
        ({"seed": -1}, "--seed is -1; at least 0"),
    ],
)
def test_a_way_in_which_no_text_can_be_written_is_refused(student, way, sentence):
    with pytest.raises(Refused, match=f"^{sentence}"):
        student[1].sample(**way)


def test_a_device_that_is_not_there_is_refused(teacher, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Refused, match=r"^device is 'cuda:99'; torch cannot use it here"):
        load_student(teacher("mdlm"), host=host.STANDALONE, device="cuda:99")
