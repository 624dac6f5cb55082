"""What a distillation's checkpoint holds besides the host's, and how a run goes on from it."""

import copy
import os

import omegaconf

from duo_ext import Refused
from duo_ext.core import adapters
from duo_ext.files import sweep
from duo_ext.settings import LASTING, chosen
from duo_ext.weights import checkpoints
from duo_ext.weights.checkpoints import PLACE

LAST, BEST = "checkpoints/last.ckpt", "checkpoints/best.ckpt"

# What no run changes when it goes on.
OF_THE_RUN = (*LASTING, "seed", "loader.global_batch_size", "loader.batch_size", "training.ema")
OF_THE_RUN += ("optim", "lr_scheduler", "trainer.gradient_clip_val")
OF_THE_RUN += ("trainer.gradient_clip_algorithm",)


class Resumed:
    """The checkpoints of a distillation: a part of ``algorithms.Distillation``.

    ``resumed`` is what our part of a checkpoint held from which the run goes on; None once the
    training has started, or where it begins anew. ``unwatched`` is the guard's state in it, which a
    run without a guard hands on.
    """

    def sweep(self) -> None:
        """Remove the files that a killed run has left half-written in this run's folder."""
        if self.trainer.is_global_zero:
            for name in (LAST, "guard.json"):
                sweep(os.path.dirname(self.file(name)))

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """The student as a plain checkpoint of the host's, and what a resumed run needs besides.

        Duo's own hook counts progress by the steps of automatic optimisation, of which there are
        none here, and pickles its configuration. In their place stay Lightning's counts and plain
        values.
        """
        loops = copy.deepcopy(checkpoint["loops"])
        super().on_save_checkpoint(checkpoint)
        config = omegaconf.OmegaConf.to_container(self.config, resolve=False)
        checkpoint |= {"loops": loops, "hyper_parameters": {"config": config}}
        checkpoint["idlm"] = {
            "format": checkpoints.FORMAT,
            "run": self._identity(),
            "distiller": self.distiller.state_dict(),
            "guard": self.watch.guard.state_dict() if self.watch else self.unwatched,
        }
        if adapters.adapted(self.backbone):
            self._merge(checkpoint)

    def _merge(self, checkpoint):
        """Put merged weights in the place of the adapters, which go under our key."""
        average = self.ema.shadow_params if self.ema else None
        weights, average, ours = adapters.plain(self.backbone, average)
        checkpoint["state_dict"] = {PLACE + name: value for name, value in weights.items()}
        if self.ema:
            checkpoint["ema"] = checkpoint["ema"] | {"shadow_params": average}
        checkpoint["idlm"]["adapter"] = ours

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Keep our part of the checkpoint, in training; Refused if it is another run's."""
        if self.opponents is not None:
            self._go_on(checkpoint)
        super().on_load_checkpoint(checkpoint)

    def _go_on(self, checkpoint):
        saved = checkpoints.ours(checkpoint, "checkpointing.resume_ckpt_path")
        if differing := checkpoints.differing(saved and saved["run"], self._identity()):
            raise Refused(
                "checkpointing.resume_ckpt_path: the checkpoint belongs to another run "
                f"({differing}); use another run folder, or checkpointing.resume_from_ckpt=false"
            )
        self.resumed, self.unwatched = saved, saved["guard"]
        if adapters.adapted(self.backbone):
            average = adapters.go_on(self.backbone, saved["adapter"])
            checkpoint["state_dict"] = self.state_dict()
            if self.ema:
                checkpoint["ema"] = checkpoint["ema"] | {"shadow_params": average}

    def _identity(self):
        """What must be the same for a checkpoint to be this run's."""
        return {"teacher": self.opponents.teacher_sha256, **chosen(self.config, OF_THE_RUN)}
