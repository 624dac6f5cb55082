"""A host's DIT in two halves is the whole."""

import pytest
import torch

from duo_ext.core.networks import Denoiser, Mixture, Tempered


@pytest.mark.parametrize("soft", [False, True])
def test_head_of_features_is_the_forward_pass(backbone, soft):
    x = torch.randint(0, 32, (3, 16))
    x = torch.randn(3, 16, 32, dtype=torch.float64) if soft else x
    alpha = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
    expected = backbone(x, -alpha.log())
    torch.testing.assert_close(Denoiser(backbone, True)(x, alpha), expected)
    rows = torch.rand(3, 16) < 0.5
    denoiser = Denoiser(backbone, True)
    chosen = denoiser.head(denoiser.features(x, alpha)[rows])
    torch.testing.assert_close(chosen, expected[rows])


def test_gradients_are_those_of_the_forward_pass(backbone):
    x, alpha = torch.randint(0, 32, (2, 16)), torch.full((2,), 0.5, dtype=torch.float64)
    parameters = list(backbone.parameters())
    whole = torch.autograd.grad(backbone(x, -alpha.log()).sin().sum(), parameters)
    halves = torch.autograd.grad(Denoiser(backbone, True)(x, alpha).sin().sum(), parameters)
    for a, b in zip(whole, halves, strict=True):
        torch.testing.assert_close(a, b)


def test_a_mixture_is_the_soft_tokens_it_stands_for(backbone):
    """Equal to 1e-12, gradients included; the hook is gone after it."""
    dense = torch.randn(2, 16, 32, dtype=torch.float64, requires_grad=True)
    alpha = torch.full((2,), 0.5, dtype=torch.float64)
    tokens = torch.stack([torch.randperm(32) for _ in range(32)]).view(2, 16, 32)
    mixture = Mixture(tokens, dense.softmax(-1).gather(-1, tokens))
    denoiser, found = Denoiser(backbone, True), []
    for x in (dense, mixture):
        logits = denoiser(x, alpha)
        wanted = [dense, *backbone.parameters()]
        found.append([logits, *torch.autograd.grad(logits.sin().sum(), wanted)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert not backbone.vocab_embed._forward_hooks


def test_network_without_time_gets_sigma_zero(backbone):
    x, alpha = torch.randint(0, 32, (2, 16)), torch.full((2,), 0.5, dtype=torch.float64)
    expected = backbone(x, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(Denoiser(backbone, False)(x, alpha), expected)


def test_hook_is_gone_after_an_error(backbone):
    with pytest.raises(RuntimeError):  # of another batch
        Denoiser(backbone, True).features(torch.zeros(2, 16, dtype=torch.long), torch.ones(3))
    assert not backbone.output_layer.linear._forward_pre_hooks


def test_a_nucleus_is_the_smallest_set_of_that_mass():
    """Of the tokens that can be output: the mask, likely as it is, is none."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125, 50.0]], dtype=torch.float64).log()
    for nucleus, kept in ((0.3, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.8, 3), (0.9, 4), (1.0, 5)):
        student = Tempered(torch.nn.Identity(), False, nucleus=nucleus, mask=4)
        left = student._in_nucleus(logits.clone()) if nucleus < 1 else logits
        assert left.isfinite().sum() == kept
        assert torch.equal(left[:, :kept], logits[:, :kept]) or nucleus == 1
