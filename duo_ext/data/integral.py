"""Duo's table of the Gaussian-to-uniform integral, for any vocabulary.

Duo reads P(gamma), from which alpha follows, from a pickle file for each size of vocabulary. It
ships the files for GPT-2 and BERT. ``${idlm_integral:32}`` in a configuration is the path of one
for 32 symbols.
"""

import pickle
from pathlib import Path

import torch

from duo_ext.core import schedules
from duo_ext.files import write_whole

GAMMA_MIN, GAMMA_MAX, POINTS = -8.0, 8.0, 20_001


def table(vocab_size: int) -> dict:
    """What Duo's pickle file holds: P and dP/dgamma on a grid of gamma, float64."""
    gamma_N = torch.linspace(GAMMA_MIN, GAMMA_MAX, POINTS, dtype=torch.float64)
    parts = [schedules.gaussian_alpha(part, vocab_size) for part in gamma_N.split(500)]
    alpha_N, slope_N = (torch.cat(values) for values in zip(*parts, strict=True))
    V = vocab_size
    return {
        "vocab_size": V,
        "gamma_min": GAMMA_MIN,
        "gamma_max": GAMMA_MAX,
        "num_points": POINTS,
        "pt": ((alpha_N * (V - 1) + 1) / V).numpy(),
        "grad_pt": (slope_N * (V - 1) / V).numpy(),
    }


def path(folder: Path, vocab_size: int) -> Path:
    """The path of the table in a folder, written there on the first call."""
    target = folder / f"integral-{vocab_size}.pkl"
    if not target.exists():
        write_whole(target, pickle.dumps(table(int(vocab_size))))
    return target
