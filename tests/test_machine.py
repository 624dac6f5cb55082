"""duo_ext.machine: bf16 where a CPU imitates it, and what says so."""

import pytest
import torch
from omegaconf import OmegaConf

from duo_ext import machine, settings
from sedd_ext import settings as sedd_settings


@pytest.fixture
def imitating(monkeypatch):
    """A CPU without bf16 instructions."""
    monkeypatch.setattr(machine, "bf16_factor", lambda: 6.63)


def test_the_factor_is_of_two_times_that_were_measured(monkeypatch):
    seconds, threads = {"torch.bfloat16": 6e-3, "torch.float32": 2e-3}, torch.get_num_threads()

    def timed(dtype):
        assert torch.get_num_threads() == 1  # more say little where other programs run
        return seconds[str(dtype)]

    monkeypatch.setattr(machine, "_seconds", timed)
    assert machine.bf16_factor.__wrapped__() == pytest.approx(3)
    assert torch.get_num_threads() == threads
    monkeypatch.undo()
    assert 0.05 < machine.bf16_factor() < 50


@pytest.mark.parametrize(
    ("factor", "line"), [(6.63, "6.6 times slower than float32, which +machine=cpu sets"),
                         (0.5, "2.0 times as fast as float32")],
)  # fmt: skip
def test_what_check_says(monkeypatch, factor, line):
    monkeypatch.setattr(machine, "bf16_factor", lambda: factor)
    assert machine.cpu() == f"bf16 on this CPU: {line}"


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "duo_ext"]


def test_a_bf16_that_was_asked_for_is_warned_of_once_with_the_factor(imitating, tiny, caplog):
    settings.check(tiny("algo=mdlm", "trainer.precision=bf16"))
    (message,) = told(caplog)
    assert "trainer.precision is bf16" in message and "6.6 times as long" in message


def test_a_distillation_is_asked_for_its_own_precision(imitating, tiny, caplog):
    given = ("algo=idlm", "algo.teacher_path=x", "trainer.precision=bf16")
    settings.check(tiny(*given))
    assert not told(caplog)
    settings.check(tiny(*given, "algo.precision=bf16"))
    (message,) = told(caplog)
    assert "algo.precision is bf16" in message


@pytest.mark.parametrize(
    "given", [["trainer.precision=32"], ["mode=sample_eval", "trainer.precision=bf16"]]
)
def test_nobody_is_warned_of_float32_or_where_no_precision_is_used(imitating, tiny, caplog, given):
    settings.check(tiny("algo=mdlm", *given))
    assert not told(caplog)


def test_nobody_is_warned_where_the_cpu_has_bf16(monkeypatch, tiny, caplog):
    monkeypatch.setattr(machine, "bf16_factor", lambda: 0.5)
    settings.check(tiny("algo=mdlm", "trainer.precision=bf16"))
    assert not told(caplog)


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_sedd_warns_too(imitating, caplog, device):
    config = OmegaConf.create(
        {
            "mode": "train", "seed": 1, "device": device, "precision": "bf16",
            "optim": {"lr": 1, "warmup": 0, "grad_clip": 1}, "sampling": {"steps": 1, "samples": 1},
            "model": dict.fromkeys(("length", "n_blocks", "n_heads", "hidden_size"), 1),
            "eval": {"batch_size": 1, "perplexity_batch_size": 1},
            "training": dict.fromkeys(
                ("batch_size", "accum", "n_iters", "log_freq", "eval_freq", "snapshot_freq",
                 "snapshot_freq_for_preemption", "ema"), 1) | {"micro_batch": None},
            "noise": {"sigma_min": 1, "sigma_max": 2},
        }
    )  # fmt: skip
    sedd_settings.check(config)
    (message,) = told(caplog)
    assert "precision is bf16" in message and "6.6 times as long" in message
