"""algo=idlm: IDLM with a SEDD teacher."""

from collections.abc import Mapping

import torch
from torch import Tensor

from duo_ext.core import adapters
from duo_ext.core.distiller import STUDENT, World
from duo_ext.data.texts import Tokenizer
from duo_ext.settings import LASTING, check_idlm, chosen, inputs
from duo_ext.training.opponents import Opponents
from duo_ext.training.recompute import prepare_blocks
from sedd_ext import host, looks, runs
from sedd_ext.parts import Parts


class IDLM:
    """An ``algorithms.Algorithm``: distils the checkpoint ``teacher`` into a few-step student.

    The student is the model of ``parts``; teacher and fake have its shape. Raises Refused for
    settings that no distillation can have, and for a teacher of another shape.
    """

    counts = "pair"

    def __init__(self, parts: Parts, world: World):
        config = parts.config
        check_idlm(config.algo, config.model.length)
        if config.algo.guard.every:
            looks.noise_removal_of(config)
        self.parts, self.world = parts, world
        self.watch = self.saved_guard = None
        prepare_blocks(parts.model, config.algo)  # the other networks are its copies
        saved = runs.denoiser(config.teacher, "teacher")
        self.opponents = Opponents.read(saved, parts.model, config, "teacher")
        self.state = runs.new_state(parts)
        self.distiller = self._make_distiller()

    def _make_distiller(self):
        config, fake = self.parts.config, adapters.trained(self.opponents.fake)
        fake_optimizer = host.active().module("losses").get_optimizer(config, fake)
        for group in fake_optimizer.param_groups:
            group["lr"] = config.algo.fake_lr or config.optim.lr
        return self.opponents.distiller(
            self.parts.process(**inputs(config.algo)),
            self.parts.model,
            config.algo,
            optimizers=map(self._scheduled, (self.state["optimizer"], fake_optimizer)),
            time_conditioning=True,
            world=self.world,
            accumulate=config.training.accum,
            clip=max(0.0, config.optim.grad_clip),
            seed=config.seed,
        )

    def _scheduled(self, optimizer):
        """(the optimizer, SEDD's schedule of it): linear warm-up, then constant."""
        warmup = self.parts.config.optim.warmup
        return optimizer, torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, 1.0) if warmup > 0 else 1.0
        )

    def step(self, x_BL: Tensor, given_BL: Tensor | None) -> dict[str, float] | None:
        """Give the distiller one micro-batch; after a pair, update the student's average."""
        given_BL = torch.zeros_like(x_BL, dtype=torch.bool) if given_BL is None else given_BL
        given_BL[:, : self.parts.config.algo.prompt_length] = True
        update = self.distiller.step(x_BL, given_BL)
        if update is None:
            return None
        if update.ends_pair:
            self.state["step"] += 1
            self.state["ema"].update(self.parts.model.parameters())
        return update.logs

    @property
    def updates(self) -> int:
        return self.distiller.updates

    @property
    def phase(self) -> tuple[str, ...]:
        return self.distiller.phase

    def to_come(self, steps: int) -> Mapping:
        return self.distiller.to_come(steps)

    @property
    def whole(self) -> bool:
        """One process can save half an update, several cannot."""
        return self.world.size == 1 or self.distiller.micro == 0

    def begin(self, tokenizer: Tokenizer, valid: torch.utils.data.Dataset) -> None:
        """Make the guard where one is asked for: it measures the teacher, or goes on."""
        if self.parts.config.algo.guard.every:
            self.watch = looks.make(self, tokenizer, valid).begin(self.saved_guard)

    def look(self) -> tuple[dict[int, dict], bool, bool] | None:
        pair = self.state["step"]
        return self.watch.look(pair) if self.watch and self.watch.due(pair) else None

    def state_dict(self) -> dict:
        return {
            "guard": self.watch.guard.state_dict() if self.watch else self.saved_guard,
            "distiller": self.distiller.state_dict(),
            "student_scheduler": self.distiller.schedulers[STUDENT].state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        self.saved_guard = state["guard"]
        self.distiller.load_state_dict(state["distiller"])
        self.distiller.schedulers[STUDENT].load_state_dict(state["student_scheduler"])

    @property
    def identity(self) -> dict:
        sha256 = self.opponents.teacher_sha256
        return {"teacher": sha256, **chosen(self.parts.config, LASTING)}
