"""Ancestral sampling: a step of the process after the other, from noise to data.

A host's sampler forms probabilities (B, L, V) in float64 at every step. Here the body of the
network runs for the sequences of which a position changes, its head and the draw for those
positions, chunk by chunk (``rows``).
"""

import itertools

import torch

from duo_ext.core import rows


def sample(process, student, x0_BL, given_BL, times_K, noise_removal="ancestral"):
    """Tokens (B, L) by the process's own steps, in which each position changes by itself."""
    return walk(process, student, x0_BL, given_BL, times_K, noise_removal)


def independent(alpha_t):
    """The numbers that decide the changes of a step are the process's own."""
    return None


@torch.no_grad()
def walk(process, student, x0_BL, given_BL, times_K, noise_removal, uniforms=independent):
    """Tokens (B, L) by steps of the process between the times.

    ``uniforms(alpha_t)`` (B, L) decide which positions change in a step (``Sampled.reverse``).
    """
    z_BL = process.prior(x0_BL, given_BL)
    alphas, _ = process.schedule(times_K.to(x0_BL.device))
    if noise_removal == "ancestral":
        alphas = torch.cat([alphas, alphas.new_ones(1)])
    for alpha_t, alpha_s in itertools.pairwise(alphas):
        z_BL = process.reverse(student, z_BL, alpha_t, alpha_s, given_BL, uniforms(alpha_t))
    if noise_removal == "greedy":
        z_BL = process.greedy(student, z_BL, alphas[-1], given_BL)
    return z_BL


def descend(process, student, z_BL, alphas, given_BL, steps_B, uniforms=independent):
    """z_BL, in place, after the first ``steps_B`` (B,) of the steps between successive alphas."""
    for step, (alpha_t, alpha_s) in enumerate(itertools.pairwise(alphas)):
        (going,) = rows.positions(steps_B > step)
        if not len(going):  # a network need not take a batch of nothing
            break
        changes_BL = uniforms(alpha_t)
        z_BL[going] = process.reverse(
            student,
            z_BL[going],
            alpha_t,
            alpha_s,
            given_BL[going],
            changes_BL if changes_BL is None else changes_BL[going],
        )
    return z_BL
