"""The absorbing process with MDLM's network: tokens become the mask, and masks become tokens.

See ``process`` for shapes and for what the losses are.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from duo_ext.core import losses, rollout, rows
from duo_ext.core.networks import Denoiser
from duo_ext.core.process import Process, sample_times
from duo_ext.core.samplers import ancestral, grids
from duo_ext.core.schedules import LOG_LINEAR, LogLinear


@dataclass
class AbsorbingProcess(Process):
    """p_t(. | x) = alpha_t x + (1 - alpha_t) e_mask, with MDLM's network (SUBS).

    The network puts no mass on the mask and copies visible tokens, so the loss lives at the
    positions masked in x_s, and the student's gradient at those masked in z_t as well. That x_s is
    masked does not depend on xhat, so it is drawn first and each head runs where it is needed.
    """

    vocab_size: int  # V, the mask among them
    mask_index: int
    schedule: LogLinear = LOG_LINEAR
    changes_once = True

    def corrupt(self, x0_BL: Tensor, alpha_B: Tensor, given_BL: Tensor) -> Tensor:
        """Tokens z_t ~ p_t(. | x0), (B, L)."""
        return torch.where(self._hidden(alpha_B, given_BL), self.mask_index, x0_BL)

    def _input(self, x0_BL, alpha_B, given_BL):
        """z_t as a sampler of the most ``rollout_steps`` meets it, unmasked in ``order``."""
        if self.order is ancestral.independent:
            return self.corrupt(x0_BL, alpha_B, given_BL)
        times_K = grids.times("linear", max(self.rollout_steps) - 1).to(x0_BL.device)
        alphas, _ = self.schedule(times_K)
        rank_BL = self.order(self, given_BL, alphas)(alphas.new_zeros(()))  # from alpha = 0
        hidden_BL = (rank_BL >= alpha_B[:, None]) & ~given_BL
        return torch.where(hidden_BL, self.mask_index, x0_BL)

    def _hidden(self, alpha_B, given_BL):
        u_BL = self.uniforms(given_BL.shape, given_BL.device)
        return (u_BL < 1 - alpha_B[:, None]) & ~given_BL

    def masked(self, z_BL: Tensor, given_BL: Tensor) -> Tensor:
        """Where a token is to be written, (B, L). Given padding may have the mask's number."""
        return (z_BL == self.mask_index) & ~given_BL

    def probs(self, logits: Tensor) -> Tensor:
        """softmax (..., V) over the tokens other than the mask, whose logit is overwritten."""
        return losses.probs(logits, self.mask_index)

    def _outside(self, logits):
        return torch.arange(self.vocab_size, device=logits.device) == self.mask_index

    def _draw(self, student, x0_BL, given_BL):
        """z_t and alpha_t; where x_s is masked, and which of these masks are left by the step that
        z_t is compared by; the level of x_s and its weight.

        x_s keeps a share alpha of what is known after that step, a share of the text itself: its
        level is their product, its weight dalpha / (1 - alpha).
        """
        B, device = len(x0_BL), x0_BL.device
        t_B = self.input_times(B, self.eps, device)
        alpha_B, dalpha_B = self.schedule(sample_times(B, self.eps, device))
        z_BL = self._input(x0_BL, self.schedule(t_B)[0], given_BL)
        hidden_BL = self._hidden(alpha_B, given_BL)
        after_B, changes_BL = rollout.mix_in(self, student, x0_BL, given_BL, z_BL, t_B)
        alpha_t = self.schedule(t_B)[0]
        written_BL = self._written(z_BL, alpha_t[:, None], after_B[:, None], given_BL, changes_BL)
        later_BL = self.masked(z_BL, given_BL) & ~written_BL
        weight_BL = (dalpha_B / (1 - alpha_B))[:, None].expand_as(hidden_BL)
        return z_BL, alpha_t, hidden_BL | later_BL, later_BL, after_B * alpha_B, weight_BL

    def _written(self, z_BL, alpha_t, alpha_s, given_BL, changes_BL):
        """The masks of z_t that are tokens in z_s."""
        return (changes_BL < (alpha_s - alpha_t) / (1 - alpha_t)) & self.masked(z_BL, given_BL)

    def prior(self, x0_BL: Tensor, given_BL: Tensor) -> Tensor:
        """Masks (B, L); x0 where given."""
        return torch.where(given_BL, x0_BL, self.mask_index)

    def reverse(
        self,
        student: Denoiser,
        z_BL: Tensor,
        alpha_t: Tensor,
        alpha_s: Tensor,
        given_BL: Tensor,
        changes_BL: Tensor | None = None,
    ) -> Tensor:
        """Tokens z_s (B, L): a mask becomes a token with probability (alpha_s - alpha_t) /
        (1 - alpha_t), or where ``changes_BL`` is below it."""
        if changes_BL is None:
            changes_BL = self.uniforms(z_BL.shape, z_BL.device)
        u_BL = self.uniforms(z_BL.shape, z_BL.device)
        written_BL = self._written(z_BL, alpha_t, alpha_s, given_BL, changes_BL)

        def choose(logits, u):
            return rows.sample_tokens(self.probs(logits), u)

        return rows.fill(student, z_BL, written_BL, alpha_t, choose, u_BL)

    def law(self, logits_RV: Tensor, z_R: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """As ``Sampled`` says: a mask stays, or becomes one of the network's tokens."""
        share = (alpha_s - alpha_t) / (1 - alpha_t)
        kept = torch.nn.functional.one_hot(z_R, self.vocab_size).to(logits_RV.dtype)
        changed = share * self.probs(logits_RV) + (1 - share) * kept
        return torch.where((z_R == self.mask_index)[:, None], changed, kept)

    def greedy(self, student: Denoiser, z_BL: Tensor, alpha_t: Tensor, given_BL: Tensor) -> Tensor:
        """The likeliest token in the place of each mask."""

        def choose(logits):
            return self.probs(logits).argmax(-1)

        return rows.fill(student, z_BL, self.masked(z_BL, given_BL), alpha_t, choose)

    def _renoise(self, z_BL, hidden_BL, output, sampled):
        """x_s: the student's sampled tokens with the mask at the hidden positions.

        output: the student's at all positions; sampled: where it is drawn from.
        """
        u_BL = self.uniforms(z_BL.shape, z_BL.device)
        x_BL = torch.where(hidden_BL, self.mask_index, z_BL)
        u_R = u_BL.flatten()[sampled]
        x_BL.view(-1)[sampled] = rows.sample(output.at(sampled), self.probs, u_R)
        return x_BL

    def _sample(self, student, x0_BL, given_BL):
        z_BL, alpha_t, hidden_BL, later_BL, alpha_s, weight_BL = self._draw(
            student, x0_BL, given_BL
        )
        masked_BL = self.masked(z_BL, given_BL)
        sampled, free, copied = rows.positions(
            masked_BL & ~hidden_BL, masked_BL & hidden_BL & ~later_BL, hidden_BL & ~masked_BL
        )
        output = rows.Head.of(student, z_BL, alpha_t)
        return MaskedSample(
            output=output.at(free),
            x_BL=self._renoise(z_BL, hidden_BL, output, sampled),
            alpha_B=alpha_s,
            weight_BL=weight_BL,
            free=free,
            copied=copied,
            tokens_R=z_BL.flatten()[copied],
            count=(~given_BL).sum().clamp(min=1),
        )

    def _fitted(self, sample, fake):
        soft = (sample.output, *sample.inputs(sample.free, fake))
        hard = (*sample.inputs(sample.copied, fake), sample.tokens_R)
        terms = rows.Term(self.soft, soft, of=(1,)), rows.Term(self.hard, hard, of=(0,))
        return rows.total(*terms) / sample.count

    def _compared(self, sample, teacher, fake):
        inputs = (sample.output, *sample.inputs(sample.free, teacher.detach(), fake.detach()))
        return rows.total(rows.Term(self.difference, inputs, of=(0,))) / sample.count

    def soft(
        self, student_logits: Tensor, logits: Tensor, alpha_R: Tensor, weight_R: Tensor
    ) -> losses.Scaled:
        """(loss_R, scale_R) of (5), in ``score`` of (4), at positions that are masked in x_s, with
        the student's output in the place of the token. ``losses`` says what scale_R is."""
        form = self._form(losses.absorbing_soft)
        return form(student_logits, logits, weight_R, self.mask_index)

    def hard(
        self, logits: Tensor, alpha_R: Tensor, weight_R: Tensor, token_R: Tensor
    ) -> losses.Scaled:
        """(loss_R, scale_R) of the loss of ``soft`` for a token instead of the student's output."""
        return self._form(losses.absorbing_hard)(logits, weight_R, token_R, self.mask_index)

    def difference(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        fake_logits: Tensor,
        alpha_R: Tensor,
        weight_R: Tensor,
    ) -> losses.Scaled:
        """(loss_R, scale_R) of the teacher's loss minus the fake's, at positions masked in x_s."""
        form = self._form(losses.absorbing_difference)
        return form(student_logits, teacher_logits, fake_logits, weight_R, self.mask_index)


@dataclass
class MaskedSample:
    """The student's output for z_t, and one x_s of it. Positions are places in the flattened
    (B L)."""

    output: rows.Head  # the student's logits at ``free``
    x_BL: Tensor  # x_s
    alpha_B: Tensor  # alpha_s
    weight_BL: Tensor  # dalpha_s / (1 - alpha_s)
    free: Tensor  # where z_t and x_s are masked
    copied: Tensor  # where x_s alone is masked: there xhat is the token of z_t
    tokens_R: Tensor  # the tokens of z_t at ``copied``
    count: Tensor  # the number of positions that are not given

    def head(self, network: Denoiser) -> rows.Head:
        """A network's logits of x_s (N, V)."""
        return rows.Head.of(network, self.x_BL, self.alpha_B)

    def inputs(self, positions: Tensor, *heads: rows.Head) -> tuple[rows.Head | Tensor, ...]:
        """Logits, alpha and weight at some positions: what the loss of a row takes."""
        alpha_BL = self.alpha_B[:, None].expand_as(self.x_BL)
        levels = (values.flatten()[positions] for values in (alpha_BL, self.weight_BL))
        return *(head.at(positions) for head in heads), *levels

    def detach(self) -> "MaskedSample":
        """The sample without the student's gradient."""
        return replace(self, output=self.output.detach())
