"""The diffusion processes: how tokens are corrupted and what the two IDLM losses are.

One object holds all in which the teachers differ. Its two losses are those of one pair:

    fake_loss     l_s(f_phi(x_s, s); xhat) for the fake's parameters            (9)
    student_loss  l_s(f*(x_s, s); xhat) - l_s(f_phi(x_s, s); xhat) for theta    (10)

with z_t ~ p_t(. | x0), xhat = G_theta(z_t, t) on the simplex, x_s ~ p_s(. | xhat), and l the loss
that the teacher was trained with, its clean token relaxed to the simplex. Both are means over the
tokens that are not given, in nats (0 if all are). Terms of (10) without theta are left out.
``losses`` are the two of one xhat and one x_s, each network run once.

Shapes: B batch, L length, N = B L positions, V vocabulary, R of the positions, which are given by
their indices (``rows.positions``). Networks are ``networks.Denoiser``.
``given_BL`` marks positions that keep their token everywhere and carry no loss.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from duo_ext.core import losses, rollout, rows, sampler
from duo_ext.core.losses import mix
from duo_ext.core.networks import Mixture
from duo_ext.core.schedules import GaussianSchedule, LogLinear

LOG_LINEAR = LogLinear()


def sample_times(n, eps, device):
    """n times in (eps, 1], one in each of n equal strata, in random order; float64 (n,)."""
    u = torch.rand(n, dtype=torch.float64, device=device)
    strata = torch.randperm(n, device=device)
    return eps + (1 - eps) * (strata + u) / n


class Process:
    """The losses of a pair, of what a process says of itself: ``_sample``, an x_s and the student's
    output; ``_value`` (9) and ``_difference`` (10) of these and of the other networks' output.

    ``compiled``: their closed forms (``losses``) are applied as ``losses.compiled`` makes them.
    """

    compiled = False

    def _form(self, loss):
        return losses.compiled(loss) if self.compiled else loss

    def fake_loss(self, student, fake, x0_BL, given_BL):
        with torch.no_grad():
            sample = self._sample(student, x0_BL, given_BL)
        return self._value(sample, sample.run(fake))

    def student_loss(self, student, fake, teacher, x0_BL, given_BL):
        sample = self._sample(student, x0_BL, given_BL)
        return self._difference(sample, sample.run(teacher), sample.run(fake))

    def losses(self, student, fake, teacher, x0_BL, given_BL):
        """(fake_loss, student_loss) of the same sample; x_s must carry no gradient."""
        sample = self._sample(student, x0_BL, given_BL)
        fitted = sample.run(fake)
        value = self._value(sample.detach(), fitted)
        return value, self._difference(sample, sample.run(teacher), fitted.detach())


@dataclass
class AbsorbingProcess(Process):
    """p_t(. | x) = alpha_t x + (1 - alpha_t) e_mask, with MDLM's network (SUBS).

    The network puts no mass on the mask and copies visible tokens, so the loss lives at the
    positions masked in x_s, and the student's gradient at those masked in z_t as well. That x_s is
    masked does not depend on xhat, so it is drawn first and each head runs where it is needed.

    ``on_policy``, ``rollout_steps``, ``rollout_stops``: see ``rollout``. ``input_times`` draws t.
    """

    vocab_size: int
    mask_index: int
    schedule: LogLinear = LOG_LINEAR
    eps: float = 1e-3
    on_policy: float = 0.0
    rollout_steps: int = 4
    rollout_stops: Callable = rollout.sample_stops
    input_times: Callable = sample_times

    def corrupt(self, x0_BL, alpha_B, given_BL):
        """Tokens z_t ~ p_t(. | x0), (B, L)."""
        return torch.where(self._hidden(alpha_B, given_BL), self.mask_index, x0_BL)

    def _hidden(self, alpha_B, given_BL):
        u_BL = torch.rand(given_BL.shape, dtype=torch.float64, device=given_BL.device)
        return (u_BL < 1 - alpha_B[:, None]) & ~given_BL

    def probs(self, logits):
        """softmax over the tokens other than the mask, whose logit is overwritten."""
        return losses.probs(logits, self.mask_index)

    def _outside(self, logits):
        return torch.arange(self.vocab_size, device=logits.device) == self.mask_index

    def _draw(self, student, x0_BL, given_BL):
        """z_t and alpha_t; where x_s is masked, alpha_s and dalpha_s / (1 - alpha_s)."""
        B, device = len(x0_BL), x0_BL.device
        t_B = self.input_times(B, self.eps, device)
        alpha_s, dalpha_s = self.schedule(sample_times(B, self.eps, device))
        z_BL = self.corrupt(x0_BL, self.schedule(t_B)[0], given_BL)
        hidden_BL = self._hidden(alpha_s, given_BL)
        rollout.mix_in(self, student, x0_BL, given_BL, z_BL, t_B)
        weight_BL = (dalpha_s / (1 - alpha_s))[:, None].expand_as(hidden_BL)
        return z_BL, self.schedule(t_B)[0], hidden_BL, alpha_s, weight_BL

    def prior(self, x0_BL, given_BL):
        return torch.where(given_BL, x0_BL, self.mask_index)

    def reverse(self, student, z_BL, alpha_t, alpha_s, given_BL):
        """A masked token is drawn with probability (alpha_s - alpha_t) / (1 - alpha_t)."""
        drawn_BL, u_BL = (rows.uniforms(z_BL.shape, z_BL.device) for _ in range(2))
        drawn_BL = (drawn_BL < (alpha_s - alpha_t) / (1 - alpha_t)) & (z_BL == self.mask_index)

        def choose(logits, u):
            return rows.sample_tokens(self.probs(logits), u)

        return sampler.fill(student, z_BL, drawn_BL, alpha_t, choose, u_BL)

    def greedy(self, student, z_BL, alpha_t, given_BL):
        """The likeliest token in the place of each mask."""

        def choose(logits):
            return self.probs(logits).argmax(-1)

        return sampler.fill(student, z_BL, z_BL == self.mask_index, alpha_t, choose)

    def _renoise(self, z_BL, hidden_BL, output, sampled):
        """x_s: the student's sampled tokens with the mask at the hidden positions.

        output: the student's at all positions; sampled: where it is drawn from.
        """
        u_BL = rows.uniforms(z_BL.shape, z_BL.device)
        x_BL = torch.where(hidden_BL, self.mask_index, z_BL)
        u_R = u_BL.flatten()[sampled]
        x_BL.view(-1)[sampled] = rows.sample(output.at(sampled), self.probs, u_R)
        return x_BL

    def _sample(self, student, x0_BL, given_BL):
        z_BL, alpha_t, hidden_BL, alpha_s, weight_BL = self._draw(student, x0_BL, given_BL)
        masked_BL = z_BL == self.mask_index
        sampled, free, copied = rows.positions(
            masked_BL & ~hidden_BL, masked_BL & hidden_BL, hidden_BL & ~masked_BL
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

    def _value(self, sample, fake):
        soft = (sample.output, *sample.at(sample.free, fake))
        hard = (*sample.at(sample.copied, fake), sample.tokens_R)
        terms = rows.Term(self.soft, soft, of=(1,)), rows.Term(self.hard, hard, of=(0,))
        return rows.total(*terms) / sample.count

    def _difference(self, sample, teacher, fake):
        inputs = (sample.output, *sample.at(sample.free, teacher.detach(), fake.detach()))
        return rows.total(rows.Term(self.difference, inputs, of=(0,))) / sample.count

    def soft(self, student_logits, logits, alpha_R, weight_R):
        """(5), or (4), at masked positions, the student's output in the place of the token."""
        form = self._form(losses.absorbing_soft)
        return form(student_logits, logits, weight_R, self.mask_index)

    def hard(self, logits, alpha_R, weight_R, token_R):
        """The same for a token."""
        return self._form(losses.absorbing_hard)(logits, weight_R, token_R, self.mask_index)

    def difference(self, student_logits, teacher_logits, fake_logits, alpha_R, weight_R):
        """The teacher's loss minus the fake's, where both see the mask."""
        form = self._form(losses.absorbing_difference)
        return form(student_logits, teacher_logits, fake_logits, weight_R, self.mask_index)


