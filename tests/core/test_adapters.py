"""core.adapters: adapters on a shared network, against the formula of each layer."""

import copy
import functools

import pytest
import torch

from duo_ext import Refused
from duo_ext.core import adapters, compiling, gaussian, schedules
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.distiller import Distiller, Recipe
from duo_ext.core.networks import Denoiser
from duo_ext.core.uniform import UniformProcess
from duo_ext.training.recompute import recompute

pytest.importorskip("peft")

V, B, L, RANK = 33, 2, 16, 3
DEFAULTS = {
    "rank": RANK,
    "alpha": None,
    "targets": ["blocks.*", "sigma_map.*", "*.adaLN_modulation"],
    "whole": [],
    "frozen": "float32",
}
WHOLE = {"whole": ["*.bias", "*norm*"]}
HALF = {"frozen": "bf16"}
HEAD = {"targets": ["*"]}
HELD = ({}, HEAD, HEAD | HALF)
PROCESSES = {
    "absorbing": AbsorbingProcess(V, V - 1),
    "uniform": UniformProcess(V),
    "gaussian": gaussian.GaussianUniformProcess(
        V, schedules.GaussianSchedule(V, -2.0, 2.0), tau=0.1
    ),
}


@pytest.fixture
def network(random_dit):
    """``network()`` is a DIT of random weights in float64, so that sums in any order agree."""

    def make(*overrides, **prepare):
        return random_dit(f"model.length={L}", *overrides, **prepare).double().eval()

    return make


