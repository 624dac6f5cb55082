"""The losses of a pair as their formulas say, every tensor (B, L, V).

What the core computes is measured against these, in time by pair_cost.py and in value by the tests:
under one seed both draw the same random numbers. Nothing here is chosen for speed.
"""

import math
from dataclasses import replace

import torch
from torch.nn.functional import one_hot

from duo_ext.core import gaussian, rows
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.process import sample_times
from duo_ext.core.score import ScoreProcess
from duo_ext.core.uniform import Sample, UniformProcess


class Absorbing(AbsorbingProcess):
    """(5) at the positions masked in x_s, but for masks that z_t's step leaves."""

    def fake_loss(self, student, fake, x0_BL, given_BL):
        with torch.no_grad():
            xhat_BLV, x_BL, *drawn = self._outcome(student, x0_BL, given_BL)
        return self._mean(xhat_BLV, x_BL, fake, given_BL, *drawn)

    def student_loss(self, student, fake, teacher, x0_BL, given_BL):
        outcome = self._outcome(student, x0_BL, given_BL)
        xhat_BLV, x_BL, *drawn = outcome
        teachers, fakes = (
            self._mean(xhat_BLV, x_BL, network, given_BL, *drawn) for network in (teacher, fake)
        )
        return teachers - fakes

    def _outcome(self, student, x0_BL, given_BL):
        """xhat, x_s and how it was drawn."""
        z_BL, alpha_t, *drawn = self._draw(student, x0_BL, given_BL)
        masked_BL = z_BL == self.mask_index
        probs_BLV = self.probs(student(z_BL, alpha_t))
        copied_BLV = one_hot(z_BL, self.vocab_size).to(probs_BLV.dtype)
        xhat_BLV = torch.where(masked_BL[..., None], probs_BLV, copied_BLV)
        tokens_BL = rows.sample_tokens(probs_BLV, rows.uniforms(z_BL.shape, z_BL.device))
        x_BL = torch.where(masked_BL, tokens_BL, z_BL)
        hidden_BL, *_ = drawn
        return xhat_BLV, torch.where(hidden_BL, self.mask_index, x_BL), *drawn

    def _mean(self, xhat_BLV, x_BL, network, given_BL, hidden_BL, later_BL, alpha_s, weight_BL):
        dtype = xhat_BLV.dtype
        logits_BLV = network(x_BL, alpha_s)
        loss_BL = self._loss(xhat_BLV, logits_BLV, alpha_s.to(dtype), weight_BL.to(dtype))
        return (loss_BL * (hidden_BL & ~later_BL)).sum() / (~given_BL).sum()

    def _loss(self, xhat_BLV, logits_BLV, alpha_s, weight_BL):
        outside_V = self._outside(logits_BLV)
        log_q_BLV = logits_BLV.masked_fill(outside_V, -torch.inf).log_softmax(-1)
        return weight_BL * (xhat_BLV * log_q_BLV.masked_fill(outside_V, 0.0)).sum(-1)


class Score(Absorbing, ScoreProcess):
    """(4): sum_y s_y - r xhat_y log s_y + r (log r - 1), y a token, r = alpha / (1 - alpha)."""

    def _loss(self, xhat_BLV, logits_BLV, alpha_s, weight_BL):
        r = (alpha_s / (1 - alpha_s))[:, None]
        log_s = logits_BLV
        if self.scaled:
            log_s = log_s + (r.log() - math.log(self.vocab_size - 1))[..., None]
        outside_V = self._outside(log_s)
        s_sum = log_s.exp().masked_fill(outside_V, 0.0).sum(-1)
        cross = (xhat_BLV * log_s.masked_fill(outside_V, 0.0)).sum(-1)
        return -weight_BL / r * (s_sum - r * cross + r * (r.log() - 1))


class _Uniform:
    """(6) with all its terms at the positions that are not given."""

    def fake_loss(self, student, fake, x0_BL, given_BL):
        with torch.no_grad():
            xhat_BLV, sample = self._outcome(student, x0_BL, given_BL)
        return self._mean(xhat_BLV, sample, fake, given_BL)

    def student_loss(self, student, fake, teacher, x0_BL, given_BL):
        xhat_BLV, sample = self._outcome(student, x0_BL, given_BL)
        teachers, fakes = (
            self._mean(xhat_BLV, sample, network, given_BL) for network in (teacher, fake)
        )
        return teachers - fakes

    def _outcome(self, student, x0_BL, given_BL):
        """xhat and an x_s of it."""
        sample = self._sample(student, x0_BL, given_BL)
        xhat_BLV = one_hot(x0_BL, self.vocab_size).to(sample.output.dtype)
        free = (~given_BL).nonzero(as_tuple=True)
        return xhat_BLV.index_put(free, sample.output.softmax(-1)), sample

    def _mean(self, xhat_BLV, sample, network, given_BL):
        log_f_BLV = network(sample.x, sample.alpha_B).log_softmax(-1)
        loss_BL = self._loss(log_f_BLV, xhat_BLV, sample)
        return (loss_BL * ~given_BL).sum() / (~given_BL).sum()

    def _loss(self, log_f, xhat, sample):
        V = self.vocab_size
        alpha, dalpha = (v.to(xhat.dtype)[:, None, None] for v in (sample.alpha_B, sample.dalpha_B))
        xbar, fbar = V * alpha * xhat + 1 - alpha, V * alpha * log_f.exp() + 1 - alpha
        xbar_z, fbar_z = (v.gather(-1, sample.z_BL[..., None]) for v in (xbar, fbar))
        ratio = fbar_z * xbar / (fbar * xbar_z)
        bracket = V / xbar_z - V / fbar_z - (xbar / xbar_z * ratio.log()).sum(-1, keepdim=True)
        return (dalpha / (V * alpha) * bracket)[..., 0]


class Uniform(_Uniform, UniformProcess):
    def _sample(self, student, x0_BL, given_BL):
        t_B, s_B = (sample_times(len(x0_BL), self.eps, x0_BL.device) for _ in range(2))
        z_BL = self.corrupt(x0_BL, self.schedule(t_B)[0], given_BL)
        logits_BLV = student(z_BL, self.schedule(t_B)[0])
        if self.posterior:
            alpha_B11 = self.schedule(t_B)[0][:, None, None]
            p_BLV = alpha_B11 * one_hot(z_BL, self.vocab_size) + (1 - alpha_B11) / self.vocab_size
            logits_BLV = (logits_BLV.softmax(-1) * p_BLV).log()
        u_BL = rows.uniforms(z_BL.shape, z_BL.device)
        tokens_BL = rows.sample_tokens(logits_BLV.softmax(-1), u_BL)
        replaced_BL = self._replaced(self.schedule(s_B)[0], given_BL)
        x_BL = torch.where(replaced_BL, self._noise(x0_BL), tokens_BL)
        x_BL = torch.where(given_BL, x0_BL, x_BL)
        (free,) = rows.positions(~given_BL)
        logits_RV = logits_BLV.flatten(0, 1)[free]
        return Sample(logits_RV, x_BL, x_BL, *self.schedule(s_B), free)


class Gaussian(_Uniform, gaussian.GaussianUniformProcess):
    """With the core's Gaussian x_s."""

    def _sample(self, student, x0_BL, given_BL):
        sample = super()._sample(student, x0_BL, given_BL)
        return replace(sample, output=sample.output.log())
