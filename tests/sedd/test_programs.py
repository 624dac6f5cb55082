"""python -m sedd_ext as a process: training, resuming, sampling, the bound, wrong inputs."""

import json
import os
import re
import signal
import time

import pytest
import torch
from hydra._internal.utils import get_args_parser

from duo_ext.core import adapters
from duo_ext.weights import adapter_folder
from sedd_ext import runs
from sedd_ext.__main__ import hydra_arguments


def same(found, wanted, tolerance=0.0):
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("line", "overrides"),
    {
        "--cfg job teacher=x algo=idlm": ["+algo=idlm", "teacher=x"],
        "teacher=x algo=idlm --cfg job": ["+algo=idlm", "teacher=x"],
        "~optim.lr data=sotu --cfg=job": ["+algo=sedd", "~optim.lr", "data=sotu"],
        "--cfg=job ++tokens=2": ["+algo=sedd", "++tokens=2"],
        "--cfg job": ["+algo=sedd"],
    }.items(),
)
def test_the_algorithm_is_the_first_override_and_hydras_flags_stay_flags(line, overrides):
    parsed = get_args_parser().parse_args(hydra_arguments(line.split(" ")))
    assert (parsed.cfg, parsed.overrides) == ("job", overrides)


def test_a_teacher_resumed_is_the_straight_one(run, teacher, tmp_path):
    """Bit for bit; the files are SEDD's."""
    run(tmp_path / "again", "training.n_iters=2")
    run(tmp_path / "again")
    same(run.state(tmp_path / "again"), run.state(teacher))
    saved = runs.read(f"{teacher}/{runs.LAST}", "last")
    assert saved["step"] == 4 and {"optimizer", "model", "ema", "step"} < saved.keys()
    assert (teacher / ".hydra" / "config.yaml").is_file()
    assert "step: 4, training_loss: " in (teacher / "logs").read_text()


def test_a_student_resumed_is_the_straight_one(run, teacher, student, idlm, tmp_path):
    run(tmp_path / "stopped", *idlm, "training.n_iters=2")
    run(tmp_path / "stopped", *idlm)
    same(run.state(tmp_path / "stopped"), run.state(student))
    assert not any(map(torch.equal, run.weights(student)[-30:], run.weights(teacher)[-30:]))
    for other, told in (
        ("seed=2", "its seed is 1, this run's 2"),
        ("optim.lr=1e-3", "its optim.lr is 0.01, this run's 0.001"),
        ("algo.fake_lr=1e-3", "its algo.fake_lr is None, this run's 0.001"),
    ):
        message = run(student, *idlm, other, code=1)
        assert f"holds a checkpoint of another run ({told})" in message


ADAPTERS = ("algo.adapter.rank=3", "algo.adapter.whole=['*.bias']")


@pytest.mark.parametrize("frozen", adapters.FROZEN)
def test_an_adapted_student_is_saved_merged_and_resumed_from_its_adapters(
    run, teacher, student, idlm, tmp_path, frozen
):
    """Bit for bit; moments and average are those of the adapters."""
    idlm += (*ADAPTERS, f"algo.adapter.frozen={frozen}")
    run(tmp_path / "straight", *idlm)
    run(tmp_path / "stopped", *idlm, "training.n_iters=2")
    run(tmp_path / "stopped", *idlm)
    found = {
        name: runs.read(f"{tmp_path}/{name}/{runs.LAST}", "last")
        for name in ("stopped", "straight")
    }
    for saved in found.values():
        del saved["idlm"]["run"]
    same(found["stopped"], found["straight"])
    saved, full = found["straight"], runs.read(f"{student}/{runs.LAST}", "last")
    own = saved["idlm"]["adapter"]
    assert len(own["average"]) == len(saved["optimizer"]["state"]) <= len(own["weights"])
    assert _shapes(saved["model"]) == _shapes(full["model"])
    averages = (dict(enumerate(s["ema"]["shadow_params"])) for s in (saved, full))
    assert len(set(map(str, map(_shapes, averages)))) == 1
    taught = runs.read(f"{teacher}/{runs.LAST}", "last")["ema"]["shadow_params"]
    moved = [
        not torch.equal(*pair) for pair in zip(saved["ema"]["shadow_params"], taught, strict=True)
    ]
    assert 20 < sum(moved) < len(moved)
    adapter_folder.write(tmp_path / "out", runs.denoiser(f"{tmp_path}/straight", ""), False, "")
    written = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"], written["bias"]) == (3, 3, "all")
    message = run(tmp_path / "straight", *idlm, "algo.adapter.rank=4", code=1)
    assert "another run (its algo.adapter.rank is 3, this run's 4)" in message


def _shapes(weights):
    return {name: value.shape for name, value in weights.items()}


def test_a_run_keeps_its_last_two_and_writes_a_step_once(run, student, idlm, tmp_path):
    """Its numbered checkpoints are other names of the last; and blocks that are computed again
    train the same student."""
    saves = ("training.snapshot_freq_for_preemption=1", "training.snapshot_freq=2")
    run(tmp_path / "run", *idlm, *saves, "algo.recompute_blocks=true")
    run(tmp_path / "run", *idlm, *saves)  # there is no more to do, and nothing to save
    folder = tmp_path / "run" / "checkpoints-meta"
    last, before = folder / "checkpoint.pth", folder / "previous.pth"
    assert [runs.read(str(path), "key")["step"] for path in (last, before)] == [4, 3]
    assert {path.name for path in folder.iterdir()} == {last.name, before.name}
    assert last.samefile(tmp_path / "run" / "checkpoints" / "checkpoint_2.pth")
    same(run.state(tmp_path / "run"), run.state(student))


