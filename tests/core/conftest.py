"""Enumerated spaces."""

import itertools

import pytest
import torch


@pytest.fixture
def space():
    """``space(V, N)`` is all sequences of N tokens out of V, (V^N, N)."""

    def make(V, N):
        return torch.tensor(list(itertools.product(range(V), repeat=N)))

    return make
