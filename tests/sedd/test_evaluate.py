"""The guard, evaluate and export of sedd_ext, as processes on tiny runs."""

import json
import subprocess
import sys

import pytest
import torch

from duo_ext.report.results import load
from duo_ext.weights import pretrained
from sedd_ext import host, runs

LOOKS = ("algo.guard.every=2", "algo.guard.steps=[2]", "algo.guard.samples=6")
LOOKS += (
    "algo.guard.teacher_steps=2",
    "algo.guard.entropy=9",
    "algo.guard.unigram_kl=9",
    "algo.guard.word_length=9",
)


def command(module, *arguments, code=0):
    """What ``python -m module`` prints, in the standalone tree."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments), "--host", str(host.STANDALONE)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def guarded(run, teacher, idlm):
    """The folder of a distillation that the guard watched."""
    folder = teacher.with_name("guarded")
    run(folder, *idlm, *LOOKS, "training.eval_freq=2")
    return folder


def test_two_processes_share_a_look(run, guarded, idlm, tmp_path):
    """The teacher's texts are those of one process, and so are the student's but for the rounding
    of its gradient; ``training.micro_batch`` is the accumulation of one."""
    two = tmp_path / "two"
    shared = (*idlm, *LOOKS, "algo.guard.samples=20")
    run(two, *shared, "training.micro_batch=2", processes=2)
    run(tmp_path / "one", *shared, "training.micro_batch=2")
    found, wanted = (
        json.loads((folder / "guard.json").read_text()) for folder in (two, tmp_path / "one")
    )
    assert found["teacher"] == wanted["teacher"] and found["kept"] == wanted["kept"]
    assert [look["pair"] for look in found["history"]] == [2, 4]
    for weights in zip(run.weights(two), run.weights(guarded), strict=True):
        torch.testing.assert_close(*weights, rtol=0, atol=1e-6)


def test_the_guard_keeps_a_student_and_is_resumed(run, student, guarded, idlm, tmp_path):
    """Looking changes nothing of the training; the best student's file is a checkpoint."""
    assert all(map(torch.equal, run.weights(guarded), run.weights(student)))
    history = json.loads((guarded / "guard.json").read_text())
    assert [entry["pair"] for entry in history["history"]] == [2, 4]
    best = runs.read(f"{guarded}/{runs.BEST}", "best")
    assert best["step"] == history["kept"]
    logs = (guarded / "logs").read_text()
    assert "step: 2, guard/genppl_2: " in logs and "step: 4, evaluation_loss: " in logs
    assert "guard/gradient_cosine: 1.00000e+00" in logs  # on a CPU nothing is rounded

    run(tmp_path / "stopped", *idlm, *LOOKS, "training.n_iters=2")
    run(tmp_path / "stopped", *idlm, *LOOKS)
    assert json.loads((tmp_path / "stopped" / "guard.json").read_text()) == history


def test_a_student_outside_the_bounds_ends_the_run(run, idlm, tmp_path):
    bounds = ("algo.guard.entropy=0", "algo.guard.patience=1")
    printed = run(tmp_path / "out", *idlm, *LOOKS, *bounds)
    assert "the guard stops the distillation after 2 pairs" in printed
    assert "no student was inside the guard's bounds" in printed
    assert runs.read(f"{tmp_path}/out/{runs.LAST}", "last")["step"] == 2
    run(tmp_path / "out", *idlm, *LOOKS, *bounds)  # and stays so
    assert runs.read(f"{tmp_path}/out/{runs.LAST}", "last")["step"] == 2


def test_snapshots_are_checkpoints_with_texts(run, teacher, tmp_path):
    run(tmp_path / "run", "training.snapshot_freq=2", "sampling.steps=2")
    for step in (2, 4):
        saved = runs.read(f"{tmp_path}/run/checkpoints/checkpoint_{step // 2}.pth", "saved")
        assert saved["step"] == step
        assert (tmp_path / "run" / "samples" / f"iter_{step}" / "sample_0.txt").read_text()
    assert all(map(torch.equal, run.weights(tmp_path / "run"), run.weights(teacher)))


