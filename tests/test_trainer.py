"""duo_ext.trainer: how a training ends, and what is saved of it."""

import signal
import types

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos import boring_classes

from duo_ext.trainer import CleanInterrupt, LastStep, manual_trainer

SIGNALS = signal.SIGINT, signal.SIGTERM
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, about a module that is boring


class Boring(boring_classes.ManualOptimBoringModel):
    """A module that steps itself; ``before_step[n]()`` is called before step n."""

    val_dataloader = test_dataloader = None

    def __init__(self, path, before_step):
        super().__init__()
        self.path, self.before_step = path, before_step

    def file(self, name):
        return str(self.path)

    def training_step(self, batch, batch_idx):
        self.before_step.get(self.global_step, int)()
        return super().training_step(batch, batch_idx)


@pytest.fixture
def fit(tmp_path):
    """``fit(3)`` trains three steps, saving every second and the end; the path of last.ckpt."""
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
        trainer.fit(Boring(path, before_step or {}))
        return path

    return run


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_the_end_is_saved_whether_or_not_it_is_a_regular_step(fit, steps):
    path = fit(steps)
    assert step_of(path) == steps
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


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
