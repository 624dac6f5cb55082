"""Inputs of a distillation taken from the student's own few-step sampling instead of from data.

A few-step sampler meets states that the student itself has made. A share ``process.on_policy`` of
the inputs z_t are states of the student's own sampling, a rollout; the paper has 0. Any law of
inputs is allowed, because z_t is the latent of a generator. For the absorbing process rollouts slow
the drift of the marginals.

A process says how its rollouts go. Each batch draws their number of steps out of ``rollout_steps``.
``rollout_grid`` is the grid of times (``samplers.grids``), ``order`` says which positions change
together (``samplers.ancestral.Order``), ``rollout_stops`` draws where each sequence stops.
"""

import torch
from torch import Tensor

from duo_ext.core import rows
from duo_ext.core.networks import Denoiser
from duo_ext.core.sampled import Sampled
from duo_ext.core.samplers import ancestral, grids


def sample_stops(steps: int, n: int, device: torch.device) -> Tensor:
    """For n sequences, how many steps are done before each stops: uniform on 0, ..., steps - 1."""
    return torch.randint(steps, (n,), device=device)


def mix_in(
    process: Sampled, student: Denoiser, x0_BL: Tensor, given_BL: Tensor, z_BL: Tensor, t_B: Tensor
) -> None:
    """Replace, in place, each sequence of z_BL and its time in t_B by a state of the student's own
    sampling and its time, with probability ``process.on_policy``."""
    if process.on_policy > 0:
        (chosen,) = rows.positions(torch.rand(len(t_B), device=t_B.device) < process.on_policy)
        z_BL[chosen], t_B[chosen] = states(process, student, x0_BL[chosen], given_BL[chosen])


@torch.no_grad()
def states(
    process: Sampled, student: Denoiser, x0_BL: Tensor, given_BL: Tensor
) -> tuple[Tensor, Tensor]:
    """(z_t (B, L), t (B,)) of the student's own sampling.

    Each sequence stops before a step that ``process.rollout_stops`` draws, as ``sample_stops``
    does; its t is the time at which that step begins.
    """
    device, choices = x0_BL.device, process.rollout_steps
    K = choices[0] if len(choices) == 1 else choices[torch.randint(len(choices), ()).item()]
    times_K = grids.times(process.rollout_grid, K - 1).to(device)
    alphas, _ = process.schedule(times_K)
    stop_B = process.rollout_stops(K, len(x0_BL), device)
    z_BL = process.prior(x0_BL, given_BL)
    z_BL = ancestral.descend(process, student, z_BL, alphas, given_BL, stop_B, process.order)
    torch.clear_autocast_cache()  # older autocasts keep weights that were cast without gradient
    return z_BL, times_K[stop_B]
