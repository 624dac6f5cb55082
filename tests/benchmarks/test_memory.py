"""benchmarks.memory: every shipped experiment fits its GPU, by an arithmetic that holds."""

import dataclasses

import pytest
import torch

from benchmarks import memory, meters, one_pair, sampling_cost
from duo_ext.core.networks import Denoiser
from duo_ext.hosting import trees
from duo_ext.measuring import batches
from sedd_ext import host as sedd_host

SMALL = one_pair.Size(vocab=3000, length=64, batch=4, blocks=2, width=64)


@pytest.fixture(scope="module")
def experiments(standalone):
    sedd = sedd_host.find(sedd_host.STANDALONE)
    found = [*memory.of_tree(standalone, "duo"), *memory.of_tree(sedd, "sedd")]
    return {experiment.name: experiment for experiment in found}


NAMES = [
    path.stem
    for program in ("duo", "sedd")
    for path in trees.overlays(program).glob("experiment/*.yaml")
]


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_experiment_fits(experiments, name):
    found = experiments[name]
    assert memory.too_large([found]) == []
    assert ("look" in found.phases) == ("idlm" in name) and found.phases
    assert f"| {name} | " in memory.table([found])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("owt_idlm_mdlm", {"drawn": 64}),  # the guard's texts, by the host's sampler
        ("owt_idlm_mdlm", {"drawn": 8}),
        ("owt_idlm_duo", {"micro_batch": 8}),
        ("owt_idlm_sedd", {"drawn": 16}),  # a snapshot's
        ("owt_idlm_sedd", {"micro_batch": 512}),
        ("owt_idlm_sedd", {"judged": 64}),
        ("owt_eval_duo", {"drawn": 16}),
    ],
)
def test_the_settings_of_before_do_not_fit(experiments, name, change):
    assert memory.too_large([dataclasses.replace(experiments[name], **change)]) == [name]


@pytest.mark.parametrize("process", sampling_cost.ALGORITHMS)
def test_a_hosts_sampler_takes_no_more_than_is_counted(process):
    cpu = torch.device("cpu")
    subject = sampling_cost.subject_of(process, SMALL, cpu)
    row = sampling_cost.measure(subject, process, "host", SMALL, steps=2, device=cpu)
    found = row["peak_bytes_over_base"]
    counted = SMALL.batch * batches.of_hosts_sampler(SMALL.length, SMALL.vocab)
    assert counted / 2 < found < counted


def test_a_body_without_a_graph_takes_no_more_than_is_counted(standalone):
    shape = {"hidden_size": 64, "cond_dim": 32, "n_blocks": 3, "n_heads": 2, "length": 64}
    shape |= {"dropout": 0.0, "scale_by_sigma": True}
    config = {"model": shape, "algo": {"causal_attention": False}}
    network = Denoiser(standalone.module("models").dit.DIT(config, 9).eval(), True)
    x_BL = torch.zeros(8, 64, dtype=torch.long)
    with torch.no_grad():
        changes = meters.allocations(lambda: network.features(x_BL, torch.full((8,), 0.5)))
    counted = 8 * batches.of_body(64, 64)
    assert counted / 3 < meters.peak(changes) < counted


def test_what_fits():
    assert batches.fitted(batches.of_hosts_sampler(256, 2048)) == 64  # as ever, for small models
    assert batches.fitted(batches.of_hosts_sampler(1024, 50258)) == 6
    assert batches.fitted(batches.of_hosts_sampler(1024, 50258), batches.BESIDE) == 3
    assert batches.fitted(10 * batches.WHOLE) == 1
    assert batches.of_a_look(1024, 768) == batches.of_a_look(128, 128) == 16
    assert batches.of_a_look(4096, 4096) == 7
