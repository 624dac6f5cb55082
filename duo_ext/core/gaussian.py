"""The uniform process noised as in Duo and in the paper: w_s = a_s xhat + s_s eps.

The networks see softmax(w_s / tau), which is differentiated, inside teacher and fake too. The loss
sees z = argmax(w_s), which is not differentiated.

softmax(w_s / tau) has few tokens that count. A network that takes mixtures gets the K largest, if
all others together are at most 1e-8 at every position; otherwise it gets all V. Where w_t is noise
on a token, the K largest are drawn without the other V - K (``largest_normals``). The others are
drawn only if they are needed, from random numbers of their own: so all else is the same on every
host.

Shapes: B batch, L length, N = B L positions, V vocabulary, R positions that are not given, K.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from duo_ext.core import losses, rows, sums
from duo_ext.core.networks import Mixture
from duo_ext.core.uniform import Sample, UniformProcess

NEGLIGIBLE = 1e-8  # of a sum of 1; float32 rounds at 6e-8


@dataclass
class GaussianUniformProcess(UniformProcess):
    """``schedule`` is the GaussianSchedule: the alpha of the process that the argmax follows."""

    tau: float = 1e-3  # the temperature of the soft tokens that the networks see
    top: int = 16  # K
    mixtures: bool = True  # false: every network gets all V

    def _sample(self, student, x0_BL, given_BL):
        t_B, s_B = self._times(x0_BL)
        (free,) = rows.positions(~given_BL)
        levels_t, levels_s = (self._levels(times_B, x0_BL, free) for times_B in (t_B, s_B))
        mixed = self.mixtures and student.takes_mixtures and self.top < self.vocab_size
        z = self._noised_tokens(x0_BL, free, levels_t, mixed)
        features_RD = student.features(z, self.schedule(t_B)[0]).flatten(0, 1)[free]
        p_RV, x, z_BL = self._noised(student.head(features_RD), x0_BL, free, levels_s, mixed)
        return Sample(p_RV, x, z_BL, *self.schedule(s_B), free)

    def _compared(self, sample, teacher, fake):
        return sample.mean(self._form(losses.relaxed_ratio), teacher, fake, of=(0, 1, 2))

    def _fitted(self, sample, fake):
        return sample.mean(self._form(losses.relaxed_soft), fake, of=(1,))

    def _levels(self, t_B, x0_BL, free):
        """a and s at the R positions, (R, 1) in float32."""
        for scale_B in self.schedule.scales(t_B):
            yield scale_B.float()[:, None].expand_as(x0_BL).flatten()[free][:, None]

    def _noised_tokens(self, x0_BL, free, levels, mixed):
        """The student's input: noise on tokens of the data."""
        (a_R1, s_R1), V = levels, self.vocab_size
        x0_R = x0_BL.flatten()[free]
        w_RK, tokens_RK = largest_noised(x0_R, V, self.top, a_R1, s_R1)
        seed = _own_seed()
        if mixed and self._suffices(w_RK):
            return self._mixture(x0_BL, free, w_RK, tokens_RK)
        p_RV = torch.zeros(len(free), V, device=x0_BL.device).scatter_(1, x0_R[:, None], 1.0)
        return self._soft(x0_BL, free, completed(p_RV, w_RK, tokens_RK, a_R1, s_R1, seed))

    def _noised(self, logits_RV, x0_BL, free, levels, mixed):
        """p, x_s with its gradient, and the tokens of its argmax (B, L)."""
        a_R1, s_R1 = levels
        z_N = x0_BL.flatten().clone()
        if not mixed:
            p_RV = losses.softmax(logits_RV)
            w_RV = torch.addcmul(torch.randn_like(p_RV).mul_(s_R1), p_RV, a_R1)
            z_N[free] = w_RV.detach().argmax(-1)
            return p_RV, self._soft(x0_BL, free, w_RV), z_N.view_as(x0_BL)
        p_RV, w_RK, tokens_RK = _Relaxed.apply(logits_RV, a_R1, s_R1, self.top)
        z_N[free] = tokens_RK[:, 0]
        if self._suffices(w_RK):
            x = self._mixture(x0_BL, free, w_RK, tokens_RK)
        else:
            w_RV = completed(p_RV, w_RK, tokens_RK, a_R1, s_R1, _own_seed())
            x = self._soft(x0_BL, free, w_RV)
        return p_RV, x, z_N.view_as(x0_BL)

    def _suffices(self, w_RK):
        """Whether softmax(w / tau) has next to nothing beyond the K largest, at any position."""
        gap_R = w_RK[:, 0] - w_RK[:, -1]
        rest_R = self.vocab_size * torch.exp(-gap_R.detach() / self.tau)
        return bool((rest_R <= NEGLIGIBLE).all())

    def _mixture(self, x0_BL, free, w_RK, tokens_RK):
        """softmax(w / tau) at the R positions, and the tokens that are given."""
        K = tokens_RK.shape[1]
        tokens_NK = x0_BL.reshape(-1, 1).repeat(1, K).index_copy(0, free, tokens_RK)
        weights_NK = torch.eye(K, dtype=w_RK.dtype, device=w_RK.device)[0].repeat(x0_BL.numel(), 1)
        weights_NK = weights_NK.index_copy(0, free, (w_RK / self.tau).softmax(-1))
        return Mixture(tokens_NK.view(*x0_BL.shape, K), weights_NK.view(*x0_BL.shape, K))

    def _soft(self, x0_BL, free, w_RV):
        """softmax(w / tau) at the R positions, and the tokens that are given, as logits of all
        V."""
        x_NV = w_RV.new_zeros(x0_BL.numel(), self.vocab_size).scatter_(1, x0_BL.view(-1, 1), 1.0)
        return x_NV.index_copy_(0, free, w_RV).div_(self.tau).view(*x0_BL.shape, -1)


