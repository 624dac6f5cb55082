"""How much of the student's gradient is rounding: a number to watch (docs/precision.md).

(10) is a difference of nearly equal networks. Its gradient at the student's last features shows
what rounding does to it without a backward pass of the student.
"""

import contextlib
import copy

import torch
from torch import Tensor

from duo_ext.core.networks import Denoiser
from duo_ext.core.process import Process


def gradient_cosine(
    process: Process,
    student: Denoiser,
    fake: Denoiser,
    teacher: Denoiser,
    x0_BL: Tensor,
    given_BL: Tensor,
    seed: int,
) -> float:
    """The cosine between two gradients of (10) at the student's last features.

    In one, teacher and fake run as they do in training; in the other, in float32 without TF32. It
    is 1.0 where nothing is rounded and 0.0 where the gradient is rounding alone. Both are of one
    sample, which ``seed`` draws. At a cosine of 0.9 the square of the rounding is a quarter of the
    exact gradient's square, at 0.5 it is three times as large: the student then learns rounding.
    """
    watched = _Watched(student)
    exact = [copy.copy(network) for network in (fake, teacher)]
    for network in exact:
        network.precision = "float32"
    ways = ((fake, teacher), contextlib.nullcontext()), (exact, _without_tf32())
    gradients = []
    with _fixed(student, fake, teacher):
        for opponents, way in ways:
            torch.manual_seed(seed)
            with way:
                process.student_loss(watched, *opponents, x0_BL, given_BL).backward()
            gradients.append(watched.last.grad.flatten().double())
    return torch.nn.functional.cosine_similarity(*gradients, dim=0).item()


class _Watched:
    """A student that is not trained; ``last`` are its features, which carry a gradient."""

    def __init__(self, network):
        self.network = network

    def __getattr__(self, name):
        return getattr(self.network, name)

    def features(self, x, alpha_B):
        with torch.no_grad():
            self.last = self.network.features(x, alpha_B)
        return self.last.requires_grad_()


@contextlib.contextmanager
def _fixed(*networks):
    """No parameter gets a gradient, and none loses the one that it has."""
    parameters = [p for network in networks for p in network.backbone.parameters()]
    trained = [p for p in parameters if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _without_tf32():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
