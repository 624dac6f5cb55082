"""The forward processes on tokens and the score entropy that belongs to them (arXiv 2310.16834).

A graph is a rate matrix Q over ``dim`` tokens, one chain at each position: with sigma the total
noise, p(x_t = y | x_0 = x) = exp(sigma Q)[y, x], columns sum to one. A score is the ratio
s_y = p_t(y) / p_t(x_t) for every token y, with 1 at x_t itself; networks give its logarithm.

Shapes: tokens i, x, x0 (B, L); sigma, dsigma (B,), (B, 1) or (B, L); scores and rows of
probabilities or rates (B, L, dim).
"""

import torch
from catsample import sample_categorical

from duo_ext import Refused


def get_graph(config, device):
    """The graph that ``graph.type`` names, over ``tokens`` tokens; it has no tensors of its own."""
    if config.graph.type == "absorb":
        return Absorbing(config.tokens)
    if config.graph.type == "uniform":
        return Uniform(config.tokens)
    raise Refused(f"graph.type is '{config.graph.type}'; it must be absorb or uniform")


def per_token(sigma, i):
    """sigma with an axis for each of i."""
    return sigma.reshape(*sigma.shape, *[1] * (i.ndim - sigma.ndim))


def indicator(i, dim, dtype):
    """1 at i, 0 elsewhere, (..., dim)."""
    zeros = torch.zeros(*i.shape, dim, dtype=dtype, device=i.device)
    return zeros.scatter_(-1, i[..., None], 1.0)


def divergence(ratio):
    """K(a) = a (log a - 1), which makes the score entropy zero at the true ratio."""
    return ratio * (ratio.log() - 1)


class Graph:
    """What both graphs share: the way back in time."""

    def __init__(self, dim):
        self.tokens = dim

    def reverse_rate(self, i, score):
        """Rates from i backwards in time: Q(i, y) s_y to y, and minus their sum to i itself."""
        rate = (self.transp_rate(i) * score).scatter(-1, i[..., None], 0.0)
        return rate.scatter(-1, i[..., None], -rate.sum(-1, keepdim=True))

    def sample_rate(self, i, rate):
        """Where one Euler step leads, from 1[y = i] + rate (the step's length is in the rate)."""
        stay = torch.ones_like(rate[..., :1])
        return sample_categorical(rate.scatter_add(-1, i[..., None], stay))

    def sample_transition(self, i, sigma):
        """x_t given x_0 = i: a token is replaced with probability 1 - exp(-sigma)."""
        replaced = torch.rand(i.shape, device=i.device) < -torch.expm1(-per_token(sigma, i))
        return torch.where(replaced, self.replacement(i), i)


