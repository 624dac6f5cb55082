"""training.sampler: the student is looked at by its sampler, the teacher by the ancestral one."""

import contextlib
from dataclasses import replace

import torch

from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.networks import Tempered
from duo_ext.core.samplers import SAMPLERS, blank, grids
from duo_ext.measuring import draws
from duo_ext.training.sampler import Sampler

V, L = 6, 8


def test_a_look_draws_as_its_settings_say(toy, monkeypatch):
    network, process = toy(V, L), AbsorbingProcess(V, V - 1)
    # a toy is no DIT, which Tempered takes apart
    monkeypatch.setattr(Tempered, "features", lambda self, *given: network.features(*given))
    monkeypatch.setattr(Tempered, "head", lambda self, *given: network.head(*given))
    sampler = Sampler(
        process=process,
        network=lambda teacher: contextlib.nullcontext(network.backbone),
        length=L,
        sampler="spread",
        grid="power:2",
        noise_removal="greedy",
        precision="float32",
        time_conditioning=True,
    )
    for teacher, name, grid in ((False, "spread", "power:2"), (True, "ancestral", "host")):
        with sampler(3, teacher) as draw:
            found = draw(5, draws.of_texts(1, 0, 5))
        start, times_K = blank(network, (5, L)), grids.times(grid, 3)
        own = replace(process, uniforms=draws.of_texts(1, 0, 5))
        assert torch.equal(found, SAMPLERS[name](own, network, *start, times_K, "greedy"))