@dataclass
class MaskedSample:
    """The student's output for z_t, and one x_s of it.

    output: its logits where both are masked and not given, at ``free``; x_BL: x_s; copied: where
    x_s alone is masked, so that xhat is z_t, tokens_R; alpha_B, weight_BL: alpha_s,
    dalpha_s / (1 - alpha_s); count: the positions that are not given.
    """

    output: rows.Head
    x_BL: torch.Tensor
    alpha_B: torch.Tensor
    weight_BL: torch.Tensor
    free: torch.Tensor
    copied: torch.Tensor
    tokens_R: torch.Tensor
    count: torch.Tensor

    def run(self, network):
        """A network's logits of x_s (N, V)."""
        return rows.Head.of(network, self.x_BL, self.alpha_B)

    def at(self, positions, *heads):
        """Logits, alpha and weight at some positions."""
        alpha_BL = self.alpha_B[:, None].expand_as(self.x_BL)
        levels = (values.flatten()[positions] for values in (alpha_BL, self.weight_BL))
        return *(head.at(positions) for head in heads), *levels

    def detach(self):
        return replace(self, output=self.output.detach())


@dataclass
class ScoreProcess(AbsorbingProcess):
    """The absorbing process with SEDD's network: log s_y, estimates of log p_t(y) / p_t(x_t).

    At a masked position s_y = r f_y for the ideal network, r = alpha / (1 - alpha), so the
    student's output is the softmax of its log-scores over the tokens, and the loss (4) is

        dalpha / (1 - alpha) [<xhat, log s> - sum_y s_y / r - log r + 1].

    ``scaled``: log s is the last layer's output + log r - log n, n the number of tokens
    (model.scale_by_sigma); otherwise that output itself.

    The ideal scores sum to r; a network's do not. A step of sampling that is ``renormalised`` takes
    r for their sum, so that it is the absorbing process's; otherwise it is SEDD's analytic
    predictor, whose probability of a token is (alpha_s / alpha_t - 1) s_y.
    """

    scaled: bool = True
    renormalised: bool = True

    def reverse(self, student, z_BL, alpha_t, alpha_s, given_BL):
        if self.renormalised or alpha_s == 1:  # no mask remains in clean data, whatever the sum
            return super().reverse(student, z_BL, alpha_t, alpha_s, given_BL)

        def choose(logits, u):
            _, shift = self._levels(alpha_t)
            log_s = logits.double().masked_fill(self._outside(logits), -torch.inf) + shift
            probs = (log_s + torch.log(alpha_s / alpha_t - 1)).exp()
            probs[:, self.mask_index] = (1 - probs.sum(-1)).clamp_min(0.0)
            return rows.sample_tokens(probs, u)

        u_BL = rows.uniforms(z_BL.shape, z_BL.device)
        return sampler.fill(student, z_BL, z_BL == self.mask_index, alpha_t, choose, u_BL)

    def _levels(self, alpha):
        """log r, and what the last layer's output lacks of log s."""
        log_r = torch.log(alpha) - torch.log1p(-alpha)
        shift = log_r - math.log(self.vocab_size - 1) if self.scaled else torch.zeros_like(log_r)
        return log_r, shift

    def soft(self, student_logits, logits, alpha_R, weight_R):
        levels = self._levels(alpha_R)
        form = self._form(losses.score_soft)
        return form(student_logits, logits, weight_R, *levels, self.mask_index)

    def hard(self, logits, alpha_R, weight_R, token_R):
        levels = self._levels(alpha_R)
        form = self._form(losses.score_hard)
        return form(logits, weight_R, token_R, *levels, self.mask_index)

    def difference(self, student_logits, teacher_logits, fake_logits, alpha_R, weight_R):
        form = self._form(losses.score_difference)
        return form(student_logits, teacher_logits, fake_logits, weight_R, self.mask_index)


