"""Ancestral sampling: a step of the process after the other, from noise to data.

A host's sampler forms probabilities (B, L, V) in float64 at every step. Here the body of the
network runs for the sequences of which a position changes, its head and the draw for those
positions, chunk by chunk (``rows``).
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from duo_ext.core import rows
from duo_ext.core.networks import Denoiser
from duo_ext.core.sampled import Sampled

# order(process, given_BL, alphas) gives changes(alpha_t), the numbers (B, L) that decide which
# positions change in a step from alpha_t (``Sampled.reverse``). ``alphas`` are those of the steps.
Order = Callable[[Sampled, Tensor, Tensor], Callable[[Tensor], Tensor | None]]


def independent(
    process: Sampled, given_BL: Tensor, alphas: Tensor
) -> Callable[[Tensor], Tensor | None]:
    """An ``Order`` without any: the numbers are the process's own."""
    return lambda alpha_t: None


def in_order(rank_BL: Tensor) -> Callable[[Tensor], Tensor]:
    """changes(alpha_t) by which each position changes once, where alpha passes its rank."""
    return lambda alpha_t: (rank_BL - alpha_t) / (1 - alpha_t)


def sample(
    process: Sampled,
    student: Denoiser,
    x0_BL: Tensor,
    given_BL: Tensor,
    times_K: Tensor,
    noise_removal: str = "ancestral",
    order: Order = independent,
) -> Tensor:
    """Tokens (B, L) by the process's own steps. ``order`` decides which positions change together,
    by default each by itself."""
    changes = order(process, given_BL, levels(process, times_K, given_BL))

    def step(z_BL, alpha_t, alpha_s):
        return process.reverse(student, z_BL, alpha_t, alpha_s, given_BL, changes(alpha_t))

    return walk(step, process, student, x0_BL, given_BL, times_K, noise_removal)


@torch.no_grad()
def walk(
    step: Callable[[Tensor, Tensor, Tensor], Tensor],
    process: Sampled,
    student: Denoiser,
    x0_BL: Tensor,
    given_BL: Tensor,
    times_K: Tensor,
    noise_removal: str,
) -> Tensor:
    """Tokens (B, L) by step(z_BL, alpha_t, alpha_s) -> z_BL between the times, from the process's
    noise to the end that ``noise_removal`` names."""
    z_BL = process.prior(x0_BL, given_BL)
    alphas = levels(process, times_K, given_BL)
    if noise_removal == "ancestral":
        alphas = torch.cat([alphas, alphas.new_ones(1)])
    for alpha_t, alpha_s in itertools.pairwise(alphas):
        z_BL = step(z_BL, alpha_t, alpha_s)
    if noise_removal == "greedy":
        z_BL = process.greedy(student, z_BL, alphas[-1], given_BL)
    return z_BL


def levels(process: Sampled, times_K: Tensor, given_BL: Tensor) -> Tensor:
    """alpha at the times (K,), where the texts are."""
    return process.schedule(times_K.to(given_BL.device))[0]


def descend(
    process: Sampled,
    student: Denoiser,
    z_BL: Tensor,
    alphas: Tensor,
    given_BL: Tensor,
    steps_B: Tensor,
    changes: Callable[[Tensor], Tensor | None],
) -> Tensor:
    """z_BL, in place, after the first ``steps_B`` (B,) of the steps between successive alphas;
    ``changes`` as an ``Order`` gives it."""
    for step, (alpha_t, alpha_s) in enumerate(itertools.pairwise(alphas)):
        (going,) = rows.positions(steps_B > step)
        if not len(going):  # a network need not take a batch of nothing
            break
        changes_BL = changes(alpha_t)
        z_BL[going] = process.reverse(
            student,
            z_BL[going],
            alpha_t,
            alpha_s,
            given_BL[going],
            changes_BL if changes_BL is None else changes_BL[going],
        )
    return z_BL
