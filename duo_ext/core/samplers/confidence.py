"""The surest tokens first: of the masks that a step fills, those at which the network is surest.

Each step draws a token for every mask and keeps the tokens with the highest score, as many as the
schedule leaves unmasked. It seeks modes: entropy falls with GenPPL. arXiv 2202.04200 (MaskGIT).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from duo_ext.core import rows
from duo_ext.core.networks import Denoiser
from duo_ext.core.sampled import Sampled
from duo_ext.core.samplers import ancestral

TIE = 1e-4  # nats: networks round by less, and all masks of an empty text are as sure as each other


def probability(p_RV: Tensor, token_R: Tensor) -> Tensor:
    """The logarithm of the token's, in nats."""
    return p_RV.gather(-1, token_R[:, None])[:, 0].log()


def entropy(p_RV: Tensor, token_R: Tensor) -> Tensor:
    """Minus the entropy of all tokens, in nats."""
    return torch.special.entr(p_RV).sum(-1).neg()


def margin(p_RV: Tensor, token_R: Tensor) -> Tensor:
    """The largest probability minus the second largest."""
    return p_RV.topk(2).values.diff().neg()[:, 0]


def sample(
    score: Callable[[Tensor, Tensor], Tensor],
    process: Sampled,
    student: Denoiser,
    x0_BL: Tensor,
    given_BL: Tensor,
    times_K: Tensor,
    noise_removal: str = "ancestral",
    temperature: float = 0.0,
) -> Tensor:
    """Tokens (B, L); score(probabilities (R, V), tokens (R,)) -> (R,), the highest first.

    A step to alpha_s adds Gumbel noise to the scores, of the scale temperature (1 - alpha_s). Where
    the scores are equal, to TIE, chance decides. The process is one that has masks.
    """
    free_B = (~given_BL).sum(1)

    def step(z_BL, alpha_t, alpha_s):
        masked_BL = process.masked(z_BL, given_BL)
        left_B = (free_B * (1 - alpha_s)).round().long()
        filled_BL, score_BL = _filled(score, process, student, z_BL, masked_BL, alpha_t)
        u_BL = process.uniforms(z_BL.shape, z_BL.device)
        score_BL = ((score_BL / TIE).round() + u_BL) * TIE
        if temperature:
            score_BL = score_BL - temperature * (1 - alpha_s) * (-u_BL.log()).log()
        rank_BL = score_BL.argsort(1, descending=True).argsort(1)
        chosen_BL = masked_BL & (rank_BL < (masked_BL.sum(1) - left_B)[:, None])
        return torch.where(chosen_BL, filled_BL, z_BL)

    return ancestral.walk(step, process, student, x0_BL, given_BL, times_K, noise_removal)


def _filled(score, process, student, z_BL, masked_BL, alpha_t):
    """(z with a token drawn for each mask, the tokens' scores, -inf elsewhere), (B, L) each."""

    def choose(logits, u):
        p = process.probs(logits)
        token = rows.sample_tokens(p, u)
        return torch.stack([token.double(), score(p, token).double()], -1)

    u_BL = process.uniforms(z_BL.shape, z_BL.device)
    drawn_BL2 = torch.stack([z_BL.double(), torch.full_like(u_BL, -torch.inf)], -1)
    rows.fill(student, z_BL, masked_BL, alpha_t, choose, u_BL, into=drawn_BL2)
    return drawn_BL2[..., 0].long(), drawn_BL2[..., 1]
