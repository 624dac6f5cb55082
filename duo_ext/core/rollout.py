"""Inputs of a distillation taken from the student's own few-step sampling instead of from data.

A few-step sampler meets states that the student itself has made. A share ``process.on_policy`` of
the inputs z_t are such states; the paper has 0. Any law of inputs is allowed: z_t is the latent of
a generator. For the absorbing process such states slow the drift of the marginals.

What a process gives: see ``process.Sampled``. Its ``rollout_steps`` are the numbers of steps of
such a sampling, of which each batch draws one, ``rollout_grid`` is the grid of its times,
``spread`` says that its changes are spread over the positions (``samplers.spread``).
"""

import torch
from torch import Tensor

from duo_ext.core import rows
from duo_ext.core.networks import Denoiser
from duo_ext.core.process import Sampled
from duo_ext.core.samplers import ancestral, grids, spread


def sample_stops(steps: int, n: int, device: torch.device) -> Tensor:
    """n numbers of steps that are done before a stop, uniform on 0, ..., steps - 1; (n,)."""
    return torch.randint(steps, (n,), device=device)


def mix_in(
    process: Sampled, student: Denoiser, x0_BL: Tensor, given_BL: Tensor, z_BL: Tensor, t_B: Tensor
) -> None:
    """Replace, in place, each sequence with probability ``on_policy`` by such a state and its t."""
    if process.on_policy > 0:
        (chosen,) = rows.positions(torch.rand(len(t_B), device=t_B.device) < process.on_policy)
        z_BL[chosen], t_B[chosen] = states(process, student, x0_BL[chosen], given_BL[chosen])


@torch.no_grad()
def states(
    process: Sampled, student: Denoiser, x0_BL: Tensor, given_BL: Tensor
) -> tuple[Tensor, Tensor]:
    """(z_t (B, L), t (B,)) of the student's own sampling.

    Each sequence stops before a step that ``process.rollout_stops`` draws (``sample_stops``); its t
    is that at which this step begins.
    """
    device, choices = x0_BL.device, process.rollout_steps
    K = choices[0] if len(choices) == 1 else choices[torch.randint(len(choices), ()).item()]
    times_K = grids.times(process.rollout_grid, K - 1).to(device)
    alphas, _ = process.schedule(times_K)
    stop_B = process.rollout_stops(K, len(x0_BL), device)
    z_BL = process.prior(x0_BL, given_BL)
    uniforms = spread.uniforms(process, given_BL) if process.spread else ancestral.independent
    z_BL = ancestral.descend(process, student, z_BL, alphas, given_BL, stop_B, uniforms)
    torch.clear_autocast_cache()  # older autocasts keep weights that were cast without gradient
    return z_BL, times_K[stop_B]
