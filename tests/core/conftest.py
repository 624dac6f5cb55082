"""Enumerated spaces and toy networks, exact in float64."""

import itertools

import pytest
import torch

from duo_ext.core.networks import Denoiser


class ToyDenoiser(Denoiser):
    """A network of three matrices: embedding, mixing of positions, head. Counts its head's rows."""

    def __init__(self, vocab_size, length, width=8, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def weight(*shape):
            value = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return torch.nn.Parameter(value)

        backbone = torch.nn.Module()
        backbone.embedding = weight(vocab_size, width)
        backbone.mixing = weight(length, length)
        backbone.output_layer = torch.nn.Module()
        backbone.output_layer.linear = torch.nn.Linear(width, vocab_size, bias=False)
        backbone.output_layer.linear.weight = weight(vocab_size, width)
        super().__init__(backbone, time_conditioning=True)
        self.head_rows = 0

    def features(self, x, alpha_B):
        embedding, mixing = self.backbone.embedding, self.backbone.mixing
        h = x.double().softmax(-1) @ embedding if x.ndim == 3 else embedding[x]
        return torch.tanh(mixing @ h * (1 + alpha_B[:, None, None]))

    def head(self, features):
        self.head_rows += features[..., 0].numel()
        return super().head(features)


@pytest.fixture
def toy():
    return ToyDenoiser


@pytest.fixture
def space():
    """``space(V, N)`` is all sequences of N tokens out of V, (V^N, N)."""

    def make(V, N):
        return torch.tensor(list(itertools.product(range(V), repeat=N)))

    return make
