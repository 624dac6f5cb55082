"""duo_ext.trainer: how a training ends, and what is saved of it."""

import contextlib
import signal
import types

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos import boring_classes

from duo_ext.trainer import CleanInterrupt, LastStep, manual_trainer
from duo_ext.training.interrupt import SIGNALS, TIME_IS_UP

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, about a module that is boring


class Boring(boring_classes.ManualOptimBoringModel):
    """A module that steps itself; ``before_step[n]()`` is called before step n,
    ``before_step["look n"]()`` as a look of the guard after n steps."""

    val_dataloader = test_dataloader = watch = None

    def __init__(self, path, before_step, distiller):
        super().__init__()
        self.path, self.before_step, self.distiller = path, before_step, distiller

    def train_dataloader(self):
        self.before_step.get("data", int)()
        return super().train_dataloader()

    def file(self, name):
        return str(self.path)

    def look_if_due(self):
        self.before_step.get(f"look {self.global_step}", int)()

    def training_step(self, batch, batch_idx):
        self.before_step.get(self.global_step, int)()
        self.distiller.updates = self.distiller.pairs = self.global_step + 1
        return super().training_step(batch, batch_idx)


@pytest.fixture
def fit(tmp_path):
    """``fit(3)`` trains three steps, saving every second and the end; the path of last.ckpt.
    A checkpoint holds ``fit.found``."""
    path = tmp_path / "checkpoints" / "last.ckpt"

    def run(steps, before_step=None):
        regular = ModelCheckpoint(
            path.parent, save_last=True, save_top_k=0, every_n_train_steps=2,
            enable_version_counter=False,
        )  # fmt: skip
        trainer = manual_trainer(
            [regular, LastStep(str(path))],
            accelerator="cpu", max_steps=steps, logger=False, default_root_dir=tmp_path,
        )  # fmt: skip
        distiller = types.SimpleNamespace(
            updates=0, pairs=0, micro=0, phase="step", to_come=lambda pairs: {"step": pairs}
        )
        run.trainer, model = trainer, Boring(path, before_step or {}, distiller)
        model.on_save_checkpoint = lambda checkpoint: checkpoint.update(found=[*run.found])
        trainer.fit(model)
        return path

    run.folder, run.found = path.parent, []
    return run


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_the_end_is_saved_whether_or_not_it_is_a_regular_step(fit, steps):
    path = fit(steps)
    assert step_of(path) == steps
    before = step_of(path.with_name("previous.ckpt")) if steps > 2 else None
    assert before == {1: None, 3: 2, 4: 2}[steps]
    assert {file.name for file in path.parent.iterdir()} <= {"last.ckpt", "previous.ckpt"}


@pytest.fixture
def written(monkeypatch):
    """The steps at which a checkpoint is written, each as often as it is."""
    steps, save = [], torch.save
    monkeypatch.setattr(
        torch, "save", lambda given, file: steps.append(given["global_step"]) or save(given, file)
    )
    return steps


def test_a_step_is_written_once_however_many_save_it(fit, written):
    """Regularly, after a look of the guard, at the epoch's end and at the end of the training."""
    best, last = fit.folder / "best.ckpt", fit.folder / "last.ckpt"
    fit(64, {"look 63": lambda: fit.trainer.save_checkpoint(str(best))})
    assert written == [*range(2, 63, 2), 63, 64]
    fit(66, {f"look {n}": lambda: fit.trainer.save_checkpoint(str(best)) for n in (65, 66)})
    assert written[-3:] == [64, 65, 66]
    assert step_of(best) == step_of(last) == 66
    assert best.samefile(last)


def test_what_a_look_finds_is_in_the_checkpoint_of_its_step(fit):
    """Also if the run is interrupted there."""
    for steps, signals in ((2, {}), (9, {1: lambda: signal.raise_signal(signal.SIGTERM)})):
        fit.found.clear()
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            fit(steps, {"look 2": lambda: fit.found.append("found"), **signals})
        saved = torch.load(fit.folder / "last.ckpt", weights_only=True)
        assert (saved["global_step"], saved["found"]) == (2, ["found"])


def fail():
    raise ValueError("no")


def test_a_training_that_fails_has_no_end_to_save(fit, tmp_path):
    with pytest.raises(ValueError, match="no"):
        fit(9, {3: fail})
    assert step_of(tmp_path / "checkpoints" / "last.ckpt") == 2


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_saves_the_step_that_it_came_in_and_no_other_end(fit, tmp_path, number):
    handlers = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises((KeyboardInterrupt, SystemExit)) as stop:
        fit(9, {4: lambda: signal.raise_signal(number)})
    assert isinstance(stop.value, KeyboardInterrupt) or stop.value.code == 1
    assert step_of(tmp_path / "checkpoints" / "last.ckpt") == 5
    assert [signal.getsignal(each) for each in SIGNALS] == handlers


def test_a_signal_that_is_ignored_stays_so(fit):
    """As nohup ignores SIGHUP, and a shell SIGINT for what it puts in the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert step_of(fit(6, {4: lambda: signal.raise_signal(signal.SIGHUP)})) == 6
    finally:
        signal.signal(signal.SIGHUP, before)


SCONTROL = """#!/bin/sh
echo "$@" >> {called}
"""


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """A job of SLURM's with a stand-in for scontrol; the file of what that was called with."""
    called, program = tmp_path / "called", tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(SCONTROL.format(called=called))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    job = {"JOB_ID": 7, "JOB_NAME": "distil", "NTASKS": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    return called


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize("number", TIME_IS_UP)
def test_slurm_queues_again_a_job_whose_time_is_up(
    fit, tmp_path, slurm, monkeypatch, number, array
):
    if array:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(9, {4: lambda: signal.raise_signal(number)})
    assert slurm.read_text() == f"requeue {'5_2' if array else '7'}\n"
    assert step_of(tmp_path / "checkpoints" / "last.ckpt") == 5
    assert not list(tmp_path.rglob("hpc_ckpt*"))


def test_slurm_queues_again_no_job_that_was_told_to_end(fit, slurm):
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(9, {4: lambda: signal.raise_signal(signal.SIGTERM)})
    assert not slurm.exists()


def test_lightnings_requeueing_hears_no_signal_while_the_data_is_made_either(fit, slurm):
    heard = []
    fit(1, {"data": lambda: heard.append(signal.getsignal(signal.SIGUSR1))})
    assert heard == [signal.SIG_DFL] and not slurm.exists()


def test_a_checkpoint_of_lightnings_requeueing_is_not_taken_up(fit, tmp_path, slurm):
    """It was saved amid an update; what is taken up is what the settings name."""
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(fit(5).read_bytes())
    started = []
    fit(2, {0: lambda: started.append(0)})
    assert started


class Several:
    """A trainer of two processes of which another was interrupted, or none."""

    world_size = 2

    def __init__(self, other):
        self.strategy = self
        self.other, self.asked = other, 0

    def reduce_boolean_decision(self, decision, all):
        self.asked += 1
        return decision or self.other


@pytest.mark.parametrize("other", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_several_processes_stop_together_at_the_end_of_an_update(own, other):
    callback, trainer = CleanInterrupt(), Several(other)
    callback.interrupt.asked = own
    module = types.SimpleNamespace(distiller=types.SimpleNamespace(micro=1))
    assert not callback._stops(trainer, module) and trainer.asked == 0
    module.distiller.micro = 0
    assert callback._stops(trainer, module) == (own or other) and trainer.asked == 1
