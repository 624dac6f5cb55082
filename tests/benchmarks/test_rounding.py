"""Matrix products in emulated precisions."""

import pytest
import torch

from benchmarks import rounding, shipped
from benchmarks.rounding import Precision
from duo_ext.core.networks import Denoiser

ULP = 2.0**-10  # of TF32, at 1


def test_tf32_has_ten_bits():
    x = torch.tensor([1 + 0.4 * ULP, 1 + 0.5 * ULP, 1 + 1.5 * ULP, -1 - 0.6 * ULP, 0.0, 3e38])
    nearest = torch.tensor([1.0, 1.0, 1 + 2 * ULP, -1 - ULP, 0.0])
    cut = torch.tensor([1.0, 1.0, 1 + ULP, -1.0, 0.0])
    assert torch.equal(rounding.tf32(x)[:5], nearest)
    assert torch.equal(rounding.tf32(x, cut=True)[:5], cut)
    assert rounding.tf32(x)[5].isfinite()


def test_every_product_is_rounded_forward_and_backward():
    torch.manual_seed(0)
    x, w, b = torch.randn(5, 7), torch.randn(3, 7, requires_grad=True), torch.randn(3)
    seen = torch.randn(5, 3)
    with rounding.products("TF32"):
        y = torch.nn.functional.linear(x, w, b)
        y.backward(seen)
    r = rounding.tf32
    torch.testing.assert_close(y, torch.nn.functional.linear(r(x), r(w), b))
    torch.testing.assert_close(w.grad, r(seen).T @ r(x))
    torch.testing.assert_close(torch.nn.functional.linear(x, w, b), x @ w.T + b)  # no longer


def test_attention_is_rounded_without_a_graph_too():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 6, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    exact = attend(q, k, v)
    with rounding.products("TF32"):
        rounded = attend(q, k, v)
    error = (rounded - exact).abs().max().item()
    assert 1e-5 < error < 1e-2


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = shipped.dit(40, width=32, blocks=1, cond=16, heads=2, length=8)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return Denoiser(network, True)


def dtypes(denoiser, names):
    found = {}

    def watch(name):
        return lambda module, inputs, output: found.update({name: output.dtype})

    modules = dict(denoiser.backbone.named_modules())
    hooks = [modules[name].register_forward_hook(watch(name)) for name in names]
    x = torch.randint(40, (2, 8))
    logits = denoiser(x, torch.full((2,), 0.5, dtype=torch.float64))
    for hook in hooks:
        hook.remove()
    return found | {"logits": logits.dtype}


def test_bf16_is_as_in_duo(network):
    names = ["vocab_embed", "sigma_map", "blocks.0.attn_qkv", "output_layer.linear"]
    whole, half = torch.float32, torch.bfloat16
    found = dtypes(Precision.of("bf16").network(network), names)
    assert found == {
        "vocab_embed": whole,
        "sigma_map": whole,
        "blocks.0.attn_qkv": half,
        "output_layer.linear": half,
        "logits": whole,
    }


def test_a_head_has_a_precision_of_its_own(network):
    found = dtypes(Precision.of("bf16, head float32").network(network), ["output_layer.linear"])
    assert found["output_layer.linear"] == torch.float32


def test_opponents_have_a_precision_of_their_own(network):
    precision = Precision.of("bf16, opponents TF32")
    student, fake, teacher = precision.networks(network, network, network)
    assert student.kinds.body == "bf16"
    assert fake.kinds == teacher.kinds == Precision("TF32", "TF32")


def test_float64_leaves_the_network_as_it_is(network):
    found = dtypes(Precision.of("float64").network(network), ["output_layer.linear"])
    assert found["output_layer.linear"] == torch.float64
    assert next(network.backbone.parameters()).dtype == torch.float32
