"""A sampler of my own: guess all tokens, return to the next noise level, guess again.

    python sampler.py --student STUDENT --sampler guess --grid linear --steps 4 --output runs/guess

is ``evaluate`` with one sampler more. The function asks the process for what every process has, so
that it works with all of them.
"""

import itertools

import torch

from duo_ext import evaluate
from duo_ext.core.samplers import SAMPLERS


@torch.no_grad()
def guess(process, student, x0_BL, given_BL, times_K, noise_removal="ancestral"):
    """Tokens (B, L): each evaluation's likeliest ones, noised to the next time."""
    z_BL = process.prior(x0_BL, given_BL)
    alphas, _ = process.schedule(times_K.to(x0_BL.device))
    for alpha_t, alpha_s in itertools.pairwise(alphas):
        z_BL = process.greedy(student, z_BL, alpha_t, given_BL)
        z_BL = process.corrupt(z_BL, alpha_s.expand(len(z_BL)), given_BL)
    return process.greedy(student, z_BL, alphas[-1], given_BL)


SAMPLERS["guess"] = guess

if __name__ == "__main__":
    evaluate.main()
