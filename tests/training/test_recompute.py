"""training.recompute: equal losses and gradients to the last bit, with less kept for backward."""

import contextlib
import copy

import pytest
import torch

from duo_ext.core import gaussian, schedules
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.networks import Denoiser
from duo_ext.core.uniform import UniformProcess
from duo_ext.training.recompute import recompute

V, B = 33, 2
PROCESSES = {
    "absorbing": AbsorbingProcess(V, V - 1),
    "uniform": UniformProcess(V),
    "gaussian": gaussian.GaussianUniformProcess(
        V, schedules.GaussianSchedule(V, -2.0, 2.0), tau=0.1
    ),
}


def of_a_pair(process, networks, x0_BL):
    """The losses of a pair, the gradients that each leaves, and the random state after it."""
    student, fake, teacher = (Denoiser(network, True) for network in networks)
    teacher.backbone.eval().requires_grad_(False)
    given_BL, found = torch.zeros_like(x0_BL, dtype=torch.bool), []
    for loss, trained, *others in (
        (process.fake_loss, fake, student),
        (process.student_loss, student, fake, teacher),
    ):
        for other in others:
            other.backbone.requires_grad_(False)
        trained.backbone.train().requires_grad_(True)
        torch.manual_seed(5)
        arguments = (student, fake, teacher)[: len(others) + 1]
        value = loss(*arguments, x0_BL, given_BL)
        value.backward()
        found += [value, torch.get_rng_state()]
        found += [p.grad for p in trained.backbone.parameters() if p.grad is not None]
    return found


@pytest.mark.parametrize("precision", ["float64", "bf16"])
@pytest.mark.parametrize("name", PROCESSES)
def test_a_pair_is_the_same_to_the_last_bit(random_dit, name, precision):
    """With dropout; of copies as a distillation makes them; bf16 as a hook on each block sets it,
    which the second forward pass does not call."""
    whole = random_dit("model.dropout=0.1")
    again = copy.deepcopy(whole)
    recompute(again)
    assert list(again.state_dict()) == list(whole.state_dict())
    x0_BL, found = torch.randint(V - 1, (B, 16)), []
    for start in (whole, again):
        networks = [copy.deepcopy(start) for _ in range(3)]
        for number, made in enumerate(networks):
            torch.manual_seed(number)
            for parameter in made.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
            hook(made) if precision == "bf16" else made.double()
        found.append(of_a_pair(PROCESSES[name], networks, x0_BL))
    assert len(found[0]) == len(found[1]) > 60
    assert all(map(torch.equal, *found))


def hook(network):
    """Each block runs in an autocast of its own."""
    for block in network.blocks:
        autocast = contextlib.ExitStack()
        block.register_forward_pre_hook(
            lambda *_, stack=autocast: (
                stack.enter_context(torch.autocast("cpu", torch.bfloat16)) and None
            )
        )
        block.register_forward_hook(lambda *_, stack=autocast: stack.close())


def kept(random_dit, blocks, repeat, length=64, width=64):
    """Bytes kept for the backward pass, the weights apart."""
    made = random_dit(
        f"model.n_blocks={blocks}", f"model.length={length}", f"model.hidden_size={width}",
        "model.dropout=0.1",
    ).train()  # fmt: skip
    if repeat:
        recompute(made)
    own = {p.untyped_storage().data_ptr() for p in made.parameters()}
    sizes, alive = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # so that no other takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made(torch.randint(V, (B, length)), torch.rand(B))
    return sum(sizes.values())


@pytest.mark.parametrize("repeat", [False, True])
def test_a_block_keeps_its_input_alone(random_dit, repeat):
    """In float32 4 bytes a token and unit of width, instead of about a hundred."""
    three, one = (kept(random_dit, blocks, repeat) for blocks in (3, 1))
    a_block = (three - one) / 2 / (B * 64 * 64)
    assert 4 <= a_block < 4.5 if repeat else 80 < a_block < 150


def test_sampling_repeats_nothing(random_dit):
    made, calls = random_dit(), []
    block = made.blocks[0]
    forward = block.forward
    block.forward = lambda *given: calls.append(0) or forward(*given)
    recompute(made)
    x_BL, sigma_B = torch.randint(V, (B, 16)), torch.rand(B)
    with torch.no_grad():
        made(x_BL, sigma_B)
    assert len(calls) == 1
    made(x_BL, sigma_B).sum().backward()
    assert len(calls) == 3
