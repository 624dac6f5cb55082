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


def independent(alpha_t: Tensor) -> None:
    """The numbers that decide the changes of a step are the process's own."""
    return None


def sample(
    process: Sampled,
    student: Denoiser,
    x0_BL: Tensor,
    given_BL: Tensor,
    times_K: Tensor,
    noise_removal: str = "ancestral",
    changes: Callable[[Tensor], Tensor | None] = independent,
) -> Tensor:
    """Tokens (B, L) by the process's own steps. ``changes(alpha_t)`` (B, L) decide which positions
    change in a step (``Sampled.reverse``), by default each by itself."""

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
    alphas, _ = process.schedule(times_K.to(x0_BL.device))
    if noise_removal == "ancestral":
        alphas = torch.cat([alphas, alphas.new_ones(1)])
    for alpha_t, alpha_s in itertools.pairwise(alphas):
        z_BL = step(z_BL, alpha_t, alpha_s)
    if noise_removal == "greedy":
        z_BL = process.greedy(student, z_BL, alphas[-1], given_BL)
    return z_BL


def descend(
    process: Sampled,
    student: Denoiser,
    z_BL: Tensor,
    alphas: Tensor,
    given_BL: Tensor,
    steps_B: Tensor,
    changes: Callable[[Tensor], Tensor | None] = independent,
) -> Tensor:
    """z_BL, in place, after the first ``steps_B`` (B,) of the steps between successive alphas."""
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
