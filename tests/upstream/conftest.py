"""The real checkouts: DUO_ROOT names one of Duo's branch ch-1, DUO_MAIN_ROOT one of its branch
main, SEDD_ROOT one of SEDD."""

from pathlib import Path

import pytest
import torch

from duo_ext import host


@pytest.fixture(scope="session", params=["duo ch-1", "duo main"])
def checkout(request, checkouts):
    """A real checkout as a ``Host``, each in turn."""
    variable, root = checkouts[request.param]
    if not root:
        pytest.skip(f"{variable} names no checkout of {request.param}")
    tree = host.find(root)
    assert tree.name == request.param, f"{variable} is a checkout of {tree.name}"
    return tree


@pytest.fixture(scope="session")
def sedd_root(checkouts):
    """The folder of the real SEDD checkout."""
    variable, root = checkouts["sedd"]
    if not root:
        pytest.skip(f"{variable} names no checkout of SEDD")
    return Path(root).resolve()


@pytest.fixture(scope="session")
def random_weights(standalone):
    """``random_weights(config, std=0.1)``: a state dict for Duo's DIT and SEDD's model alike."""

    def make(config, std=0.1):
        network = {"model": config.model, "algo": {"causal_attention": False}}
        absorb = config.graph.type == "absorb"
        model = standalone.module("models").dit.DIT(network, config.tokens + absorb)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=std)
        return {name: value.clone() for name, value in model.state_dict().items()}

    return make