def test_evaluate_draws_what_mode_sample_draws(run, teacher, student, tmp_path):
    command(
        "sedd_ext.evaluate", "--teacher", teacher, "--student", student, "--steps", 1, 3,
        "--predictor", "analytic", "renormalised", "--temperature", 0.5, 1, "--samples", 10,
        "--batch-size", 8, "--output", tmp_path / "out",
    )  # fmt: skip
    results = load(str(tmp_path / "out"))
    assert len(results["rows"]) == 2 * 2 * 2 * 2
    assert {row["host"] for row in results["rows"]} == {"standalone"}
    assert all(row["evaluations"] == row["steps"] + 1 for row in results["rows"])
    assert len({row["genppl"] for row in results["rows"]}) > 12
    sampling = ("mode=sample", f"checkpoint={student}", "sampling.samples=10", "sampling.steps=3")
    run(tmp_path / "own", *sampling, "sampling.predictor=analytic")
    own = json.loads((tmp_path / "own" / "samples" / "samples.json").read_text())
    (row,) = (
        row for row in results["rows"]
        if (row["model"], row["steps"], row["predictor"]) == ("student", 3, "analytic")
        and row["temperature"] == 1
    )  # fmt: skip
    assert row["algo"] == "idlm" and row["genppl"] == pytest.approx(own["genppl"]["value"])
    assert row["entropy"] == pytest.approx(own["entropy"])


def test_evaluate_draws_by_rows(student, tmp_path):
    rows = ("--student", student, "--steps", 40, "--sampler", "ancestral", "--samples", 4)
    rows += ("--batch-size", 4, "--output", tmp_path / "out")
    command("sedd_ext.evaluate", *rows, "--predictor", "analytic", "renormalised")
    analytic, renormalised = load(str(tmp_path / "out"))["rows"]
    assert analytic["sampler"] == renormalised["sampler"] == "ancestral"
    for row in (analytic, renormalised):  # a step that draws no token needs no network
        assert 1 < row["evaluations"] < 41
    results = ("--results", tmp_path / "out" / "results.json")
    for number, path in enumerate((student, f"{student}/{runs.LAST}")):  # a run, and its file
        command("sedd_ext.export", path, *results, "--output", tmp_path / f"card {number}")
        assert "## Results" in (tmp_path / f"card {number}" / "README.md").read_text()
    for wrong, sentence in (
        (("--predictor", "euler"), "--predictor is euler; --sampler ancestral has analytic"),
        (("--temperature", 0.5), "--temperature is 0.5; --sampler ancestral takes one with"),
    ):
        assert f"error: {sentence}" in command("sedd_ext.evaluate", *rows, *wrong, code=1)


def test_an_exported_student_is_the_student(run, student, tmp_path):
    command("sedd_ext.export", student, "--output", tmp_path / "folder")
    described = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert described.keys() == {"algo", "tokens", "graph", "noise", "model", "data"}
    assert described["algo"] == {"name": "idlm", **described["algo"]}
    saved = runs.denoiser(str(student), "key")
    exported = pretrained.load(str(tmp_path / "folder"), "key")
    trained = [name for name in saved.weights if not name.endswith("inv_freq")]
    for name, average in zip(trained, saved.average, strict=True):
        assert torch.equal(exported.weights[name], average)
    sampling = ("mode=sample", "sampling.samples=4", "sampling.steps=2")
    for name in (student, tmp_path / "folder"):
        run(tmp_path / name.name, *sampling, f"checkpoint={name}")
    texts = [
        (tmp_path / name / "samples" / "samples.json").read_text() for name in ("student", "folder")
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("module", "arguments", "sentence"),
    [
        ("evaluate", ("--student", "none.pth"), "--student is 'none.pth'; it cannot be opened"),
        ("evaluate", (), "nothing to evaluate: give --teacher or --student"),
        ("export", ("none.pth",), "CHECKPOINT is 'none.pth'; it cannot be opened"),
    ],
)
def test_a_wrong_input_is_one_sentence(tmp_path, module, arguments, sentence):
    message = command(f"sedd_ext.{module}", *arguments, "--output", tmp_path / "out", code=1)
    assert f"error: {sentence}" in message and "Traceback" not in message


def test_a_checkpoint_without_its_configuration(student, tmp_path):
    (tmp_path / "bare.pth").write_bytes((student / runs.LAST).read_bytes())
    message = command(
        "sedd_ext.evaluate", "--student", tmp_path / "bare.pth", "--output", tmp_path, code=1
    )
    assert "it carries no configuration to sample it with; give SEDD's settings" in message
