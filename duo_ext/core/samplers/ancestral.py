"""Ancestral sampling: a step of the process after the other, from noise to data.

A host's sampler forms probabilities (B, L, V) in float64 at every step. Here the body of the
network runs for the sequences of which a position changes, its head and the draw for those
positions, chunk by chunk (``rows``).
"""

import itertools

import torch

from duo_ext.core import rows


@torch.no_grad()
def sample(process, student, shape, steps, noise_removal="ancestral", eps=1e-5):
    """Tokens (B, L) of that shape, in ``steps`` equal steps from t = 1 to eps.

    ``noise_removal``, from eps to clean data: one more step of the process (ancestral), the
    likeliest tokens (greedy) or nothing (none).
    """
    device = next(student.backbone.parameters()).device
    given_BL = torch.zeros(shape, dtype=torch.bool, device=device)
    times = torch.linspace(1, eps, steps + 1, dtype=torch.float64, device=device)
    alphas, _ = process.schedule(times)
    if noise_removal == "ancestral":
        alphas = torch.cat([alphas, alphas.new_ones(1)])
    z_BL = process.prior(given_BL.long(), given_BL)
    steps_B = torch.full(shape[:1], len(alphas) - 1, device=device)
    z_BL = descend(process, student, z_BL, alphas, given_BL, steps_B)
    if noise_removal == "greedy":
        z_BL = process.greedy(student, z_BL, alphas[-1], given_BL)
    return z_BL


def descend(process, student, z_BL, alphas, given_BL, steps_B):
    """z_BL, in place, after the first ``steps_B`` (B,) of the steps between successive alphas."""
    for step, (alpha_t, alpha_s) in enumerate(itertools.pairwise(alphas)):
        (going,) = rows.positions(steps_B > step)
        if not len(going):  # a network need not take a batch of nothing
            break
        z_BL[going] = process.reverse(student, z_BL[going], alpha_t, alpha_s, given_BL[going])
    return z_BL