def test_a_sweep_has_a_folder_for_each_of_its_runs(run, tmp_path):
    """One folder for all would let the second go on from the first one's end, and train nothing."""
    sweep = ("training.n_iters=1", "optim.lr=1e-2,1e-4", f"hydra.sweep.dir={tmp_path}/sweep", "-m")
    run(tmp_path / "unused", *sweep)
    rates = [
        runs.read(f"{tmp_path}/sweep/{job}/{runs.LAST}", "last")["idlm"]["run"]["optim.lr"]
        for job in (0, 1)
    ]
    assert rates == [1e-2, 1e-4]
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_an_ended_run_is_saved_and_goes_on_where_it_was(run, teacher, idlm, tmp_path, number):
    """Ended as by a cluster; in the middle of an update."""
    logs = tmp_path / "ended" / "logs"
    process = run.start(logs.parent, *idlm, "training.n_iters=100000")
    while not logs.exists() or "step: 1," not in logs.read_text():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in printed
    (steps,) = map(int, re.findall(r"interrupted after (\d+) steps: ", printed))
    for folder in ("ended", "straight"):
        run(tmp_path / folder, *idlm, f"training.n_iters={steps + 2}")
    same(run.state(tmp_path / "ended"), run.state(tmp_path / "straight"))


def test_two_processes_are_one_with_accumulation(run, teacher, student, idlm, tmp_path):
    shared, sharing = tmp_path / "one", (*idlm, "algo.shared_forward=true")
    run(shared, *sharing)
    adapted, adapting = tmp_path / "adapted", (*idlm, *ADAPTERS)
    run(adapted, *adapting)
    runs_of_one = (teacher, ()), (student, idlm), (shared, sharing), (adapted, adapting)
    for one, own in runs_of_one:
        two = tmp_path / f"{one.name}-two"
        run(two, *own, "training.accum=1", processes=2)
        same(run.weights(two), run.weights(one), tolerance=1e-6)
        for column in (1, 2):  # loss and gradient norm
            found, wanted = ([line[column] for line in run.logged(f)] for f in (two, one))
            assert found == pytest.approx(wanted, rel=2e-5)  # six digits are logged


def test_samples_and_the_bound_of_a_student(run, student, tmp_path):
    sampling = ("mode=sample", f"checkpoint={student}", "sampling.steps=3.0")
    ends = ("sampling.samples=10", "sampling.prefix=we", "sampling.suffix=end")
    by_core = "algo=idlm", "teacher=none", "algo.sampler=spread", "algo.grid=linear"
    for own in (("sampling.predictor=analytic",), ("sampling.predictor=euler",), by_core):
        run(tmp_path, *sampling, *ends, *own)
        texts = json.loads((tmp_path / "samples" / "samples.json").read_text())["texts"]
        assert len(texts) == 10
        assert all(text.startswith("we") and text.endswith("end") for text in texts)
    printed = run(tmp_path, "mode=eval", f"checkpoint={student}")
    found = json.loads((tmp_path / "eval.json").read_text())
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
def test_a_wrong_input_is_one_sentence(run, tmp_path, overrides, sentence):
    message = run(tmp_path, *overrides, code=1)
    assert f"error: {sentence}" in message and "Traceback" not in message


def test_the_uniform_graph_has_no_student(run, tmp_path):
    uniform = ("graph.type=uniform", "model.scale_by_sigma=false")
    run(tmp_path / "uniform", *uniform, "training.n_iters=1")
    given = ("algo=idlm", f"teacher={tmp_path / 'uniform'}")
    message = run(tmp_path / "student", *uniform, *given, code=1)
    assert (
        "error: graph.type is 'uniform'; algo=idlm and the core's samplers take absorb" in message
    )
    sampling = ("mode=sample", f"checkpoint={tmp_path / 'uniform'}", "sampling.steps=2")
    run(tmp_path / "sampled", *uniform, *sampling, "sampling.samples=4")
    message = run(tmp_path / "out", *uniform, *sampling, "sampling.renormalise=true", code=1)
    assert "error: graph.type is 'uniform'; a temperature and renormalised" in message


def test_a_sedd_checkpoint_of_numpy_numbers_is_read_and_no_other_object(tmp_path):
    import numpy

    content = {"model": {}, "ema": {"shadow_params": []}, "step": 1, "lr": numpy.float64(1e-3)}
    torch.save(content, tmp_path / "a.pth")
    assert runs.read(str(tmp_path / "a.pth"), "key")["lr"] == 1e-3

    class Foreign:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "proof"),)

    torch.save(content | {"x": Foreign()}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"b.pth'; it holds '\w+.mkdir', which could run code"):
        runs.read(str(tmp_path / "b.pth"), "key")
    assert not (tmp_path / "proof").exists()