class _Relaxed(torch.autograd.Function):
    """(p (R, V), w (R, K), tokens (R, K)): softmax(logits), the K largest of w = a p + s eps,
    descending, and where they are.

    The noise of a piece of rows is gone before the noise of the next piece is drawn.
    """

    @staticmethod
    def forward(ctx, logits_RV, a_R1, s_R1, K):
        p_RV = losses.softmax(logits_RV)
        w_RK, tokens_RK = p_RV.new_empty(len(p_RV), K), p_RV.new_empty(len(p_RV), K).long()
        for piece in rows.pieces(p_RV):
            w_RV = torch.randn_like(p_RV[piece]).mul_(s_R1[piece])
            w_RV.addcmul_(p_RV[piece], a_R1[piece])
            w_RK[piece], tokens_RK[piece] = w_RV.topk(K)
        ctx.save_for_backward(p_RV, tokens_RK, a_R1)
        ctx.mark_non_differentiable(tokens_RK)
        ctx.dtype = logits_RV.dtype
        return p_RV, w_RK, tokens_RK

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient_RV, gradient_RK, _):
        """In the memory of p's gradient, which ``rows.total`` has made for this alone."""
        p_RV, tokens_RK, a_R1 = ctx.saved_tensors
        gradient_RV.scatter_add_(1, tokens_RK, gradient_RK * a_R1)
        for piece in rows.pieces(p_RV):
            losses.through_softmax(p_RV[piece], gradient_RV[piece], out=gradient_RV[piece])
        return gradient_RV.to(ctx.dtype), None, None, None


def largest_noised(
    x0_R: Tensor, V: int, K: int, a_R1: Tensor, s_R1: Tensor
) -> tuple[Tensor, Tensor]:
    """(w (R, K), tokens (R, K)): the K largest of w = a e_x0 + s eps, descending, eps ~ N(0, I_V).

    Drawn exactly, from the largest of the V - 1 tokens that are not x0 and from x0 itself.
    """
    K = min(K, V)
    eps_RK, tokens_RK = largest_normals(len(x0_R), V - 1, min(K, V - 1), x0_R.device)
    tokens_RK = tokens_RK + (tokens_RK >= x0_R[:, None])
    own_R1 = a_R1 + s_R1 * torch.randn_like(a_R1)
    w_RK = torch.cat([s_R1 * eps_RK.to(s_R1.dtype), own_R1], 1)
    w_RK, order_RK = w_RK.topk(K)
    return w_RK, torch.cat([tokens_RK, x0_R[:, None]], 1).gather(1, order_RK)


def largest_normals(R: int, n: int, K: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(values (R, K) in float64, places (R, K)): the K largest of n independent normals,
    descending, and their places among the n.

    The largest of n uniforms are U_(n-i) with log U_(n-i) = sum_{j <= i} log(v_j) / (n - j), v_j
    uniform. Their places are K different ones in any order, each order as likely as another.
    """
    j_K = torch.arange(K, dtype=torch.float64, device=device)
    log_v_RK = torch.rand(R, K, dtype=torch.float64, device=device).log()
    tail_RK = -torch.expm1(sums.cumulated(log_v_RK / (n - j_K)))
    return -torch.special.ndtri(tail_RK), different(R, n, K, device)


def different(R: int, n: int, K: int, device: torch.device) -> Tensor:
    """K different places out of n for each of R rows, in random order (R, K)."""
    taken = []  # ascending, each (R,)
    places = []
    for k in range(K):
        place_R = torch.randint(n - k, (R,), device=device)
        for other_R in taken:
            place_R = place_R + (place_R >= other_R)
        places.append(place_R)
        taken = list(torch.stack([*taken, place_R]).sort(0).values)
    return torch.stack(places, 1)


def completed(
    p_RV: Tensor, w_RK: Tensor, tokens_RK: Tensor, a_R1: Tensor, s_R1: Tensor, seed: int
) -> Tensor:
    """All of w = a p + s eps (R, V), of which the K largest, w_RK at tokens_RK, are known.

    The others are normals that stay below the K-th, drawn by ``seed``: erf(eps / sqrt(2)) is
    uniform. The gradient is that of a p.
    """
    p, w_RK, width_R1 = p_RV.detach(), w_RK.detach(), math.sqrt(2) * s_R1
    most_RV = torch.addcmul(w_RK[:, -1:] / width_R1, p, a_R1 / width_R1, value=-1).erf_()
    with torch.random.fork_rng([p.device] if p.is_cuda else []):
        torch.manual_seed(seed)
        u_RV = torch.rand_like(p, dtype=torch.float32).to(most_RV.dtype)
    noise_RV = torch.lerp(most_RV, most_RV.new_full((), -1.0), u_RV).erfinv_().mul_(width_R1)
    known_RK = w_RK - a_R1 * p.gather(1, tokens_RK)
    noise_RV.scatter_(1, tokens_RK, known_RK.to(noise_RV.dtype))
    return torch.addcmul(noise_RV, p_RV, a_R1)


def _own_seed():
    """Drawn on the CPU, where nothing waits for it."""
    return torch.randint(2**31, (), device="cpu").item()
