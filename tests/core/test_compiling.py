"""core.compiling: blocks as kernels give the losses and gradients of the blocks as they are."""

import copy
import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.compiling import compile_blocks
from duo_ext.core.networks import Denoiser
from duo_ext.training.recompute import recompute

V, B, L = 32, 2, 16


def gradients_of_a_pair(backbone, prepare):
    """The gradients of fake and student, with three networks of one backbone's copies."""
    backbone = copy.deepcopy(backbone)
    prepare(backbone)
    networks = [copy.deepcopy(backbone) for _ in range(3)]
    for share, network in enumerate(networks[:2], 1):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1 + 0.01 * share)
    student, fake, teacher = (Denoiser(network.eval(), True) for network in networks)
    teacher.backbone.requires_grad_(False)
    process = AbsorbingProcess(V, V - 1)
    torch.manual_seed(0)
    batch = torch.randint(V - 1, (B, L)), torch.zeros(B, L, dtype=torch.bool)
    found = []
    for loss, trained, others in (
        (process.fake_loss, fake, (student, fake)),
        (process.student_loss, student, (student, fake, teacher)),
    ):
        for network in (student, fake):
            network.backbone.requires_grad_(network is trained)
        torch.manual_seed(1)
        loss(*others, *batch).backward()
        found += [p.grad for p in trained.backbone.parameters() if p.grad is not None]
    return found


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is missing, which torch.compile calls")
def test_compiled_blocks_are_the_same(backbone):
    def both(network):
        compile_blocks(network)
        recompute(network)

    plain = gradients_of_a_pair(backbone, lambda network: None)
    graphs = counters["stats"]["unique_graphs"]
    for prepare in (compile_blocks, both):
        compiled = gradients_of_a_pair(backbone, prepare)
        assert len(plain) == len(compiled)
        for a, b in zip(plain, compiled, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert counters["stats"]["unique_graphs"] > graphs


def test_the_blocks_keep_their_names(backbone):
    names = list(backbone.state_dict())
    compile_blocks(backbone)
    assert list(backbone.state_dict()) == names


def test_a_copys_blocks_are_its_own(backbone):
    compile_blocks(backbone)
    other = copy.deepcopy(backbone)
    for own, block in zip(other.blocks, backbone.blocks, strict=True):
        assert own.forward.args[0].__self__ is own
        assert block.forward.args[0].__self__ is block
