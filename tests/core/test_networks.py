"""A host's DIT in two halves is the whole."""

import pytest
import torch

from duo_ext.core.networks import Denoiser


@pytest.fixture
def backbone(standalone, tiny):
    torch.manual_seed(0)
    network = standalone.module("models").dit.DIT(tiny("algo=duo_base"), vocab_size=32).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


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


def test_network_without_time_gets_sigma_zero(backbone):
    x, alpha = torch.randint(0, 32, (2, 16)), torch.full((2,), 0.5, dtype=torch.float64)
    expected = backbone(x, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(Denoiser(backbone, False)(x, alpha), expected)


def test_hook_is_gone_after_an_error(backbone):
    with pytest.raises(IndexError):
        Denoiser(backbone, True).features(torch.full((1, 16), 99), torch.ones(1))
    assert not backbone.output_layer.linear._forward_pre_hooks


# random numbers --------------------------------------------------------------------------------


@pytest.fixture
def dropping(standalone, tiny):
    """A denoiser of a network that drops, in training."""
    torch.manual_seed(0)
    config = tiny("algo=duo_base", "model.dropout=0.5")
    network = standalone.module("models").dit.DIT(config, vocab_size=32)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return Denoiser(network.train(), True)


INPUT = (torch.arange(32).view(2, 16), torch.tensor([0.9, 0.4]))


@pytest.mark.parametrize("training", [True, False])
def test_a_forward_pass_does_not_move_the_random_numbers_outside(dropping, training):
    dropping.backbone.train(training)
    torch.manual_seed(5)
    undisturbed = torch.rand(4)
    torch.manual_seed(5)
    dropping(*INPUT)
    assert torch.equal(torch.rand(4), undisturbed)


def test_nor_does_one_that_fails(dropping):
    torch.manual_seed(5)
    with pytest.raises(IndexError):
        dropping(torch.full((1, 16), 99), torch.ones(1))
    state = torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_follows_the_seed_and_not_what_was_drawn_since(dropping):
    def pass_after(seed, drawn=0):
        torch.manual_seed(seed)
        torch.rand(drawn)
        return dropping.features(*INPUT)

    assert torch.equal(pass_after(5), pass_after(5, drawn=3))
    assert not torch.equal(pass_after(5), pass_after(6))
    dropping.backbone.eval()
    assert torch.equal(pass_after(5), pass_after(6))


def test_what_is_dropped_is_not_what_the_seed_draws_outside(dropping):
    """The noise of a micro-batch and its dropout come from one seed; they must not be the same."""
    inside = []

    def draw(*_):
        inside.append(torch.rand(16))

    hook = dropping.backbone.blocks[0].register_forward_pre_hook(draw)
    torch.manual_seed(5)
    outside = torch.rand(16)
    torch.manual_seed(5)
    dropping(*INPUT)
    hook.remove()
    assert len(inside) == 1 and not torch.isclose(inside[0], outside).any()
