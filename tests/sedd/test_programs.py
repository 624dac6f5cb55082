"""python -m sedd_ext as a process: training, resuming, sampling, the bound, wrong inputs."""

import json
import os
import subprocess
import sys

import pytest
import torch

from sedd_ext import runs

TINY = (
    "data=sotu",
    "model=sotu",
    "model.hidden_size=32",
    "model.cond_dim=16",
    "model.n_blocks=2",
    "model.n_heads=2",
    "model.length=16",
    "model.dropout=0.1",
    "tokens=32",
    "training.batch_size=4",
    "training.accum=2",
    "training.n_iters=4",
    "training.log_freq=1",
    "training.ema=0.5",
    "optim.warmup=2",
    "eval.batch_size=8",
    "eval.judge=${idlm_asset:judge}",
)


@pytest.fixture(scope="session")
def text(text_folder, tmp_path_factory):
    return (f"data.train={text_folder}", f"data.cache_dir={tmp_path_factory.mktemp('tokens')}")


@pytest.fixture
def run(text, tmp_path):
    """``run("algo=idlm", ..., out="run")``: the command in the tiny setting; what it prints."""

    def call(*overrides, out="run", code=0, host=()):
        place = f"hydra.run.dir={tmp_path / out}"
        command = [sys.executable, "-m", "sedd_ext", *host, *TINY, *text, place, *overrides]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    return call


def state(folder):
    """All that a run's last checkpoint goes on from, as a flat list of tensors."""
    saved = runs.read(f"{folder}/{runs.LAST}", "last")
    return [*saved["model"].values(), *saved["ema"]["shadow_params"]], saved


def test_a_teacher_and_its_student_resumed_are_the_straight_ones(run, tmp_path):
    """Bit for bit; the files are SEDD's."""
    run(out="teacher")
    run("training.n_iters=2", out="again")
    run(out="again")
    straight, saved = state(tmp_path / "teacher")
    assert all(map(torch.equal, straight, state(tmp_path / "again")[0]))
    assert saved["step"] == 4 and {"optimizer", "model", "ema", "step"} < saved.keys()
    assert (tmp_path / "teacher" / ".hydra" / "config.yaml").is_file()
    assert "step: 4, training_loss: " in (tmp_path / "teacher" / "logs").read_text()

    idlm = ("algo=idlm", f"teacher={tmp_path / 'teacher'}", "algo.fake_warmup=1")
    run(*idlm, out="student")
    run(*idlm, "training.n_iters=2", out="stopped")
    run(*idlm, out="stopped")
    student, saved = state(tmp_path / "student")
    assert all(map(torch.equal, student, state(tmp_path / "stopped")[0]))
    assert not any(map(torch.equal, saved["ema"]["shadow_params"], straight[-30:]))
    message = run(*idlm, "seed=2", out="student", code=1)
    assert "error: the run folder holds a checkpoint of another run" in message

    sampling = ("mode=sample", f"checkpoint={tmp_path / 'student'}", "sampling.steps=3")
    ends = ("sampling.samples=10", "sampling.prefix=we", "sampling.suffix=end")
    for predictor in ("analytic", "euler"):
        run(*sampling, *ends, f"sampling.predictor={predictor}", out="sampled")
        texts = json.loads((tmp_path / "sampled" / "samples" / "samples.json").read_text())["texts"]
        assert len(texts) == 10
        assert all(text.startswith("we") and text.endswith("end") for text in texts)
    printed = run("mode=eval", f"checkpoint={tmp_path / 'student'}", out="bound")
    found = json.loads((tmp_path / "bound" / "eval.json").read_text())
    assert f"nll {found['nll']:.4f}" in printed and 0 < found["nll"] < 10


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("algo=idlm", "teacher=none.pth"), "teacher is 'none.pth'; it cannot be opened"),
        (("tokens=31",), "tokens is 31; data.tokenizer"),
        (("training.batch_size=5",), "training.batch_size is 5; it must be a multiple of"),
        (("mode=fly",), "mode is 'fly'; it must be one of train, sample, eval"),
        (("device=tpu",), "device is 'tpu'; torch cannot use it here"),
    ],
)
def test_a_wrong_input_is_one_sentence(run, overrides, sentence):
    message = run(*overrides, code=1)
    assert f"error: {sentence}" in message and "Traceback" not in message


def test_the_uniform_graph_has_no_student(run, tmp_path):
    uniform = ("graph.type=uniform", "model.scale_by_sigma=false")
    run(*uniform, "training.n_iters=1", out="uniform")
    message = run(*uniform, "algo=idlm", f"teacher={tmp_path / 'uniform'}", code=1)
    assert "error: graph.type is 'uniform'; algo=idlm takes absorb" in message


def test_a_sedd_checkpoint_of_numpy_numbers_is_read_and_no_other_object(tmp_path):
    import numpy

    content = {"model": {}, "ema": {}, "step": 1, "lr": numpy.float64(1e-3)}
    torch.save(content, tmp_path / "a.pth")
    assert runs.read(str(tmp_path / "a.pth"), "key")["lr"] == 1e-3

    class Foreign:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "proof"),)

    torch.save(content | {"x": Foreign()}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"key is .*b.pth'; it is damaged, .* or holds other"):
        runs.read(str(tmp_path / "b.pth"), "key")
    assert not (tmp_path / "proof").exists()
