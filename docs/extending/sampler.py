"""A sampler of my own: guess all tokens, return to the next noise level, guess again.

    python sampler.py --student STUDENT --sampler renoise --steps 4 --output runs/renoise

is ``evaluate`` with one sampler more. The function asks the process for what every process has, so
that it works with all of them.
"""

import itertools

import torch

from duo_ext import evaluate
from duo_ext.core.samplers import SAMPLERS


@torch.no_grad()
def renoise(process, student, shape, steps, noise_removal="ancestral"):
    """Tokens of that shape, in ``steps`` network evaluations; no step removes noise at the end."""
    device = next(student.backbone.parameters()).device
    given_BL = torch.zeros(shape, dtype=torch.bool, device=device)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=device)
    z_BL = process.prior(given_BL.long(), given_BL)
    for t, s in itertools.pairwise(times):
        alpha_t, _ = process.schedule(t)
        clean_BL = process.greedy(student, z_BL, alpha_t, given_BL)
        alpha_s, _ = process.schedule(s.expand(shape[0]))
        z_BL = process.corrupt(clean_BL, alpha_s, given_BL) if s > 0 else clean_BL
    return z_BL


SAMPLERS["renoise"] = renoise

if __name__ == "__main__":
    evaluate.main()
