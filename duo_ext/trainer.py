"""The Lightning trainer of a distillation: progress in pairs, a clean stop when asked for."""

import functools
import logging
from collections.abc import Iterable

import lightning
import tqdm
from lightning import LightningModule
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector

from duo_ext.commands.line import hush
from duo_ext.training.interrupt import Interrupt
from duo_ext.training.progress import Progress
from duo_ext.training.resuming import LAST
from duo_ext.weights import saves


class WholeFile(TorchCheckpointIO):
    """Writes a checkpoint beside the one that it replaces, then moves it there.

    Lightning's own way leads through the system's temporary folder. Where that is another disk, the
    move is a copy over the old checkpoint, and a kill or a full disk amid the copy leaves neither
    the old one nor the new.
    """

    def save_checkpoint(self, checkpoint: dict, path: str, storage_options: object = None) -> None:
        saves.write(path, checkpoint)


def micro_batches(trainer: lightning.Trainer) -> int:
    """How many micro-batches the training has seen, also before it was resumed."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.ready


class Trainer(lightning.Trainer):
    """Lightning's trainer, except that no state is written twice.

    The regular save, the one at an epoch's end, the guard's best and the end of the training may
    fall on one step.
    """

    def __init__(self, **settings):
        super().__init__(**settings)
        self.saves = saves.Saves()

    def save_checkpoint(
        self, filepath: str, weights_only: bool | None = None, storage_options: object = None
    ) -> None:
        write = functools.partial(super().save_checkpoint, filepath, weights_only, storage_options)
        state = micro_batches(self), bool(weights_only)
        self.saves.save(state, filepath, write, links=self.is_global_zero)
        self.strategy.barrier()


class LastStep(lightning.Callback):
    """Saves the end of a training, which may lie between the steps that are saved regularly."""

    def __init__(self, path: str):
        self.path = path

    def on_train_start(self, trainer: lightning.Trainer, pl_module: LightningModule) -> None:
        self.start = micro_batches(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: LightningModule) -> None:
        if micro_batches(trainer) > self.start:
            trainer.save_checkpoint(self.path)


class Looks(lightning.Callback):
    """Lets the guard look before a step is saved, so that the checkpoint holds what it found."""

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: dict,
        batch_idx: int,
    ) -> None:
        pl_module.look_if_due()


class PairProgress(lightning.Callback):
    """The bar of a distillation; its looks at the student have bars of their own."""

    progress = None

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: LightningModule, batch: dict, batch_idx: int
    ) -> None:
        distiller, watch = pl_module.distiller, pl_module.watch
        pairs = trainer.max_steps
        if self.progress is None:  # the distiller is made after the callbacks' on_train_start
            self.progress = Progress(
                distiller.to_come(pairs),
                distiller.updates,
                "pair",
                lambda: watch.seconds_to_come(distiller.pairs, pairs) if watch else 0.0,
                show=trainer.is_global_zero,
            )
        self.updates, self.phase = distiller.updates, distiller.phase
        self.progress.begin()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: dict,
        batch_idx: int,
    ) -> None:
        done = pl_module.distiller.updates > self.updates
        metrics = trainer.callback_metrics
        losses = {name: x for name, x in metrics.items() if name.endswith("/loss")}
        self.progress.end(self.phase if done else None, pl_module.distiller.pairs, losses)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: LightningModule) -> None:
        self.close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the bar, if there is one."""
        if self.progress:
            self.progress.close()


class CleanInterrupt(lightning.Callback):
    """At a signal to stop, finishes the micro-batch and saves, so that the run can be resumed
    exactly.

    Where the signal says that a SLURM job's time is up, the job is queued again. Several processes
    stop together at the end of an update once one of them was asked to, because no checkpoint holds
    half an update of several processes.
    """

    def __init__(self):
        self.interrupt = Interrupt()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: LightningModule) -> None:
        self.interrupt.begin()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: dict,
        batch_idx: int,
    ) -> None:
        if self._stops(trainer, pl_module):
            path = pl_module.file(LAST)
            trainer.save_checkpoint(path)
            if trainer.is_global_zero:
                tqdm.tqdm.write(f"interrupted after {trainer.global_step} pairs; saved {path}")
                self.interrupt.requeue()
            raise KeyboardInterrupt

    def _stops(self, trainer, pl_module):
        if trainer.world_size == 1:
            return self.interrupt.asked
        asks = pl_module.distiller.micro == 0
        return asks and trainer.strategy.reduce_boolean_decision(self.interrupt.asked, all=False)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: LightningModule) -> None:
        self.interrupt.end()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.interrupt.end()


class OwnCheckpoints(_CheckpointConnector):
    """Tells Lightning that there is no checkpoint of its own requeueing under SLURM.

    It would go on from that one, which was saved amid an update, whatever the settings say.
    """

    _hpc_resume_path = None


def manual_trainer(
    callbacks: Iterable[lightning.Callback] = (),
    gradient_clip_val: float | None = None,
    gradient_clip_algorithm: str | None = None,
    accumulate_grad_batches: int = 1,
    **settings,
) -> Trainer:
    """A Lightning Trainer for a module that steps, clips and accumulates itself.

    ``gradient_clip_*`` and ``accumulate_grad_batches`` go no further: the distiller reads them from
    the configuration, and Lightning refuses them for manual optimisation.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # the bar says it all
    hush()  # also where a host's own main.py makes it
    settings.setdefault("enable_progress_bar", False)
    settings.setdefault("enable_model_summary", False)
    plugins = [WholeFile()]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))
    callbacks = [PairProgress(), Looks(), *callbacks, CleanInterrupt()]
    trainer = Trainer(callbacks=callbacks, plugins=plugins, **settings)
    trainer._checkpoint_connector = OwnCheckpoints(trainer)
    return trainer
