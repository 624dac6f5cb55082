"""The precision of blocks and head: one for distillation and sampling, whatever lies around."""

import contextlib

import pytest
import torch

from duo_ext.core import rows
from duo_ext.core.networks import Denoiser, Tempered

ALPHA = torch.tensor([0.9, 0.4])
DEVICE = torch.get_default_device().type
BF16 = torch.autocast(DEVICE, torch.bfloat16)


@pytest.fixture
def dit(standalone, tiny, monkeypatch):
    """A DIT that opens an autocast to bf16 around its blocks, as the hosts' do on a GPU."""
    torch.manual_seed(0)
    module = standalone.module("models").dit
    network = module.DIT(tiny("algo=duo_base"), vocab_size=32)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    opened = lambda self, device: torch.autocast(DEVICE, torch.bfloat16)  # noqa: E731
    monkeypatch.setattr(module.DIT, "_precision", opened)
    return network.eval()


def tokens(soft=False):
    torch.manual_seed(1)
    return torch.randn(2, 16, 32) if soft else torch.randint(0, 32, (2, 16))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("around", [BF16, contextlib.nullcontext()], ids=["autocast", "plain"])
def test_the_network_distilled_is_the_network_sampled(dit, around, soft):
    """To the last bit: the trainer's autocast is around the one, the host's own in the other."""
    x = tokens(soft)
    sampled = dit(x, -ALPHA.log())
    with around:
        assert torch.equal(Denoiser(dit, True)(x, ALPHA), sampled)
        assert torch.equal(Tempered(dit, True)(x, ALPHA), sampled.double())


@pytest.mark.parametrize("around", [BF16, contextlib.nullcontext()], ids=["autocast", "plain"])
def test_a_precision_is_that_of_a_network_which_says_nothing(dit, monkeypatch, around):
    x = tokens()
    bf16 = dit(x, -ALPHA.log())
    with around:
        float32 = Denoiser(dit, True, "float32")(x, ALPHA)
    monkeypatch.setattr(type(dit), "_precision", lambda *_: contextlib.nullcontext())
    plain = dit(x, -ALPHA.log())
    assert torch.equal(float32, plain) and not torch.equal(plain, bf16)
    with around:
        assert torch.equal(Denoiser(dit, True, "bf16")(x, ALPHA), bf16)


def test_nothing_is_left_behind(dit):
    """By a pass whose features are taken, which ends in an exception, and by one that fails."""
    denoiser = Denoiser(dit, True, "bf16")
    denoiser.features(tokens(), ALPHA)

    def fail(module, arguments):
        raise ValueError

    hook = dit.blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(ValueError):
        denoiser.features(tokens(), ALPHA)
    hook.remove()
    assert not torch.is_autocast_enabled(DEVICE)
    for module in (*dit.blocks, dit.output_layer):
        assert not module._forward_hooks and not module._forward_pre_hooks


@pytest.mark.parametrize("name", [None, "float32", "bf16"])
def test_the_heads_gradient_has_the_precision_of_its_output(dit, name):
    """Of the sum over rows, against autograd of the whole."""
    network = Denoiser(dit, True, name)
    weight = dit.output_layer.linear.weight
    head = rows.Head.of(network, tokens(), ALPHA)
    term = rows.Term(lambda logits: logits.square().sum(-1), (head,))
    ours = torch.autograd.grad(rows.total(term), weight, retain_graph=True)[0]
    whole = torch.autograd.grad(network.head(head.features).square().sum(), weight)[0]
    tolerance = 1e-5 if name == "float32" else 0.02
    assert (ours - whole).abs().max() <= tolerance * whole.abs().max()
