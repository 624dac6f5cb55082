"""Enumerated spaces and toy networks, exact in float64."""

import itertools

import pytest
import torch


class ToyDenoiser:
    """A small network with the core's interface: features of (tokens, alpha), then a head."""

    def __init__(self, vocab_size, length, width=8, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.vocab_size = vocab_size

        def weight(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

        self.weights = [
            weight(vocab_size, width),
            weight(length, length),
            weight(width, vocab_size),
        ]
        self.backbone = torch.nn.Module()
        for index, value in enumerate(self.weights):
            self.backbone.register_parameter(f"w{index}", torch.nn.Parameter(value.detach()))
        self.head_rows = 0

    def features(self, x, alpha_B):
        embedding, mixing, _ = self.backbone.parameters()
        h = x.double().softmax(-1) @ embedding if x.ndim == 3 else embedding[x]
        return torch.tanh(mixing @ h * (1 + alpha_B[:, None, None]))

    def head(self, features):
        self.head_rows += features[..., 0].numel()
        return features @ self.backbone.w2

    def __call__(self, x, alpha_B):
        return self.head(self.features(x, alpha_B))


@pytest.fixture
def toy():
    return ToyDenoiser


@pytest.fixture
def space():
    """``space(V, N)`` is all sequences of N tokens out of V, (V^N, N)."""

    def make(V, N):
        return torch.tensor(list(itertools.product(range(V), repeat=N)))

    return make