class Absorbing(Graph):
    """Every token turns into the mask, number ``dim - 1``, with rate 1; the mask stays."""

    absorb = True

    @property
    def dim(self):
        return self.tokens + 1

    @property
    def mask(self):
        return self.dim - 1

    def rate(self, i):
        """Column i of Q: to the mask, away from i."""
        dtype = torch.get_default_dtype()
        to_mask = indicator(torch.full_like(i, self.mask), self.dim, dtype)
        return to_mask - indicator(i, self.dim, dtype)

    def transp_rate(self, i):
        """Row i of Q: the mask is reached from everywhere, a token from nowhere."""
        reached = (i == self.mask)[..., None].to(torch.get_default_dtype())
        return reached - indicator(i, self.dim, reached.dtype)

    def transition(self, i, sigma):
        """Column i of exp(sigma Q), that is p(x_t = y | x_0 = i) over y."""
        sigma = per_token(sigma, i)[..., None]
        kept = indicator(i, self.dim, sigma.dtype) * torch.exp(-sigma)
        kept[..., -1:] -= torch.expm1(-sigma)
        return kept

    def transp_transition(self, i, sigma):
        """Row i of exp(sigma Q), that is p(x_t = i | x_0 = y) over y."""
        sigma = per_token(sigma, i)[..., None]
        moved = (i == self.mask)[..., None] * -torch.expm1(-sigma)
        return indicator(i, self.dim, sigma.dtype) * torch.exp(-sigma) + moved

    def replacement(self, i):
        return torch.full_like(i, self.mask)

    def staggered_score(self, score, dsigma):
        """p_{sigma - dsigma}(y) / p_sigma(x) for all y: exp(-dsigma Q) applied to the score."""
        dsigma = per_token(dsigma, score[..., 0])[..., None]
        earlier = score * torch.exp(dsigma)
        earlier[..., -1:] -= torch.expm1(dsigma) * score.sum(-1, keepdim=True)
        return earlier

    def sample_limit(self, *batch_dims):
        return torch.full(batch_dims, self.mask)

    def score_entropy(self, log_score, sigma, x, x0):
        """The denoising score entropy of each position, (B, L), without the factor d sigma / dt.

        Where x is the mask: sum_{y != mask} s_y - r log s_{x0} + K(r) with the ratio
        r = p(x0 | x0) / p(mask | x0) = 1 / (exp(sigma) - 1). Elsewhere 0.
        """
        masked = x == self.mask
        log_score_NV = log_score[masked][:, :-1]
        ratio_N = torch.expm1(per_token(sigma, x)).reciprocal().expand(x.shape)[masked]
        log_score_N = log_score_NV.gather(-1, x0[masked][:, None])[:, 0]
        entropy_N = log_score_NV.exp().sum(-1) - ratio_N * log_score_N + divergence(ratio_N)
        entropy_BL = torch.zeros(x.shape, dtype=entropy_N.dtype, device=x.device)
        return entropy_BL.masked_scatter(masked, entropy_N)


class Uniform(Graph):
    """Every token turns into any other with rate 1 / dim."""

    absorb = False

    @property
    def dim(self):
        return self.tokens

    def rate(self, i):
        """Column i of Q; Q is symmetric."""
        return 1 / self.dim - indicator(i, self.dim, torch.get_default_dtype())

    transp_rate = rate

    def transition(self, i, sigma):
        """Column i of exp(sigma Q), that is p(x_t = y | x_0 = i) over y."""
        sigma = per_token(sigma, i)[..., None]
        kept = indicator(i, self.dim, sigma.dtype) * torch.exp(-sigma)
        return kept - torch.expm1(-sigma) / self.dim

    transp_transition = transition

    def replacement(self, i):
        return torch.randint_like(i, self.dim)

    def staggered_score(self, score, dsigma):
        """p_{sigma - dsigma}(y) / p_sigma(x) for all y: exp(-dsigma Q) applied to the score."""
        dsigma = per_token(dsigma, score[..., 0])[..., None]
        return score * torch.exp(dsigma) - torch.expm1(dsigma) * score.mean(-1, keepdim=True)

    def sample_limit(self, *batch_dims):
        return torch.randint(self.dim, batch_dims)

    def score_entropy(self, log_score, sigma, x, x0):
        """The denoising score entropy of each position, (B, L), without the factor d sigma / dt:

            1 / dim sum_{y != x} [s_y - r_y log s_y + K(r_y)],  r_y = p(y | x0) / p(x | x0).

        With low = p(z | x0) / p(x0 | x0) for every z != x0, all r_y are low where x = x0; else they
        are 1, but for 1 / low at x0.
        """
        growth = torch.expm1(per_token(sigma, x))
        low = growth / (growth + self.dim)
        log_x, log_x0 = (log_score.gather(-1, i[..., None])[..., 0] for i in (x, x0))
        mass, total = log_score.exp().sum(-1) - log_x.exp(), log_score.sum(-1) - log_x
        at_x0 = mass - low * total + (self.dim - 1) * divergence(low)
        beside = mass - total - (1 / low - 1) * log_x0 + divergence(1 / low) - (self.dim - 2)
        return torch.where(x == x0, at_x0, beside) / self.dim