def moved(network, seed):
    """The network, what is trained in it moved."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapters.trained(network):
            p += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return network


def three(student, **settings):
    """(student, fake, teacher): the two on the third, moved from it."""
    teacher = adapters.adapt(student, DEFAULTS | settings, seed=1)
    return moved(student, 2), moved(adapters.twin(student), 3), teacher


def run(network):
    x_BL = torch.arange(B * L).view(B, L) % V
    with torch.no_grad():
        return network(x_BL, torch.tensor([0.5, 2.0]))


def rounded(network):
    """The network, the weights of layers that have adapters by default rounded to bf16."""
    with torch.no_grad():
        for name, layer in network.named_modules():
            if isinstance(layer, torch.nn.Linear) and name != "output_layer.linear":
                layer.weight.copy_(layer.weight.bfloat16())
    return network


@pytest.mark.parametrize("settings", [WHOLE, WHOLE | HALF], ids=["whole", "whole, half"])
def test_each_starts_as_the_network_and_leaves_the_others(network, settings):
    student, plain = network(), network()
    plain = run(rounded(plain) if "frozen" in settings else plain)
    teacher = adapters.adapt(student, DEFAULTS | settings, seed=1)
    fake = adapters.twin(student)
    assert all(torch.equal(run(n), plain) for n in (student, fake, teacher))
    moved(student, 2)
    assert not torch.allclose(run(student), plain)
    assert all(torch.equal(run(n), plain) for n in (fake, teacher))


def test_a_layer_is_its_weight_and_the_product_of_the_adapters(network):
    student, _, teacher = three(network(), alpha=6.0)
    layer, base = student.blocks[0].attn_qkv, teacher.blocks[0].attn_qkv
    x = torch.randn(5, 32, dtype=torch.float64)
    A, B_ = layer.lora_A.default.weight, layer.lora_B.default.weight
    assert A.shape == (RANK, 32) and B_.shape == (96, RANK)
    torch.testing.assert_close(layer(x), base(x) + 6 / RANK * (x @ A.T) @ B_.T)


def test_default_targets_are_the_linear_layers_but_the_last(network):
    student, *_ = three(network())
    kinds = ("attn_qkv", "attn_out", "mlp.0", "mlp.2", "adaLN_modulation")
    expected = {f"blocks.{n}.{kind}" for n in range(2) for kind in kinds}
    expected |= {"sigma_map.mlp.0", "sigma_map.mlp.2", "output_layer.adaLN_modulation"}
    assert set(adapters.adapted(student)) == expected


@pytest.mark.parametrize("settings", [WHOLE, WHOLE | HALF], ids=["whole", "whole, half"])
def test_frozen_weights_are_the_same_tensors_and_nothing_else_is(network, settings):
    student, fake, teacher = three(network(), **settings)
    storages = [{p.data_ptr(): p.numel() for p in n.parameters()} for n in (student, fake, teacher)]
    shared = storages[0].keys() & storages[1].keys()
    assert shared == {p.data_ptr() for p in student.parameters() if not p.requires_grad}
    assert shared < storages[2].keys()  # of which the others have their own biases and norms
    trained = [p for n in (student, fake) for p in adapters.trained(n)]
    assert not {p.data_ptr() for p in trained} & storages[2].keys()
    assert not adapters.trained(teacher)


def test_weights_under_adapters_are_held_in_bf16_and_what_is_trained_is_not(network):
    student, _, teacher = three(network(), **WHOLE, **HALF)
    halves = {f"{name}.weight" for name in adapters.adapted(student)}
    for name, parameter in teacher.named_parameters():
        assert parameter.dtype == (torch.bfloat16 if name in halves else torch.float64)
    assert all(p.dtype == torch.float64 for p in adapters.trained(student))
    merged = adapters.merged(student)
    assert all(p.dtype == torch.float64 for p in merged.parameters())
    assert type(merged.blocks[0].attn_qkv) is torch.nn.Linear


def test_frozen_weights_stay_shared_where_they_are_moved_to(network):
    """As to a device; each network is moved by itself."""
    student, fake, teacher = three(network())
    student.float()
    for other in (fake, teacher):
        assert other.vocab_embed.embedding.dtype == torch.float32
        other.float()
    places = [n.vocab_embed.embedding.data_ptr() for n in (student, fake, teacher)]
    assert len(set(places)) == 1


@pytest.mark.parametrize("settings", [{}, WHOLE, HALF, HEAD], ids=["low", "whole", "half", "head"])
def test_merged_it_is_a_network_of_the_host(network, settings):
    plain = network()
    student, *_ = three(network(), **settings)
    found = adapters.merged(student)
    assert [(n, v.shape) for n, v in found.state_dict().items()] == [
        (n, v.shape) for n, v in plain.state_dict().items()
    ]
    torch.testing.assert_close(run(found), run(student))
    other = [torch.randn_like(p) for p in adapters.trained(student)]
    average = adapters.merged(student, other)
    assert torch.equal(run(adapters.merged(student)), run(found))  # values are not its own
    for p, value in zip(adapters.trained(student), other, strict=True):
        p.data = value
    assert torch.equal(run(average), run(adapters.merged(student)))


def test_without_adapters_a_network_is_its_own(network):
    plain = network()
    assert adapters.merged(plain) is plain
    assert adapters.own_state(plain).keys() == plain.state_dict().keys()
    shared = {p.data_ptr() for p in plain.parameters()}
    assert not shared & {p.data_ptr() for p in adapters.twin(plain).parameters()}


def of_a_pair(process, student, fake, teacher, merge=False):
    """{name: gradient} of both updates of a pair. With ``merge`` of networks with whole weights."""
    if merge:
        student, fake = (copy.deepcopy(adapters.merged(n)) for n in (student, fake))
        for whole in (student, fake):
            whole.requires_grad_(True)
    networks = student, fake, teacher
    made = Distiller(
        process,
        *((Denoiser(n, True), torch.optim.SGD([torch.zeros(1)]), None) for n in networks[:2]),
        Denoiser(teacher, True),
        Recipe(),
    )
    x0_BL, found = torch.arange(B * L).view(B, L) % (V - 1), {}
    made._update = lambda phase: found.update(
        {
            f"{name}.{key}": p.grad
            for name in phase
            for key, p in made.networks[name].backbone.named_parameters()
            if p.grad is not None
        }
    )
    for _ in range(2):
        made.step(x0_BL, torch.zeros_like(x0_BL, dtype=torch.bool))
        made.updates, made.micro, made.loss_sums = made.updates + 1, 0, {}
    return found


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("prepare", [None, recompute], ids=["kept", "recomputed"])
@pytest.mark.parametrize("settings", HELD, ids=["default", "and the head", "half, and the head"])
def test_gradients_are_those_of_merged_weights(network, name, prepare, settings):
    """By the chain rule, of G = dl/dW: dl/dB = G A^T, dl/dA = B^T G; whole parameters have
    theirs. Recomputed blocks see their own adapters in the backward pass."""
    networks = three(network(prepare=prepare), **WHOLE, **settings)
    found = of_a_pair(PROCESSES[name], *networks)
    wanted = of_a_pair(PROCESSES[name], *networks, merge=True)
    checked = set()
    for role, network in zip(("student", "fake"), networks, strict=False):
        for place, layer in adapters.adapted(network).items():
            A, B_ = layer.lora_A.default.weight, layer.lora_B.default.weight
            key, G = f"{role}.{place}", wanted[f"{role}.{place}.weight"]
            torch.testing.assert_close(found[f"{key}.lora_B.default.weight"], G @ A.T)
            torch.testing.assert_close(found[f"{key}.lora_A.default.weight"], B_.T @ G)
            checked |= {f"{key}.lora_{factor}.default.weight" for factor in "AB"}
    for key in found.keys() - checked:
        torch.testing.assert_close(found[key], wanted[key.replace("base_layer.", "")])
    trained = sum(len(adapters.trained(network)) for network in networks[:2])
    assert len(found) == trained > 60


@pytest.fixture
def traced(monkeypatch):
    """torch.compile traces as it does, and writes no C++, which would take half a minute."""
    compiling._forward_of.cache_clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    yield
    compiling._forward_of.cache_clear()


def test_compiled_blocks_see_their_own_adapters_when_they_are_computed_again(network, traced):
    def both(made):
        compiling.compile_blocks(made)
        recompute(made)

    found = []
    for prepare in (None, both):
        student, fake, _ = three(network("model.n_blocks=1", prepare=prepare), **HALF)
        x_BL, sigma_B = torch.arange(B * L).view(B, L) % V, torch.tensor([0.5, 2.0])
        outputs = [made(x_BL, sigma_B) for made in (student, fake)]  # then both are computed again
        sum(output.square().sum() for output in outputs).backward()
        found.append(outputs + [p.grad for n in (student, fake) for p in adapters.trained(n)])
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain)


def test_a_weight_that_is_trained_whole_has_no_adapters(network):
    student = network()
    teacher = adapters.adapt(student, DEFAULTS | {"targets": ["*"], "whole": ["output_*"]}, seed=1)
    head = student.output_layer.linear
    assert type(head) is torch.nn.Linear and head.weight.requires_grad
    assert head.weight.data_ptr() != teacher.output_layer.linear.weight.data_ptr()
    assert "blocks.0.attn_qkv" in adapters.adapted(student)


def test_state_goes_to_another_network_on_the_same_weights(network):
    student, fake, _ = three(network(), **WHOLE)
    state = {name: value.clone() for name, value in adapters.own_state(student).items()}
    assert not any("base_layer.weight" in name for name in state)
    adapters.load_own_state(fake, state)
    assert torch.equal(run(fake), run(student))
    with pytest.raises(RuntimeError, match="lora_A"):
        state.pop("blocks.0.attn_qkv.lora_A.default.weight")
        adapters.load_own_state(fake, state)


def test_adapters_are_drawn_by_the_seed_and_nothing_else(network):
    def drawn(seed, before):
        torch.manual_seed(before)
        made = network()
        state = torch.get_rng_state()
        adapters.adapt(made, DEFAULTS, seed)
        assert torch.equal(torch.get_rng_state(), state)
        return made.blocks[0].attn_qkv.lora_A.default.weight

    assert torch.equal(drawn(1, 2), drawn(1, 3)) and not torch.equal(drawn(1, 2), drawn(2, 2))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"targets": ["layers.*"]}, r"algo.adapter.targets has 'layers.\*', which matches no name"),
        (
            {"whole": ["*"]},
            r"algo.adapter.whole is \['\*'\], which leaves no layer of .* an adapter",
        ),
        ({"whole": ["*.bais"]}, r"algo.adapter.whole has '\*.bais', which matches no name of .*"),
    ],
)
def test_patterns_that_cannot_be_are_refused(network, settings, told):
    with pytest.raises(Refused, match=f"^{told}"):
        adapters.adapt(network(), DEFAULTS | settings, seed=1)


def test_without_peft_one_sentence_names_the_extra(network, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(Refused, match=r"^algo.adapter.rank needs .* 'idlm\[adapters\]'$"):
        adapters.adapt(network(), DEFAULTS, seed=1)
