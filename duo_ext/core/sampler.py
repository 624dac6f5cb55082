"""Ancestral sampling that runs the last layer, and draws, only where a token is drawn.

A host's sampler forms probabilities (B, L, V) in float64 at every step. Here the body of the
network runs for the sequences of which a position changes, its head and the draw for those
positions, chunk by chunk (``rows``).

A process gives its schedule, ``prior(x0_BL, given_BL)``, ``reverse(student, z_BL, alpha_t, alpha_s,
given_BL)``, a step of ancestral sampling from t to s, and ``greedy(student, z_BL, alpha_t,
given_BL)``, the likeliest clean tokens.
"""

import itertools

import torch

from duo_ext.core import rows
from duo_ext.core.networks import Denoiser


class Tempered(Denoiser):
    """A denoiser as it is sampled: logits in float64, at a temperature. ``calls`` grows by one with
    each evaluation."""

    def __init__(self, backbone, time_conditioning, temperature=1.0, precision=None):
        super().__init__(backbone, time_conditioning, precision)
        self.temperature, self.calls = temperature, []

    def features(self, x, alpha_B):
        self.calls.append(1)
        return super().features(x, alpha_B)

    def head(self, features):
        return super().head(features).double() / self.temperature


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


def fill(student, z_BL, chosen_BL, alpha_t, choose, *inputs_BL):
    """z_BL, in place, with choose(logits (R, V), inputs (R,)) -> tokens (R,) at the R chosen
    positions. The network is evaluated for the sequences that have any."""
    chosen, some = rows.positions(chosen_BL, chosen_BL.any(1))
    if len(some):
        at = chosen_BL[some].flatten().argsort(stable=True, descending=True)[: len(chosen)]
        head = rows.Head.of(student, z_BL[some], alpha_t.expand(len(some))).at(at)
        tokens_R = rows.tokens(head, choose, *(x_BL.flatten()[chosen] for x_BL in inputs_BL))
        z_BL.view(-1)[chosen] = tokens_R
    return z_BL
