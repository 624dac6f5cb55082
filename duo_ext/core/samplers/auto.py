"""Times found for a network: the grid with the least bound on what a step's independence costs.

A step from time i to time j draws each position by the network's output at i. Finer steps would ask
the network again on the way. The law of the finer steps' path is further from the coarse step's by

    C_ij = sum over fine steps k of [i, j) of E KL(q_k(. | z_k, f(z_k)) || q_k(. | z_k, f(z_i)))

nats, summed over the positions, with q_k the process's fine step and z the fine sampler's path: a
step's own law composes over finer steps of the same f. A sum of C over the steps of a grid bounds
the KL divergence that the grid adds between the texts' laws (arXiv 2410.07761); no judge is asked.
The grid of the least sum is found exactly, by dynamic programming over the fine times.
"""

import itertools

import torch
from torch import Tensor

from duo_ext.core import rows
from duo_ext.core.networks import Denoiser
from duo_ext.core.sampled import Sampled
from duo_ext.core.samplers import ancestral

FINE = 48  # times that a grid is chosen from: (1 - k / FINE) ** 2
MEMORY = 2**27  # logits that are kept


@torch.no_grad()
def costs(
    process: Sampled,
    student: Denoiser,
    x0_BL: Tensor,
    given_BL: Tensor,
    order: ancestral.Order,
    fine: int = FINE,
) -> tuple[Tensor, Tensor]:
    """(fine times (M,), C (M, M + 1)) by the paths of B texts; index M is clean data.

    Positions of each text are taken at random, as many as memory allows, and stand for all.
    """
    device, B = x0_BL.device, len(x0_BL)
    times_M = (1 - torch.arange(fine, dtype=torch.float64, device=device) / fine) ** 2
    alphas = torch.cat([process.schedule(times_M)[0], times_M.new_ones(1)])
    places_BP = _places(process, given_BL, MEMORY // (fine * student.vocab_size * B))
    changes = order(process, given_BL, alphas)
    z_BL, logits, states = process.prior(x0_BL, given_BL), [], []
    for alpha_t, alpha_s in itertools.pairwise(alphas):
        head = rows.Head.of(student, z_BL, alpha_t.expand(B))
        logits.append(head.network.head(head.at(places_BP.flatten()).features).float())
        states.append(z_BL.flatten()[places_BP.flatten()])
        z_BL = process.reverse(student, z_BL, alpha_t, alpha_s, given_BL, changes(alpha_t))
    added = torch.zeros(fine, fine, dtype=torch.float64)
    fine_steps = zip(logits, states, itertools.pairwise(alphas), strict=True)
    for k, (own, z_R, levels) in enumerate(fine_steps):
        p_RV = process.law(own.double(), z_R, *levels)
        for i in range(k):
            q_RV = process.law(logits[i].double(), z_R, *levels)
            added[i, k] = torch.where(p_RV > 0, p_RV * (p_RV / q_RV).log(), 0.0).sum()
    free = (~given_BL).sum().item() / places_BP.numel() / B
    found = torch.full((fine, fine + 1), torch.inf, dtype=torch.float64)
    later = torch.ones(fine, fine, dtype=torch.bool).triu()
    found[:, 1:][later] = free * added.cumsum(1)[later]
    return times_M, found


def _places(process, given_BL, most):
    """Places (B, P) in the flattened (B L): of each text's positions that are not given, at most
    ``most`` at random."""
    B, L = given_BL.shape
    order_BL = (process.uniforms(given_BL.shape, given_BL.device) + given_BL).argsort(1)
    count = max(1, min(most, (~given_BL).sum(1).min().item()))
    return order_BL[:, :count] + L * torch.arange(B, device=given_BL.device)[:, None]


def least(found: Tensor, evaluations: int) -> list[int]:
    """The places (evaluations,) of the grid with the least sum of C (M, M + 1), the first 0; there
    are at most M."""
    M, before = len(found), []
    best = torch.full((M + 1,), torch.inf, dtype=torch.float64)
    best[0] = 0.0
    for _ in range(evaluations):
        best, chosen = (best[:-1, None] + found).min(0)
        before.append(chosen)
    places = [M]
    for chosen in reversed(before):
        places.append(chosen[places[-1]].item())
    return places[:0:-1]
