"""The alternating optimisation of IDLM, written once for all processes and hosts.

Updates are numbered u = 0, 1, 2, ...: ``fake_warmup`` updates of the fake alone, then cycles of
``fake_ratio`` fake updates and one student update. A student update ends a *pair*, the unit that is
counted, logged and limited. An update averages ``accumulate`` micro-batches on each process. With
``shared_forward`` the last fake update of a cycle and the student's are one, of the same student
output and x_s. That saves a micro-batch, and a forward pass of the student and one of the fake.

No network has dropout: the fake has to fit the student that is distilled and sampled, and with
dropout in either's own update the students are worse (results/dropout).

All randomness of a micro-batch (times, noise) comes from a seed made of the run's seed, u
and the micro-batch's place among all that make up the update. So a resumed run repeats what a
straight one does, and two processes see what one process with twice the accumulation sees.
"""

import collections
import copy
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from duo_ext import Refused
from duo_ext.core import adapters, holes, rounding
from duo_ext.core.networks import Denoiser
from duo_ext.core.process import Process

FAKE, STUDENT = "fake", "student"


@dataclass(frozen=True)
class Recipe:
    """How the updates follow each other."""

    fake_ratio: int = 1  # fake updates in a cycle
    fake_warmup: int = 0  # fake updates before the first cycle
    accumulate: int = 1  # micro-batches of an update
    clip: float = 0.0  # the largest gradient norm, or entry; 0 for any
    clip_by: str = "norm"  # what ``clip`` bounds: "norm", or "value" for an entry
    seed: int = 0
    shared_forward: bool = False
    compile: bool = False  # see ``compiling.compiled``
    infill: float = 0.0  # the share of texts in which a hole alone is written (``holes``)

    @classmethod
    def configured(cls, settings: Mapping, **others: int | float | str) -> "Recipe":
        """The recipe of a configuration's section ``algo``; ``others`` are the values that hosts
        keep elsewhere."""
        keys = ("fake_ratio", "fake_warmup", "shared_forward", "compile", "infill")
        return cls(**{key: settings[key] for key in keys}, **others)

    @property
    def cycle(self) -> int:
        """Updates in a cycle, hence in a pair."""
        return self.fake_ratio + 1 - self.shared_forward

    def ends_fakes_part(self, update: int) -> bool:
        """Whether an update is the fake's last one in its pair, or one before the first pair: then
        the fake's learning rate goes on, which is a schedule over pairs as the student's is."""
        done = update - self.fake_warmup
        return done < 0 or done % self.cycle == self.fake_ratio - 1

    def phase(self, update: int) -> tuple[str, ...]:
        """The networks that an update is for."""
        done = update - self.fake_warmup
        if done < 0 or (done + 1) % self.cycle:
            return (FAKE,)
        return (FAKE, STUDENT) if self.shared_forward else (STUDENT,)


@dataclass(frozen=True)
class Update:
    """One finished update, by the networks (FAKE, STUDENT) that it was for."""

    losses: dict[str, float]  # mean loss, in nats a token
    gradient_norms: dict[str, float]  # before clipping

    @property
    def ends_pair(self) -> bool:
        """Whether the student was updated."""
        return STUDENT in self.losses

    @property
    def logs(self) -> dict[str, float]:
        """What to plot: {"student/loss": ..., "student/grad_norm": ...}."""
        losses = {f"{name}/loss": loss for name, loss in self.losses.items()}
        return losses | {f"{name}/grad_norm": norm for name, norm in self.gradient_norms.items()}


@dataclass
class World:
    """The data-parallel processes of a run."""

    rank: int = 0  # the number of this one
    size: int = 1  # how many they are
    average: Callable = lambda tensors: None  # makes tensors their mean over all, in place


