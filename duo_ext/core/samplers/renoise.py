"""Renoising: draw a clean text from the network's output, noise it to the next time, and again.

At the optimum of the IDLM objective it is the sampler that keeps the marginals, since there the
student's output alone has the law of the data.
"""

import itertools

import torch


@torch.no_grad()
def sample(process, student, x0_BL, given_BL, times_K, noise_removal="ancestral"):
    """Tokens (B, L), as consistency models do."""
    z_BL = process.prior(x0_BL, given_BL)
    alphas, _ = process.schedule(times_K.to(x0_BL.device))
    clean = alphas.new_ones(())
    for alpha_t, alpha_s in itertools.pairwise(alphas):
        z_BL = process.reverse(student, z_BL, alpha_t, clean, given_BL)
        z_BL = process.corrupt(z_BL, alpha_s.expand(len(z_BL)), given_BL)
    if noise_removal == "ancestral":
        z_BL = process.reverse(student, z_BL, alphas[-1], clean, given_BL)
    if noise_removal == "greedy":
        z_BL = process.greedy(student, z_BL, alphas[-1], given_BL)
    return z_BL
