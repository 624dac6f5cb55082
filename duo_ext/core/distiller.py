"""The alternating optimisation of IDLM, written once for all processes and hosts.

Updates are numbered u = 0, 1, 2, ...: ``fake_warmup`` updates of the fake alone, then cycles of
``fake_ratio`` fake updates and one student update. A student update ends a *pair*, the unit that is
counted, logged and limited. An update averages ``accumulate`` micro-batches on each process.

All randomness of a micro-batch (times, noise, dropout) comes from a seed made of the run's seed, u
and the micro-batch's place among all that make up the update. So a resumed run repeats what a
straight one does, and two processes see what one process with twice the accumulation sees.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

FAKE, STUDENT = "fake", "student"


@dataclass(frozen=True)
class Recipe:
    """How the updates follow each other; ``clip`` is the largest gradient norm, 0 for any."""

    fake_ratio: int = 1
    fake_warmup: int = 0
    accumulate: int = 1
    clip: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Update:
    """One finished update: which network, its mean loss in nats per token, its gradient norm."""

    phase: str
    loss: float
    gradient_norm: float


@dataclass
class Processes:
    """The data-parallel processes; ``average`` makes tensors their mean over all, in place."""

    rank: int = 0
    world: int = 1
    average: Callable = lambda tensors: None


class Distiller:
    """Student, fake and frozen teacher with the state of their alternation.

    ``student`` and ``fake`` are (network, optimizer, scheduler) with network a ``Denoiser``; what
    the student's optimizer steps is the caller's model, so it is saved by the caller. ``backward``
    takes a loss. ``step`` is called with one micro-batch at a time.
    """

    def __init__(self, process, student, fake, teacher, recipe, processes=None, backward=None):
        self.process, self.recipe, self.teacher = process, recipe, teacher
        self.networks, self.optimizers, self.schedulers = (
            dict(zip((STUDENT, FAKE), pair, strict=True))
            for pair in zip(student, fake, strict=True)
        )
        self.processes = processes or Processes()
        self.backward = backward or torch.Tensor.backward
        self.updates = self.micro = 0
        self.loss_sum = 0.0
        teacher.backbone.eval().requires_grad_(False)
        for optimizer in self.optimizers.values():
            _fuse(optimizer)

    @property
    def phase(self):
        """Which network the next update is for."""
        cycle = self.updates - self.recipe.fake_warmup
        in_cycle = cycle % (self.recipe.fake_ratio + 1)
        return FAKE if cycle < 0 or in_cycle < self.recipe.fake_ratio else STUDENT

    @property
    def pairs(self):
        """Student updates so far."""
        return max(0, self.updates - self.recipe.fake_warmup) // (self.recipe.fake_ratio + 1)

    def step(self, x0_BL, given_BL):
        """Take one micro-batch into account; the ``Update`` that it completes, or None.

        Raises ValueError before the update, in all processes alike, if the loss or the gradient is
        not finite in one of them.
        """
        phase, accumulate = self.phase, self.recipe.accumulate
        if self.micro == 0:
            for optimizer in self.optimizers.values():  # the other's are of no more use either
                optimizer.zero_grad(set_to_none=True)
        for name, network in self.networks.items():
            network.backbone.train(name == phase)
            network.backbone.requires_grad_(name == phase)
        torch.manual_seed(self._seed())
        loss = self._loss(phase, x0_BL, given_BL)
        self.backward(loss / accumulate)
        self.loss_sum += loss.item() / accumulate
        self.micro += 1
        return self._update(phase) if self.micro == accumulate else None

    def _loss(self, phase, x0_BL, given_BL):
        student, fake = self.networks[STUDENT], self.networks[FAKE]
        if phase == FAKE:
            return self.process.fake_loss(student, fake, x0_BL, given_BL)
        return self.process.student_loss(student, fake, self.teacher, x0_BL, given_BL)

    def _seed(self):
        place = self.micro * self.processes.world + self.processes.rank
        parts = self.recipe.accumulate * self.processes.world
        return (self.recipe.seed * 1_000_003 + self.updates * parts + place) % 2**63

    def _update(self, phase):
        gradients = self._gradients(phase)
        loss = next(self.networks[phase].backbone.parameters()).new_tensor(self.loss_sum)
        self.processes.average([*gradients, loss])
        norm = torch.nn.utils.get_total_norm(gradients)
        self._require_finite("loss", loss)
        self._require_finite("gradient", norm)
        if self.recipe.clip > 0:
            torch._foreach_mul_(gradients, (self.recipe.clip / (norm + 1e-6)).clamp(max=1.0))
        self.optimizers[phase].step()
        self.schedulers[phase].step()
        done = Update(phase, loss.item(), norm.item())
        self.updates, self.micro, self.loss_sum = self.updates + 1, 0, 0.0
        return done

    def _gradients(self, phase):
        parameters = self.networks[phase].backbone.parameters()
        return [p.grad for p in parameters if p.grad is not None]

    def _require_finite(self, what, value):
        if not torch.isfinite(value):
            raise ValueError(
                f"the {self.phase}'s {what} after {self.pairs} pairs is {value.item()}: stopped "
                "before the update; the last checkpoint is kept"
            )

    def state_dict(self):
        """All that the student's own checkpoint does not hold, gradients of a begun update too."""
        return {
            "updates": self.updates,
            "micro": self.micro,
            "loss_sum": self.loss_sum,
            "gradients": [g.clone() for g in self._gradients(self.phase)] if self.micro else [],
            "fake": self.networks[FAKE].backbone.state_dict(),
            "fake_optimizer": self.optimizers[FAKE].state_dict(),
            "fake_scheduler": self.schedulers[FAKE].state_dict(),
        }

    def load_state_dict(self, state):
        """Raises ValueError if half an update of one process is to be shared among several."""
        if state["micro"] and self.processes.world > 1:
            raise ValueError(
                "the checkpoint was saved amid an update by one process; go on with one process "
                "until a checkpoint at the end of an update"
            )
        self.networks[FAKE].backbone.load_state_dict(state["fake"])
        self.optimizers[FAKE].load_state_dict(state["fake_optimizer"])
        self.schedulers[FAKE].load_state_dict(state["fake_scheduler"])
        self.updates, self.micro = state["updates"], state["micro"]
        self.loss_sum = state["loss_sum"]
        if state["gradients"]:
            parameters = self.networks[self.phase].backbone.parameters()
            for parameter, gradient in zip(parameters, state["gradients"], strict=True):
                parameter.grad = gradient.to(parameter.device)


def _fuse(optimizer):
    """Let a fresh optimizer that can do so step all its parameters in one pass over each."""
    for group in optimizer.param_groups:
        if "fused" in group and not optimizer.state:
            group |= {"fused": True, "foreach": False}