@dataclass
class UniformProcess(Process):
    """p_t(. | x) = alpha_t x + (1 - alpha_t) / V, with the network of UDLM and Duo.

    Categorical noising: x_s ~ Cat(alpha_s xhat + (1 - alpha_s) / V) is a token and is not
    differentiated; the gradient flows through r_j alone, so teacher and fake need no graph.

    ``on_policy``, ``rollout_steps``, ``rollout_stops``: see ``rollout``. ``input_times`` draws t.
    """

    vocab_size: int
    schedule: LogLinear | GaussianSchedule = LOG_LINEAR
    eps: float = 1e-3
    on_policy: float = 0.0
    rollout_steps: int = 4
    rollout_stops: Callable = rollout.sample_stops
    input_times: Callable = sample_times

    def _value(self, sample, fake):
        return sample.mean(self._form(losses.uniform_soft), fake, of=(1,))

    def _difference(self, sample, teacher, fake):
        form = self._form(losses.uniform_ratio)
        return sample.mean(form, teacher.detach(), fake.detach(), of=(0,))

    def corrupt(self, x0_BL, t_B, given_BL):
        """Tokens z_t ~ p_t(. | x0), (B, L)."""
        replaced_BL = self._replaced(t_B, given_BL)
        return torch.where(replaced_BL, torch.randint_like(x0_BL, self.vocab_size), x0_BL)

    def _replaced(self, t_B, given_BL):
        """Where p_t takes a token at random."""
        alpha_B, _ = self.schedule(t_B)
        return (rows.uniforms(given_BL.shape, given_BL.device) < 1 - alpha_B[:, None]) & ~given_BL

    def _times(self, x0_BL):
        """t, of the student's input, and s (B,)."""
        draws = self.input_times, sample_times
        return (draw(len(x0_BL), self.eps, x0_BL.device) for draw in draws)

    def _sample(self, student, x0_BL, given_BL):
        t_B, s_B = self._times(x0_BL)
        z_BL = self.corrupt(x0_BL, t_B, given_BL)
        rollout.mix_in(self, student, x0_BL, given_BL, z_BL, t_B)
        output = rows.Head.of(student, z_BL, self.schedule(t_B)[0])
        x_BL = self._renoise(output, x0_BL, s_B, given_BL)
        (free,) = rows.positions(~given_BL)
        return Sample(output.at(free), x_BL, x_BL, *self.schedule(s_B), free)

    def prior(self, x0_BL, given_BL):
        return torch.where(given_BL, x0_BL, torch.randint_like(x0_BL, self.vocab_size))

    def reverse(self, student, z_BL, alpha_t, alpha_s, given_BL):
        """z_s ~ q(. | z_t, f), proportional to q(z_t | z_s) (alpha_s f + (1 - alpha_s) / V)."""
        V, alpha_ts = self.vocab_size, alpha_t / alpha_s

        def choose(logits, z, u):
            f = losses.softmax(logits)
            at_s = mix(f, alpha_s.to(f.dtype))
            kept = at_s.gather(-1, z[:, None]) * (1 + V * alpha_ts / (1 - alpha_ts)).to(at_s.dtype)
            return rows.sample_tokens(at_s.scatter_(-1, z[:, None], kept), u)

        u_BL = rows.uniforms(z_BL.shape, z_BL.device)
        return sampler.fill(student, z_BL, ~given_BL, alpha_t, choose, z_BL, u_BL)

    def greedy(self, student, z_BL, alpha_t, given_BL):
        """The likeliest clean token at each position."""
        return sampler.fill(student, z_BL, ~given_BL, alpha_t, lambda logits: logits.argmax(-1))

    def _renoise(self, output, x0_BL, s_B, given_BL):
        """x_s: tokens at random, and the student's at the other positions, if they are not given.

        The head runs for those that are not replaced alone.
        """
        u_BL = rows.uniforms(given_BL.shape, given_BL.device)
        (sampled,) = rows.positions(~self._replaced(s_B, given_BL) & ~given_BL)
        x_BL = torch.where(given_BL, x0_BL, torch.randint_like(x0_BL, self.vocab_size))
        u_R = u_BL.flatten()[sampled]
        tokens_R = rows.sample(output.at(sampled), losses.softmax, u_R)
        x_BL.view(-1)[sampled] = tokens_R
        return x_BL


@dataclass
class Sample:
    """The student's output and one x_s of it.

    output: its logits at the R positions ``free``, which carry a loss; x: x_s as the networks take
    it; z_BL: its tokens; alpha_B, dalpha_B: the schedule at s.
    """

    output: torch.Tensor | rows.Head
    x: torch.Tensor | Mixture
    z_BL: torch.Tensor
    alpha_B: torch.Tensor
    dalpha_B: torch.Tensor
    free: torch.Tensor

    def run(self, network):
        """A network's logits at the R positions; with a graph if its parameters or x have one."""
        return rows.Head.of(network, self.x, self.alpha_B).at(self.free)

    def mean(self, loss, *heads, of=()):
        """The mean over the R positions of loss(output, logits of each head, z, alpha, dalpha)."""
        alpha_BL, dalpha_BL = (
            v[:, None].expand_as(self.z_BL) for v in (self.alpha_B, self.dalpha_B)
        )
        inputs = (v.flatten()[self.free] for v in (self.z_BL, alpha_BL, dalpha_BL))
        total = rows.total(rows.Term(loss, (self.output, *heads, *inputs), of))
        return total / max(1, len(self.free))

    def detach(self):
        return replace(self, output=self.output.detach())
