"""What an error of gradients is split into: what stays in their mean, and noise."""

import math

import pytest
import torch

from benchmarks import gradients

K, P = 50, 4000


@pytest.mark.parametrize(("bias", "noise"), [(0.0, 0.5), (0.3, 0.0), (0.3, 0.5)])
def test_bias_and_noise_are_told_apart(bias, noise):
    torch.manual_seed(0)
    mean, shift = torch.randn(P), torch.randn(P)
    shift *= bias * mean.norm() / shift.norm()
    comparison = gradients.Comparison()
    for _ in range(K):
        g = mean + torch.randn(P)
        comparison.add(g, g + shift + math.sqrt(noise) * torch.randn(P))
    found = comparison.summary()
    expected = torch.nn.functional.cosine_similarity(mean, mean + shift, 0).item()
    assert found["micro_batches"] == K
    assert found["noise"] == pytest.approx(noise, abs=0.02)
    assert found["bias"] == pytest.approx(bias, abs=0.03)
    assert found["limit"] == pytest.approx(expected, abs=0.005)
    signal = mean.square().sum().item()
    assert found["between"] == pytest.approx(signal / (signal + P), abs=0.02)
    assert found["norm"] == pytest.approx(math.sqrt(signal + P), rel=0.02)


def test_gradients_that_are_zero_are_equal():
    zero, one = torch.zeros(3), torch.ones(3)
    assert gradients.cosine(zero, zero) == 1
    assert gradients.cosine(zero, one) == 0
    comparison = gradients.Comparison()
    comparison.add(zero, zero)
    comparison.add(zero, zero)
    found = comparison.summary()
    assert (found["cosine"], found["norm_ratio"], found["averaged"]) == (1, 1, 1)


def test_flat_takes_the_gradients_away():
    layer = torch.nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    assert gradients.flat(layer).tolist() == [1, 1, 1]
    assert layer.weight.grad is None
