"""Enumerated spaces."""

import itertools
import os

import pytest
import torch

if DEVICE := os.environ.get("IDLM_TEST_DEVICE"):  # benchmarks.gpu_check says cuda
    torch.set_default_device(DEVICE)


@pytest.fixture
def space():
    """``space(V, N)`` is all sequences of N tokens out of V, (V^N, N)."""

    def make(V, N):
        return torch.tensor(list(itertools.product(range(V), repeat=N)))

    return make


@pytest.fixture
def backbone(standalone, tiny):
    torch.manual_seed(0)
    network = standalone.module("models").dit.DIT(tiny("algo=duo_base"), vocab_size=32).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network
