"""The precision of blocks and head: one for distillation and sampling, whatever lies around."""

import contextlib
import copy

import pytest
import torch

from duo_ext.core import precision, rows, sampler
from duo_ext.core.networks import Denoiser

ALPHA = torch.tensor([0.9, 0.4])
BF16 = torch.autocast("cpu", torch.bfloat16)


@pytest.fixture
def dit(standalone, tiny, monkeypatch):
    """A DIT that opens an autocast to bf16 around its blocks, as the hosts' do on a GPU."""
    torch.manual_seed(0)
    module = standalone.module("models").dit
    network = module.DIT(tiny("algo=duo_base"), vocab_size=32)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    opened = lambda self, device: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    monkeypatch.setattr(module.DIT, "_precision", opened)
    return network.eval()


def tokens(soft=False):
    torch.manual_seed(1)
    return torch.randn(2, 16, 32) if soft else torch.randint(0, 32, (2, 16))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("around", [BF16, contextlib.nullcontext()], ids=["autocast", "plain"])
@pytest.mark.parametrize("name", [None, *precision.PRECISIONS])
def test_the_network_distilled_is_the_network_sampled(dit, name, around, soft):
    """To the last bit: the trainer's autocast is around the one, the host's own in the other."""
    if name:
        precision.run_in(dit, name)
    x = tokens(soft)
    sampled = dit(x, -ALPHA.log())
    with around:
        denoiser = Denoiser(dit, True)
        features = denoiser.features(x, ALPHA)
        distilled = denoiser.head(features)
    assert torch.equal(distilled, sampled)
    assert features.dtype == (torch.float32 if name == "float32" else features.dtype)
    tempered = sampler.Tempered(dit, True)
    assert torch.equal(tempered(x, ALPHA), sampled.double())


def test_float32_is_that_of_a_network_without_autocast(dit, monkeypatch):
    x = tokens()
    bf16 = dit(x, -ALPHA.log())
    both = {name: copy.deepcopy(dit) for name in precision.PRECISIONS}
    for name, network in both.items():
        precision.run_in(network, name)
    monkeypatch.setattr(type(dit), "_precision", lambda *_: contextlib.nullcontext())
    plain = dit(x, -ALPHA.log())
    assert not torch.equal(plain, bf16)
    assert torch.equal(both["float32"](x, -ALPHA.log()), plain)
    assert torch.equal(both["bf16"](x, -ALPHA.log()), bf16)  # opened by nobody else


def test_a_copy_and_a_pass_that_fails_leave_no_autocast_behind(dit):
    precision.run_in(dit, "bf16")
    network = copy.deepcopy(dit)
    Denoiser(network, True).features(tokens(), ALPHA)  # leaves by an exception

    def fail(module, arguments):
        raise ValueError

    network.blocks[0].register_forward_pre_hook(fail)
    with pytest.raises(ValueError):
        network(tokens(), -ALPHA.log())
    assert not torch.is_autocast_enabled("cpu")
    assert network.state_dict().keys() == dit.state_dict().keys()


@pytest.mark.parametrize("name", precision.PRECISIONS)
def test_the_heads_gradient_has_the_precision_of_its_output(dit, name):
    """Of the sum over rows, against autograd of the whole."""
    precision.run_in(dit, name)
    network = Denoiser(dit, True)
    weight = dit.output_layer.linear.weight
    head = rows.Head.of(network, tokens(), ALPHA)
    term = rows.Term(lambda logits: logits.square().sum(-1), (head,))
    ours = torch.autograd.grad(rows.total(term), weight, retain_graph=True)[0]
    whole = torch.autograd.grad(network.head(head.features).square().sum(), weight)[0]
    tolerance = 1e-5 if name == "float32" else 0.02
    assert (ours - whole).abs().max() <= tolerance * whole.abs().max()
