"""Alpha of the schedules: quadrature against closed form, Monte Carlo and differences."""

import math

import pytest
import torch

from duo_ext.core import schedules


def test_log_linear():
    alpha, dalpha = schedules.LogLinear(eps=1e-3)(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(alpha, torch.tensor([1.0, 0.5005, 1e-3], dtype=torch.float64))
    assert (dalpha == -0.999).all()


def test_two_tokens_have_a_closed_form():
    """V = 2: P = Phi(r / sqrt 2), so alpha = 2 Phi(r / sqrt 2) - 1."""
    gamma = torch.linspace(-6, 6, 13, dtype=torch.float64)
    r = torch.exp(-gamma / 2)
    alpha, _ = schedules.gaussian_alpha(gamma, 2)
    expected = torch.special.erf(r / 2)
    torch.testing.assert_close(alpha, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("V", [5, 32])
def test_quadrature_against_monte_carlo(V):
    """argmax(a e_0 + s eps) keeps token 0 with probability alpha + (1 - alpha) / V."""
    schedule = schedules.GaussianSchedule(V, -3.0, -1.0)
    n = 200_000
    torch.manual_seed(0)
    for t in (0.1, 0.5, 0.9):
        time = torch.tensor([t])
        a, s = schedule.scales(time)
        w = s * torch.randn(n, V, dtype=torch.float64)
        w[:, 0] += a
        kept = (w.argmax(-1) == 0).double().mean().item()
        alpha = schedule(time)[0].item()
        expected = alpha + (1 - alpha) / V
        assert abs(kept - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


@pytest.mark.parametrize("V", [2, 32, 50258])
def test_derivative_against_differences(V):
    schedule = schedules.GaussianSchedule(V, -5.0, -1.0)
    t, h = torch.linspace(0.05, 0.95, 10, dtype=torch.float64), 1e-5
    _, dalpha = schedule(t)
    difference = (schedule(t + h)[0] - schedule(t - h)[0]) / (2 * h)
    torch.testing.assert_close(dalpha, difference, rtol=1e-6, atol=1e-8)
    assert (dalpha < 0).all()


def test_matching_gammas_span_the_published_alphas():
    published, _ = schedules.gaussian_alpha(torch.tensor(schedules.DUO_GAMMA), schedules.DUO_VOCAB)
    ours, _ = schedules.gaussian_alpha(torch.tensor(schedules.matching_gammas(32)), 32)
    torch.testing.assert_close(ours, published, atol=1e-6, rtol=0)
    assert published[0] > 0.9 and published[1] < 0.1
