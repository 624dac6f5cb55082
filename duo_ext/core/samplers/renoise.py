"""Renoising: draw a clean text from the network's output, noise it to the next time, and again.

At the optimum of the IDLM objective it is the sampler that keeps the marginals, since there the
student's output alone has the law of the data.
"""

from torch import Tensor

from duo_ext.core.networks import Denoiser
from duo_ext.core.sampled import Sampled
from duo_ext.core.samplers import ancestral


def sample(
    process: Sampled,
    student: Denoiser,
    x0_BL: Tensor,
    given_BL: Tensor,
    times_K: Tensor,
    noise_removal: str = "ancestral",
) -> Tensor:
    """Tokens (B, L), as consistency models do."""

    def step(z_BL, alpha_t, alpha_s):
        z_BL = process.reverse(student, z_BL, alpha_t, alpha_s.new_ones(()), given_BL)
        return process.corrupt(z_BL, alpha_s.expand(len(z_BL)), given_BL)  # none at alpha 1

    return ancestral.walk(step, process, student, x0_BL, given_BL, times_K, noise_removal)