class Distiller:
    """Student, fake and frozen teacher with the state of their alternation.

    Of student and fake what requires a gradient is trained.

    ``student`` and ``fake`` are (network, optimizer, scheduler), each network a ``Denoiser``. The
    student is the caller's model, and the caller saves it. In the student's update the fake runs in
    the precision of ``teacher``, with which it is compared. ``backward(loss)`` runs the backward
    pass, by default the loss's own. ``step`` is called with one micro-batch at a time.
    """

    def __init__(
        self,
        process: Process,
        student: tuple,
        fake: tuple,
        teacher: Denoiser,
        recipe: Recipe,
        world: World | None = None,
        backward: Callable[[Tensor], None] | None = None,
    ):
        self.process, self.recipe, self.teacher = process, recipe, teacher
        process.compiled = recipe.compile
        self.networks, self.optimizers, self.schedulers = (
            dict(zip((STUDENT, FAKE), pair, strict=True))
            for pair in zip(student, fake, strict=True)
        )
        self.world = world or World()
        self.backward = backward or Tensor.backward
        self.updates = self.micro = 0
        self.loss_sums = {}
        self.compared = copy.copy(self.networks[FAKE])
        self.compared.precision = teacher.precision
        self.trained = {name: adapters.trained(n.backbone) for name, n in self.networks.items()}
        teacher.backbone.eval().requires_grad_(False)
        torch.set_float32_matmul_precision("high")  # products in float32 are TF32's on a GPU
        for optimizer in self.optimizers.values():
            _fuse(optimizer)

    def to_come(self, pairs: int) -> collections.Counter:
        """{phase: how many updates are left} until ``pairs`` pairs are done."""
        total = self.recipe.fake_warmup + pairs * self.recipe.cycle
        return collections.Counter(map(self.recipe.phase, range(self.updates, total)))

    @property
    def phase(self) -> tuple[str, ...]:
        """The networks that the next update is for."""
        return self.recipe.phase(self.updates)

    @property
    def pairs(self) -> int:
        """Student updates so far."""
        return max(0, self.updates - self.recipe.fake_warmup) // self.recipe.cycle

    def step(self, x0_BL: Tensor, given_BL: Tensor) -> Update | None:
        """Take one micro-batch of tokens (B, L) into account; the ``Update`` that it completes, or
        None. ``given_BL`` marks the tokens that are never noised and carry no loss.

        Raises Refused before the update, in all processes alike, if the loss or the gradient is
        not finite in one of them.
        """
        phase, accumulate = self.phase, self.recipe.accumulate
        torch.manual_seed(self._seed())
        if self.recipe.infill:
            given_BL = holes.opened(given_BL, self.recipe.infill)
        self.batch = x0_BL, given_BL
        if self.micro == 0:
            for optimizer in self.optimizers.values():  # the other's are of no more use either
                optimizer.zero_grad(set_to_none=True)
        for name, network in self.networks.items():
            network.backbone.eval()
            self._require_gradients(name, name in phase)
        losses = dict(zip(phase, self._losses(phase, x0_BL, given_BL), strict=True))
        with torch.autocast(x0_BL.device.type, enabled=False):  # products as in the forward pass
            self.backward(sum(losses.values()) / accumulate)
        for name in self.networks:  # a host's average passes over frozen parameters
            self._require_gradients(name, True)
        for name, loss in losses.items():
            self.loss_sums[name] = (
                self.loss_sums.get(name, 0.0) + loss.detach().double() / accumulate
            )
        self.micro += 1
        return self._update(phase) if self.micro == accumulate else None

    def gradient_cosine(self) -> float:
        """``rounding.gradient_cosine`` on the last micro-batch."""
        networks = self.networks[STUDENT], self.compared, self.teacher
        return rounding.gradient_cosine(self.process, *networks, *self.batch, self._seed())

    def _losses(self, phase, *batch):
        """One loss for each network of the phase; none has a graph to another network."""
        student, fake = self.networks[STUDENT], self.networks[FAKE]
        if phase == (FAKE,):
            return [self.process.fake_loss(student, fake, *batch)]
        if phase == (STUDENT,):
            return [self.process.student_loss(student, self.compared, self.teacher, *batch)]
        return self.process.losses(student, self.compared, self.teacher, *batch)

    def _seed(self):
        place = self.micro * self.world.size + self.world.rank
        parts = self.recipe.accumulate * self.world.size
        return (self.recipe.seed * 1_000_003 + self.updates * parts + place) % 2**63

    def _update(self, phase):
        gradients = {name: self._gradients(name) for name in phase}
        losses = [self.loss_sums[name].float() for name in phase]
        self.world.average([*itertools.chain(*gradients.values()), *losses])
        norms = [torch.nn.utils.get_total_norm(gradients[name]) for name in phase]
        update = Update(*(_by_name(phase, values) for values in _numbers(losses, norms)))
        for name in phase:
            self._require_finite(name, "loss", update.losses[name])
            self._require_finite(name, "gradient", update.gradient_norms[name])
        for name, norm in zip(phase, norms, strict=True):
            self._clip(gradients[name], norm)
            self.optimizers[name].step()
            if name == STUDENT or self.recipe.ends_fakes_part(self.updates):
                self.schedulers[name].step()
        self.updates, self.micro, self.loss_sums = self.updates + 1, 0, {}
        return update

    def _clip(self, gradients, norm):
        limit = self.recipe.clip
        if limit > 0 and self.recipe.clip_by == "value":
            torch._foreach_clamp_min_(gradients, -limit)
            torch._foreach_clamp_max_(gradients, limit)
        elif limit > 0:
            torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))

    def _require_gradients(self, name, required):
        for parameter in self.trained[name]:
            parameter.requires_grad_(required)

    def _gradients(self, name):
        return [p.grad for p in self.trained[name] if p.grad is not None]

    def _require_finite(self, name, what, value):
        if not math.isfinite(value):
            raise Refused(
                f"the {name}'s {what} after {self.pairs} pairs is {value}: stopped before "
                "the update; the last checkpoint is kept"
            )

    def state_dict(self) -> dict:
        """All that the student's own checkpoint does not hold, gradients of a begun update too."""
        return {
            "updates": self.updates,
            "micro": self.micro,
            "loss_sums": {name: loss.item() for name, loss in self.loss_sums.items()},
            "gradients": {
                name: [g.clone() for g in self._gradients(name)] for name in self.loss_sums
            },
            "fake": adapters.own_state(self.networks[FAKE].backbone),
            "fake_optimizer": self.optimizers[FAKE].state_dict(),
            "fake_scheduler": self.schedulers[FAKE].state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from what ``state_dict`` gave.

        Raises Refused if half an update of one process is to be shared among several.
        """
        if state["micro"] and self.world.size > 1:
            raise Refused(
                "the checkpoint was saved amid an update by one process; go on with one process "
                "until a checkpoint at the end of an update"
            )
        adapters.load_own_state(self.networks[FAKE].backbone, state["fake"])
        self.optimizers[FAKE].load_state_dict(state["fake_optimizer"])
        self.schedulers[FAKE].load_state_dict(state["fake_scheduler"])
        self.updates, self.micro = state["updates"], state["micro"]
        self.loss_sums = {
            name: torch.tensor(loss, dtype=torch.float64)
            for name, loss in state["loss_sums"].items()
        }
        for name, gradients in state["gradients"].items():
            for parameter, gradient in zip(self.trained[name], gradients, strict=True):
                parameter.grad = gradient.to(parameter.device)


def _numbers(*lists):
    """Lists of scalars on a device as numbers: the one time in an update that it is waited for."""
    numbers = iter(torch.stack([*itertools.chain(*lists)]).tolist())
    return [list(itertools.islice(numbers, len(values))) for values in lists]


def _by_name(names, values):
    return dict(zip(names, values, strict=True))


def _fuse(optimizer):
    """Let a fresh optimizer that can do so step all its parameters in one pass over each."""
    for group in optimizer.param_groups:
        if "fused" in group and not optimizer.state:
            group |= {"fused": True, "foreach": False}
