"""The absorbing process with SEDD's network, whose output are scores.

See ``process`` for shapes and for what the losses are.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from duo_ext.core import losses, rows
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.networks import Denoiser


@dataclass
class ScoreProcess(AbsorbingProcess):
    """The absorbing process with SEDD's network: log s_y, estimates of log p_t(y) / p_t(x_t).

    At a masked position s_y = r f_y for the ideal network, r = alpha / (1 - alpha), so the
    student's output is the softmax of its log-scores over the tokens, and the loss (4) is

        dalpha / (1 - alpha) [<xhat, log s> - sum_y s_y / r - log r + 1].

    The ideal scores sum to r; a network's do not. A step of sampling either takes r for their sum
    (``renormalised``), and is then a step of the absorbing process, or is SEDD's analytic
    predictor, whose probability of a token is (alpha_s / alpha_t - 1) s_y.
    """

    scaled: bool = True  # model.scale_by_sigma: log s is the last layer's output + log r - log n,
    # n the number of tokens; otherwise log s is that output itself
    renormalised: bool = True

    def reverse(
        self,
        student: Denoiser,
        z_BL: Tensor,
        alpha_t: Tensor,
        alpha_s: Tensor,
        given_BL: Tensor,
        changes_BL: Tensor | None = None,
    ) -> Tensor:
        """Tokens z_s (B, L), by the absorbing process's step or by SEDD's analytic predictor."""
        if self.renormalised or alpha_s == 1:  # no mask remains in clean data, whatever the sum
            return super().reverse(student, z_BL, alpha_t, alpha_s, given_BL, changes_BL)
        assert changes_BL is None, "the network's own sum of scores says which positions change"

        def choose(logits, u):
            _, shift = self._levels(alpha_t)
            log_s = logits.double().masked_fill(self._outside(logits), -torch.inf) + shift
            probs = (log_s + torch.log(alpha_s / alpha_t - 1)).exp()
            probs[:, self.mask_index] = (1 - probs.sum(-1)).clamp_min(0.0)
            return rows.sample_tokens(probs, u)

        u_BL = self.uniforms(z_BL.shape, z_BL.device)
        return rows.fill(student, z_BL, self.masked(z_BL, given_BL), alpha_t, choose, u_BL)

    def _levels(self, alpha):
        """log r, and what the last layer's output lacks of log s."""
        log_r = torch.log(alpha) - torch.log1p(-alpha)
        shift = log_r - math.log(self.vocab_size - 1) if self.scaled else torch.zeros_like(log_r)
        return log_r, shift

    def soft(
        self, student_logits: Tensor, logits: Tensor, alpha_R: Tensor, weight_R: Tensor
    ) -> losses.Scaled:
        """(loss_R, scale_R) of (4) at positions that are masked in x_s."""
        levels = self._levels(alpha_R)
        form = self._form(losses.score_soft)
        return form(student_logits, logits, weight_R, *levels, self.mask_index)

    def hard(
        self, logits: Tensor, alpha_R: Tensor, weight_R: Tensor, token_R: Tensor
    ) -> losses.Scaled:
        """(loss_R, scale_R) of (4) for a token instead of the student's output."""
        levels = self._levels(alpha_R)
        form = self._form(losses.score_hard)
        return form(logits, weight_R, token_R, *levels, self.mask_index)

    def difference(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        fake_logits: Tensor,
        alpha_R: Tensor,
        weight_R: Tensor,
    ) -> losses.Scaled:
        """(loss_R, scale_R) of the teacher's loss minus the fake's, at positions masked in x_s."""
        form = self._form(losses.score_difference)
        return form(student_logits, teacher_logits, fake_logits, weight_R, self.mask_index)
