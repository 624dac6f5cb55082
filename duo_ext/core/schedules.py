"""Noise schedules: how much of the clean token is left at time t.

A schedule maps times (B,) in (0, 1] to (alpha_t, dalpha_t/dt), both (B,) float64.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from duo_ext import Refused

# The range that Duo publishes for its training, at the vocabulary it was chosen for.
DUO_GAMMA = (-3.55, -1.85)
DUO_VOCAB = 50258


@dataclass(frozen=True)
class LogLinear:
    """alpha_t = 1 - (1 - eps) t, so that sigma_t = -log alpha_t is SEDD's log-linear noise."""

    eps: float = 1e-3

    def __call__(self, t_B: Tensor) -> tuple[Tensor, Tensor]:
        alpha_B = 1 - (1 - self.eps) * t_B.double()
        return alpha_B, torch.full_like(alpha_B, self.eps - 1)


LOG_LINEAR = LogLinear()


@dataclass(frozen=True)
class Geometric:
    """alpha_t = exp(-sigma_t) with SEDD's geometric sigma_t = sigma_min^(1-t) sigma_max^t."""

    sigma_min: float
    sigma_max: float

    def __call__(self, t_B: Tensor) -> tuple[Tensor, Tensor]:
        log_ratio = math.log(self.sigma_max / self.sigma_min)
        sigma_B = self.sigma_min * torch.exp(t_B.double() * log_ratio)
        alpha_B = torch.exp(-sigma_B)
        return alpha_B, -alpha_B * sigma_B * log_ratio


def gaussian_alpha(gamma_B: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """alpha and d alpha / d gamma of the uniform process that argmax(w) follows (Duo, section 3).

    w = a x + s eps with a^2 = sigmoid(-gamma), s^2 = sigmoid(gamma), eps ~ N(0, I_V), r = a / s:
    alpha = (V P - 1) / (V - 1), P = int phi(u) Phi(u + r)^(V-1) du, by the trapezoid rule in
    float64 (exponentially accurate for this integrand). Shapes (B,).
    """
    gamma_B = gamma_B.double()
    u_N = torch.linspace(-9, 9, 2001, dtype=torch.float64, device=gamma_B.device)
    step = 18 / 2000
    log_2pi = math.log(2 * math.pi)
    log_phi_N = -0.5 * u_N**2 - 0.5 * log_2pi
    r_B = torch.exp(-gamma_B / 2)
    shifted_BN = u_N + r_B[:, None]
    log_cdf_BN = torch.special.log_ndtr(shifted_BN)
    V = vocab_size
    P_B = torch.exp(log_phi_N + (V - 1) * log_cdf_BN).sum(-1) * step
    log_density_BN = -0.5 * shifted_BN**2 - 0.5 * log_2pi
    slope_BN = torch.exp(log_phi_N + (V - 2) * log_cdf_BN + log_density_BN)
    dP_dr_B = (V - 1) * slope_BN.sum(-1) * step
    alpha_B = (V * P_B - 1) / (V - 1)
    dalpha_dgamma_B = V / (V - 1) * dP_dr_B * (-r_B / 2)
    return alpha_B, dalpha_dgamma_B


def gamma_of_alpha(alpha: float, vocab_size: int) -> float:
    """The gamma whose ``gaussian_alpha`` is this alpha, found by bisection."""
    low, high = -12.0, 12.0
    for _ in range(60):
        middle = (low + high) / 2
        if gaussian_alpha(torch.tensor([middle]), vocab_size)[0].item() > alpha:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def matching_gammas(vocab_size: int) -> tuple[float, float]:
    """(gamma_min, gamma_max) that span, at this vocabulary, the alphas of Duo's published range."""
    published, _ = gaussian_alpha(torch.tensor(DUO_GAMMA), DUO_VOCAB)
    return tuple(gamma_of_alpha(alpha, vocab_size) for alpha in published.tolist())


@dataclass(frozen=True)
class GaussianSchedule:
    """alpha_t of Duo's Gaussian training, gamma_t = gamma_min + t (gamma_max - gamma_min)."""

    vocab_size: int
    gamma_min: float
    gamma_max: float

    @classmethod
    def configured(
        cls, vocab_size: int, gamma_min: float | None, gamma_max: float | None
    ) -> "GaussianSchedule":
        """The schedule of a configuration, where null is an end of ``matching_gammas``.

        Raises Refused where the ends are no range.
        """
        ends = zip((gamma_min, gamma_max), matching_gammas(vocab_size), strict=True)
        low, high = (own if end is None else end for end, own in ends)
        if not all(isinstance(end, int | float) for end in (low, high)) or not low < high:
            raise Refused(
                f"algo.gamma_min and gamma_max are {low} and {high}; they must be numbers, the "
                "first the smaller one"
            )
        return cls(vocab_size, low, high)

    def gamma(self, t_B: Tensor) -> Tensor:
        """gamma_t (B,), float64."""
        return self.gamma_min + t_B.double() * (self.gamma_max - self.gamma_min)

    def scales(self, t_B: Tensor) -> tuple[Tensor, Tensor]:
        """(a_t, s_t) of w_t = a_t x + s_t eps; (B,) float64 each."""
        gamma_B = self.gamma(t_B)
        return torch.sigmoid(-gamma_B).sqrt(), torch.sigmoid(gamma_B).sqrt()

    def __call__(self, t_B: Tensor) -> tuple[Tensor, Tensor]:
        alpha_B, dalpha_dgamma_B = gaussian_alpha(self.gamma(t_B), self.vocab_size)
        return alpha_B, dalpha_dgamma_B * (self.gamma_max - self.gamma_min)
