"""core.halved: a layer with a weight in bf16, against a plain one with the rounded weight."""

import pytest
import torch

from duo_ext.core.halved import Halved, halved, linear


@pytest.fixture
def layers():
    """(a layer that holds its weight in bf16, a plain one with the same weight)."""
    torch.manual_seed(0)
    plain = torch.nn.Linear(7, 5)
    held = linear(Halved, plain, halved(plain.weight))
    plain.weight = torch.nn.Parameter(plain.weight.detach().bfloat16().float())
    return held, plain


def test_half_of_the_memory_and_no_gradient(layers):
    held, plain = layers
    assert held.weight.nbytes == plain.weight.nbytes / 2 and not held.weight.requires_grad
    assert held.bias is plain.bias
    assert list(held.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_computes_as_the_rounded_weight_does(layers, dtype, autocast):
    found = []
    for layer in layers:
        layer.bias = torch.nn.Parameter(layer.bias.detach().to(dtype))
        if layer.weight.requires_grad:
            layer.to(dtype)
        x = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(1), dtype=dtype)
        x.requires_grad_(True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = layer(x)
        (y.float() ** 2).sum().backward()
        found.append((y, x.grad, layer.bias.grad))
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b)


def test_the_widened_weight_is_not_kept_for_the_backward_pass(layers):
    def kept(layer):
        found = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: found.append(t) or t, lambda t: t):
            layer(torch.randn(2, 7, requires_grad=True))
        return sum(t.numel() for t in found if t.dtype == torch.float32)

    held, plain = layers
    assert kept(held) == 0 < kept(plain)


def test_a_frozen_bias_has_no_gradient(layers):
    held, _ = layers
    held.bias.requires_grad_(False)
    held(torch.randn(2, 7, requires_grad=True)).sum().backward()
    assert held.bias.grad is None
