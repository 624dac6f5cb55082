"""Samplers by name.

sample(process, student, x0_BL, given_BL, times_K, noise_removal) gives tokens (B, L).
``process`` is what ``process.Sampled`` says, ``student`` a ``networks.Tempered``. Positions of
``given_BL`` keep their token of x0. The network is evaluated at the times, the first of which is 1
(``grids``). ``noise_removal`` is what becomes of the state at the last time: the process's step to
clean data (ancestral), the likeliest tokens (greedy), or nothing, without an evaluation (none). A
new sampler is a module with a function ``sample``, and a line here.
"""

import functools

import torch
from torch import Tensor

from duo_ext.core.networks import Denoiser
from duo_ext.core.samplers import ancestral, confidence, renoise, spread

SAMPLERS = {
    "ancestral": ancestral.sample,
    "spread": spread.sample,
    "confidence": functools.partial(confidence.sample, confidence.probability),
    "entropy": functools.partial(confidence.sample, confidence.entropy),
    "margin": functools.partial(confidence.sample, confidence.margin),
    "renoise": renoise.sample,
}


def blank(student: Denoiser, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(x0_BL, given_BL) of that shape, where nothing is given, on the student's device."""
    device = next(student.backbone.parameters()).device
    return torch.zeros(shape, dtype=torch.long, device=device), torch.zeros(
        shape, dtype=torch.bool, device=device
    )
