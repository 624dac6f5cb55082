"""The uniform process with the network of UDLM and Duo: tokens become any token.

See ``process`` for shapes and for what the losses are.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from duo_ext.core import losses, rollout, rows
from duo_ext.core.losses import mix
from duo_ext.core.networks import Denoiser, Mixture
from duo_ext.core.process import Process, sample_times
from duo_ext.core.schedules import LOG_LINEAR, GaussianSchedule, LogLinear


@dataclass
class UniformProcess(Process):
    """p_t(. | x) = alpha_t x + (1 - alpha_t) / V, with the network of UDLM and Duo.

    xhat is the network's output f, or with ``posterior`` the law of the clean token given z_t,
    proportional to f(x) p_t(z_t | x): what a step of ancestral sampling takes f for. (The absorbing
    process has no such choice: a token that is not the mask is known.)

    Categorical noising: x_s ~ Cat(alpha_s xhat + (1 - alpha_s) / V) is a token and is not
    differentiated; the gradient flows through r_j alone, so teacher and fake need no graph.
    """

    vocab_size: int  # V
    schedule: LogLinear | GaussianSchedule = LOG_LINEAR
    posterior: bool = False
    changes_once = False

    def _fitted(self, sample, fake):
        return sample.mean(self._form(losses.uniform_soft), fake, of=(1,))

    def _compared(self, sample, teacher, fake):
        form = self._form(losses.uniform_ratio)
        return sample.mean(form, teacher.detach(), fake.detach(), of=(0,))

    def corrupt(self, x0_BL: Tensor, alpha_B: Tensor, given_BL: Tensor) -> Tensor:
        """Tokens z_t ~ p_t(. | x0), (B, L)."""
        replaced_BL = self._replaced(alpha_B, given_BL)
        return torch.where(replaced_BL, self._noise(x0_BL), x0_BL)

    def _noise(self, x0_BL):
        """Tokens (B, L), each of the vocabulary as likely as any other."""
        u_BL = self.uniforms(x0_BL.shape, x0_BL.device)
        return (u_BL * self.vocab_size).long()

    def _replaced(self, alpha_B, given_BL):
        """Where p_t takes a token at random."""
        return (self.uniforms(given_BL.shape, given_BL.device) < 1 - alpha_B[:, None]) & ~given_BL

    def _times(self, x0_BL):
        """t, of the student's input, and s (B,)."""
        draws = self.input_times, sample_times
        return (draw(len(x0_BL), self.eps, x0_BL.device) for draw in draws)

    def _sample(self, student, x0_BL, given_BL):
        t_B, s_B = self._times(x0_BL)
        z_BL = self.corrupt(x0_BL, self.schedule(t_B)[0], given_BL)
        rollout.mix_in(self, student, x0_BL, given_BL, z_BL, t_B)
        output = self._output(student, z_BL, self.schedule(t_B)[0])
        x_BL = self._renoise(output, x0_BL, s_B, given_BL)
        (free,) = rows.positions(~given_BL)
        return Sample(output.at(free), x_BL, x_BL, *self.schedule(s_B), free)

    def _output(self, student, z_BL, alpha_B):
        """xhat as logits at all positions."""
        output = rows.Head.of(student, z_BL, alpha_B)
        if not self.posterior:
            return output
        log_odds_B = torch.log1p(self.vocab_size * alpha_B / (1 - alpha_B))
        raised = z_BL.flatten(), log_odds_B[:, None].expand_as(z_BL).flatten()
        return replace(output, raised=raised)

    def prior(self, x0_BL: Tensor, given_BL: Tensor) -> Tensor:
        """Tokens at random (B, L); x0 where given."""
        return torch.where(given_BL, x0_BL, self._noise(x0_BL))

    def reverse(
        self,
        student: Denoiser,
        z_BL: Tensor,
        alpha_t: Tensor,
        alpha_s: Tensor,
        given_BL: Tensor,
        changes_BL: Tensor | None = None,
    ) -> Tensor:
        """Tokens z_s (B, L) ~ q(. | z_t, f), proportional to q(z_t | z_s) (alpha_s f + (1 -
        alpha_s) / V), f the network's probabilities of clean tokens."""

        def choose(logits, z, u):
            return rows.sample_tokens(self._weights(logits, z, alpha_t, alpha_s), u)

        def change(logits, z, u, changes):
            """Leave z where ``changes`` says so, for a token out of the others."""
            at_s = self._weights(logits, z, alpha_t, alpha_s)
            total, kept = at_s.sum(-1), at_s.gather(-1, z[:, None])[:, 0]
            other = rows.sample_tokens(at_s.scatter_(-1, z[:, None], 0.0), u)
            return torch.where(changes < 1 - kept / total, other, z)

        u_BL = self.uniforms(z_BL.shape, z_BL.device)
        if changes_BL is None:
            return rows.fill(student, z_BL, ~given_BL, alpha_t, choose, z_BL, u_BL)
        return rows.fill(student, z_BL, ~given_BL, alpha_t, change, z_BL, u_BL, changes_BL)

    def _weights(self, logits_RV, z_R, alpha_t, alpha_s):
        """What q(. | z_t, f) is proportional to."""
        f, alpha_ts = losses.softmax(logits_RV), alpha_t / alpha_s
        at_s = mix(f, alpha_s.to(f.dtype))
        odds = (1 + self.vocab_size * alpha_ts / (1 - alpha_ts)).to(at_s.dtype)
        return at_s.scatter_(-1, z_R[:, None], at_s.gather(-1, z_R[:, None]) * odds)

    def law(self, logits_RV: Tensor, z_R: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """As ``Sampled`` says: q(. | z_t, f)."""
        weights_RV = self._weights(logits_RV, z_R, alpha_t, alpha_s)
        return weights_RV / weights_RV.sum(-1, keepdim=True)

    def greedy(self, student: Denoiser, z_BL: Tensor, alpha_t: Tensor, given_BL: Tensor) -> Tensor:
        """The likeliest clean token at each position."""
        return rows.fill(student, z_BL, ~given_BL, alpha_t, lambda logits: logits.argmax(-1))

    def _renoise(self, output, x0_BL, s_B, given_BL):
        """x_s: tokens at random, and the student's at the other positions, if they are not given.

        The head runs for those that are not replaced alone.
        """
        u_BL = self.uniforms(given_BL.shape, given_BL.device)
        (sampled,) = rows.positions(~self._replaced(self.schedule(s_B)[0], given_BL) & ~given_BL)
        x_BL = torch.where(given_BL, x0_BL, self._noise(x0_BL))
        u_R = u_BL.flatten()[sampled]
        tokens_R = rows.sample(output.at(sampled), losses.softmax, u_R)
        x_BL.view(-1)[sampled] = tokens_R
        return x_BL


@dataclass
class Sample:
    """The student's output and one x_s of it."""

    output: Tensor | rows.Head  # the student's logits at the R positions ``free``
    x: Tensor | Mixture  # x_s as the networks take it
    z_BL: Tensor  # the tokens of x_s
    alpha_B: Tensor  # the schedule at s
    dalpha_B: Tensor
    free: Tensor  # the R positions that carry a loss, as places in the flattened (B L)

    def head(self, network: Denoiser) -> rows.Head:
        """A network's logits at the R positions; with a graph if its parameters or x have one."""
        return rows.Head.of(network, self.x, self.alpha_B).at(self.free)

    def mean(self, loss: Callable, *heads: rows.Head, of: tuple[int, ...] = ()) -> Tensor:
        """The mean over the R positions of loss(output, logits of each head, z, alpha, dalpha)."""
        alpha_BL, dalpha_BL = (
            v[:, None].expand_as(self.z_BL) for v in (self.alpha_B, self.dalpha_B)
        )
        inputs = (v.flatten()[self.free] for v in (self.z_BL, alpha_BL, dalpha_BL))
        total = rows.total(rows.Term(loss, (self.output, *heads, *inputs), of))
        return total / max(1, len(self.free))

    def detach(self) -> "Sample":
        """The sample without the student's gradient."""
        return replace(self, output=self.output.detach())
