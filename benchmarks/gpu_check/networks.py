"""Networks and processes that the items measure, in the trees that are at hand."""

import copy
from pathlib import Path

import omegaconf
import torch

from duo_ext.core import gaussian, schedules
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.networks import Denoiser
from duo_ext.core.score import ScoreProcess
from duo_ext.core.uniform import UniformProcess


def _gaussian(V):
    return gaussian.GaussianUniformProcess(V, schedules.GaussianSchedule.configured(V, None, None))


# name: (process of a vocabulary, whether its networks are conditioned on time)
PROCESSES = {
    "mdlm": (lambda V: AbsorbingProcess(V, V - 1), False),
    "sedd": (lambda V: ScoreProcess(V, V - 1), True),
    "categorical": (UniformProcess, True),
    "gaussian": (_gaussian, True),
}


def is_sedd(path):
    return (Path(path) / "graph_lib.py").exists()


def tree_of(path):
    """(a tree, active in this process; make(config, V) of its DIT)."""
    if is_sedd(path):
        from sedd_ext import host

        tree = host.find(path).activate()
        return tree, lambda config, V: tree.module("model").SEDD(config)
    from duo_ext import host

    tree = host.find(path).activate()
    return tree, lambda config, V: tree.module("models.dit").DIT(config, V)


def config_of(V, length, width, blocks):
    """What both hosts' networks read; no dropout."""
    model = {"hidden_size": width, "cond_dim": 128, "length": length, "n_blocks": blocks}
    model |= {"n_heads": max(1, width // 64), "scale_by_sigma": True, "dropout": 0.0}
    algo = {"backbone": "dit", "causal_attention": False}
    other = {"tokens": V - 1, "graph": {"type": "absorb"}}
    return omegaconf.OmegaConf.create({"model": model, "algo": algo, **other})


def randomise(network, seed=0, std=0.1):
    """Random weights: a fresh DIT's last layer is 0."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=std)
    return network


def moved(network, share, seed):
    """A copy whose weights are moved by that share of their spread, as after some pairs."""
    network = copy.deepcopy(network)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() > 1:
                parameter += share * parameter.std() * torch.randn_like(parameter)
    return network


def three(network, time_conditioning, share=0.01):
    """(student, fake, teacher): student and fake apart from the teacher, in different ways."""
    networks = (moved(network, share, 1), moved(network, share, 2), copy.deepcopy(network))
    return [Denoiser(part.eval(), time_conditioning) for part in networks]


def gradient(network):
    """The gradient of all parameters as one vector, which is then dropped."""
    parts = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    network.zero_grad(set_to_none=True)
    return torch.cat(parts)


def cosine(a, b):
    """None where one is 0, as teacher minus fake is while they are equal."""
    a, b = (value.detach().double().cpu() for value in (a, b))
    norms = (a.norm() * b.norm()).item()
    return torch.dot(a, b).item() / norms if norms else None
