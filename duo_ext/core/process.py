"""What a process owes the distiller; what it owes the samplers is ``sampled``.

A process is how tokens are corrupted. One object of it holds all in which the teachers differ. Its
two losses are what the two updates of a pair minimise:

    fake_loss     l_s(f_phi(x_s, s); xhat) for the fake's parameters            (9)
    student_loss  l_s(f*(x_s, s); xhat) - l_s(f_phi(x_s, s); xhat) for theta    (10)

with z_t ~ p_t(. | x0), xhat = G_theta(z_t, t) on the simplex, x_s ~ p_s(. | xhat), and l the loss
that the teacher was trained with, its clean token relaxed to the simplex. Both are means over the
tokens that are not given, in nats (0 if all are given). Terms of (10) without theta are left out.
``losses`` gives both losses of one xhat and one x_s, and runs each network once.

Shapes, here and in the modules of the processes: B batch, L length, N = B L positions, V
vocabulary, R of the positions, which are given by their indices (``rows.positions``). Networks are
``networks.Denoiser``. ``given_BL`` marks positions that keep their token everywhere and carry no
loss. Levels are alpha, the share of the clean token that is left, in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from duo_ext.core import compiling, rollout, rows
from duo_ext.core.networks import Denoiser
from duo_ext.core.sampled import Sampled
from duo_ext.core.samplers import ancestral


def sample_times(n: int, eps: float, device: torch.device) -> Tensor:
    """n times in (eps, 1], one in each of n equal strata, in random order; float64 (n,)."""
    u = torch.rand(n, dtype=torch.float64, device=device)
    strata = torch.randperm(n, device=device)
    return eps + (1 - eps) * (strata + u) / n


@dataclass(kw_only=True)
class Process(Sampled):
    """The losses of a pair, made of three methods of each process.

    ``_sample(student, x0_BL, given_BL)``, one x_s and the student's output, with ``head(network)``,
    the logits of a network that sees x_s, and ``detach()``; ``_fitted(sample, fake)``, the loss (9)
    of these and of the fake's logits; ``_compared(sample, teacher, fake)``, the loss (10).

    How the student's inputs are drawn: ``input_times`` draws t; ``on_policy``, ``rollout_*``,
    ``order``: see ``rollout``. ``compiled``: the losses' closed forms (``losses``) are applied as
    ``compiling.compiled`` makes them.
    """

    eps: float = 1e-3  # the least time
    input_times: Callable = sample_times
    on_policy: float = 0.0
    rollout_steps: tuple = (4,)
    rollout_grid: str = "linear"
    rollout_target: str = rollout.TEXT
    rollout_stops: Callable = rollout.sample_stops
    order: Callable = ancestral.independent
    uniforms: Callable = rows.uniforms
    compiled: bool = False

    def fake_loss(
        self, student: Denoiser, fake: Denoiser, x0_BL: Tensor, given_BL: Tensor
    ) -> Tensor:
        """(9), a scalar whose gradients are the fake's."""
        with torch.no_grad():
            sample = self._sample(student, x0_BL, given_BL)
        return self._fitted(sample, sample.head(fake))

    def student_loss(
        self, student: Denoiser, fake: Denoiser, teacher: Denoiser, x0_BL: Tensor, given_BL: Tensor
    ) -> Tensor:
        """(10), a scalar whose gradients are the student's."""
        sample = self._sample(student, x0_BL, given_BL)
        return self._compared(sample, sample.head(teacher), sample.head(fake))

    def losses(
        self, student: Denoiser, fake: Denoiser, teacher: Denoiser, x0_BL: Tensor, given_BL: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(fake_loss, student_loss) of the same sample; x_s must carry no gradient."""
        sample = self._sample(student, x0_BL, given_BL)
        fitted = sample.head(fake)
        loss = self._fitted(sample.detach(), fitted)
        return loss, self._compared(sample, sample.head(teacher), fitted.detach())

    def _form(self, loss):
        return compiling.compiled(loss) if self.compiled else loss
