"""The Lightning trainer of a distillation: progress in pairs, a clean stop when asked for."""

import io
import logging
import sys
import warnings

import lightning
import torch
import tqdm
from lightning.pytorch.plugins.io import TorchCheckpointIO

from duo_ext.files import write_whole
from duo_ext.interrupt import Interrupt

LAST, BEST = "checkpoints/last.ckpt", "checkpoints/best.ckpt"


class WholeFile(TorchCheckpointIO):
    """Writes a checkpoint beside the one that it replaces, then moves it there.

    Lightning's own way leads through the system's temporary folder. Where that is another disk, the
    move is a copy over the old checkpoint, and a kill or a full disk amid it leaves neither.
    """

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_whole(path, buffer.getvalue())


class LastStep(lightning.Callback):
    """Saves the end of a training, which need not be one of the steps that are saved regularly."""

    def __init__(self, path):
        self.path = path

    def on_train_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path)


class PairProgress(lightning.Callback):
    """A bar of pairs with their rate and the time left."""

    def on_train_start(self, trainer, pl_module):
        self.bar = tqdm.tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            unit="pair",
            mininterval=0.5 if sys.stderr.isatty() else 15,
            disable=not trainer.is_global_zero,
        )

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        metrics = trainer.callback_metrics
        losses = {k: f"{v:.4f}" for k, v in metrics.items() if k.endswith("/loss")}
        self.bar.set_postfix(losses, refresh=False)
        self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, trainer, pl_module):
        self.bar.close()

    def on_exception(self, trainer, pl_module, exception):
        if hasattr(self, "bar"):
            self.bar.close()


class CleanInterrupt(lightning.Callback):
    """At SIGINT or SIGTERM the micro-batch is finished and saved, so that the run can be resumed
    exactly.

    Several processes stop together at the end of an update, once one of them was asked to: half an
    update is in no one checkpoint.
    """

    def __init__(self):
        self.interrupt = Interrupt()

    def on_train_start(self, trainer, pl_module):
        self.interrupt.begin()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self._stops(trainer, pl_module):
            path = pl_module.file(LAST)
            trainer.save_checkpoint(path)
            if trainer.is_global_zero:
                tqdm.tqdm.write(f"interrupted after {trainer.global_step} pairs; saved {path}")
            raise KeyboardInterrupt

    def _stops(self, trainer, pl_module):
        if trainer.world_size == 1:
            return self.interrupt.asked
        asks = pl_module.distiller.micro == 0
        return asks and trainer.strategy.reduce_boolean_decision(self.interrupt.asked, all=False)

    def on_train_end(self, trainer, pl_module):
        self.interrupt.end()

    def on_exception(self, trainer, pl_module, exception):
        self.interrupt.end()


def manual_trainer(callbacks=(), gradient_clip_val=None, accumulate_grad_batches=1, **settings):
    """A Lightning Trainer for a module that steps, clips and accumulates itself.

    The distiller reads ``gradient_clip_val`` and ``accumulate_grad_batches`` from the config;
    Lightning refuses them for manual optimisation.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # the bar says it all
    warnings.filterwarnings("ignore", message=".*ModelCheckpoint.*manual optimization")
    settings.setdefault("enable_progress_bar", False)
    settings.setdefault("enable_model_summary", False)
    own = [CleanInterrupt(), PairProgress()]
    return lightning.Trainer(callbacks=[*callbacks, *own], plugins=[WholeFile()], **settings)
