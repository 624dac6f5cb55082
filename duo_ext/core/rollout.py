"""Inputs of a distillation taken from the student's own few-step sampling instead of from data.

A few-step sampler meets states that the student itself has made. A share ``process.on_policy`` of
the inputs z_t are states of the student's own sampling, a rollout; the paper has 0. Any law of
inputs is allowed, because z_t is the latent of a generator. For the absorbing process rollouts slow
the drift of the marginals.

What a state is compared by is ``rollout_target``. TEXT is a whole text, drawn at once. No sampler
of several steps draws it: its tokens are independent of each other, and a student trained on such
texts narrows its choice until they fit. STEP, for the absorbing process, is what is known after the
next step of the rollout; what is masked then is left out. A perfect network is a fixed point of it
where each step writes one token.

A process says how its rollouts go. Each batch draws their number of steps out of ``rollout_steps``.
``rollout_grid`` is the grid of times (``samplers.grids``), ``order`` says which positions change
together (``samplers.ancestral.Order``), ``rollout_stops`` draws where each sequence stops.
"""

import torch
from torch import Tensor

from duo_ext import Refused
from duo_ext.core import rows
from duo_ext.core.networks import Denoiser
from duo_ext.core.sampled import Sampled
from duo_ext.core.samplers import ancestral, grids

TEXT, STEP = TARGETS = "text", "step"


def sample_stops(steps: int, n: int, device: torch.device) -> Tensor:
    """For n sequences, how many steps are done before each stops: uniform on 0, ..., steps - 1."""
    return torch.randint(steps, (n,), device=device)


def require_masks(target: str, process: Sampled) -> None:
    """Raise Refused where a process that has no masks is to be compared after a step."""
    if target == STEP and not process.changes_once:
        raise Refused(
            "algo.rollout_target is step, which is for a process that has masks; it must be text"
        )


def mix_in(
    process: Sampled, student: Denoiser, x0_BL: Tensor, given_BL: Tensor, z_BL: Tensor, t_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Replace, in place, each sequence of z_BL and its time in t_B by a state of the student's own
    sampling and its time, with probability ``process.on_policy``.

    Gives the step by which each is compared: alpha after it (B,), and the numbers (B, L) that
    decide which positions change in it (``Sampled.reverse``). By default it leads to a whole text.
    """
    after_B, changes_BL = torch.ones_like(t_B), torch.zeros_like(z_BL, dtype=t_B.dtype)
    if process.on_policy > 0:
        (chosen,) = rows.positions(torch.rand(len(t_B), device=t_B.device) < process.on_policy)
        found = states(process, student, x0_BL[chosen], given_BL[chosen])
        z_BL[chosen], t_B[chosen], *step = found
        if process.rollout_target == STEP:
            after_B[chosen], changes_BL[chosen] = step
    return after_B, changes_BL


@torch.no_grad()
def states(
    process: Sampled, student: Denoiser, x0_BL: Tensor, given_BL: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(z_t (B, L), t (B,)) of the student's own sampling, and the next step as ``mix_in`` says it.

    Each sequence stops before a step that ``process.rollout_stops`` draws, as ``sample_stops``
    does; its t is the time at which that step begins.
    """
    device, choices = x0_BL.device, process.rollout_steps
    K = choices[0] if len(choices) == 1 else choices[torch.randint(len(choices), ()).item()]
    times_K = grids.times(process.rollout_grid, K - 1).to(device)
    alphas, _ = process.schedule(times_K)
    stop_B = process.rollout_stops(K, len(x0_BL), device)
    changes = process.order(process, given_BL, alphas)
    z_BL = process.prior(x0_BL, given_BL)
    z_BL = ancestral.descend(process, student, z_BL, alphas, given_BL, stop_B, changes)
    torch.clear_autocast_cache()  # older autocasts keep weights that were cast without gradient
    changes_BL = changes(alphas[stop_B, None])
    if changes_BL is None:
        changes_BL = process.uniforms(z_BL.shape, device)
    after_B = torch.cat([alphas, alphas.new_ones(1)])[stop_B + 1]
    return z_BL, times_K[stop_B], after_B, changes_BL
