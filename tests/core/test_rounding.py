"""The number that says how much of the student's gradient is rounding."""

import copy

import pytest
import torch

from duo_ext.core import gaussian, schedules
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.networks import Denoiser
from duo_ext.core.rounding import gradient_cosine
from duo_ext.core.score import ScoreProcess
from duo_ext.core.uniform import UniformProcess

V, B, L = 32, 4, 16
PROCESSES = {
    "absorbing": AbsorbingProcess(V, V - 1, on_policy=0.5),
    "score": ScoreProcess(V, V - 1),
    "uniform": UniformProcess(V),
    "gaussian": gaussian.GaussianUniformProcess(V, schedules.GaussianSchedule(V, -2.0, 2.0)),
}


@pytest.fixture
def networks(standalone, tiny):
    """Student, fake, teacher: the fake next to the teacher."""
    torch.manual_seed(0)
    dit = standalone.module("models").dit.DIT(tiny("algo=duo_base"), vocab_size=V)
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    fake = copy.deepcopy(dit)
    for parameter in fake.parameters():
        parameter.data += 1e-4 * torch.randn_like(parameter)
    return [Denoiser(network.eval(), True) for network in (copy.deepcopy(dit), fake, dit)]


@pytest.mark.parametrize("name", PROCESSES)
def test_it_is_one_where_nothing_is_rounded_and_less_in_bf16(networks, name):
    student, fake, teacher = networks
    batch = torch.randint(0, V - 1, (B, L)), torch.zeros(B, L, dtype=torch.bool)
    fake.precision = teacher.precision = "float32"
    assert gradient_cosine(PROCESSES[name], *networks, *batch, 3) == pytest.approx(1, abs=1e-6)
    fake.precision = teacher.precision = "bf16"
    assert gradient_cosine(PROCESSES[name], *networks, *batch, 3) < 0.9
    student.precision = "bf16"
    fake.precision = teacher.precision = "float32"
    assert gradient_cosine(PROCESSES[name], *networks, *batch, 3) == pytest.approx(1, abs=1e-6)


def test_it_leaves_gradients_and_what_is_trained_as_they_were(networks):
    student, fake, teacher = networks
    teacher.backbone.requires_grad_(False)
    for network in (student, fake):
        for parameter in network.backbone.parameters():
            parameter.grad = torch.ones_like(parameter)
    before = torch.get_float32_matmul_precision()
    batch = torch.randint(0, V - 1, (B, L)), torch.zeros(B, L, dtype=torch.bool)
    gradient_cosine(PROCESSES["uniform"], *networks, *batch, 3)
    for network in (student, fake):
        assert all(p.requires_grad and (p.grad == 1).all() for p in network.backbone.parameters())
    assert not any(p.requires_grad or p.grad is not None for p in teacher.backbone.parameters())
    assert torch.get_float32_matmul_precision() == before
