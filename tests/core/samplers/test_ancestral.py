"""The sampler's cost and its ends. Its law against the hosts': tests/standalone, tests/sedd."""

import pytest
import torch

from duo_ext.core import rows
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.networks import Tempered
from duo_ext.core.samplers import ancestral, blank, grids
from duo_ext.core.score import ScoreProcess
from duo_ext.core.uniform import UniformProcess

V, B, L = 6, 7, 5
MASK = V - 1
DEVICE = torch.get_default_device().type
PROCESSES = {
    "absorbing": AbsorbingProcess(V, MASK),
    "renormalised": ScoreProcess(V, MASK),
    "analytic": ScoreProcess(V, MASK, renormalised=False),
    "uniform": UniformProcess(V),
}


def sample(process, network, steps, removal="ancestral", eps=None):
    """By the host's grid, or in one step from 1 to ``eps``."""
    times_K = grids.times(f"1,{eps}" if eps else "host", steps)
    return ancestral.sample(process, network, *blank(network, (B, L)), times_K, removal)


class Counting:
    """A network that counts its evaluations."""

    def __init__(self, network):
        self.network, self.backbone, self.seen = network, network.backbone, []

    def features(self, x_BL, alpha_B):
        self.seen.append((x_BL.clone(), alpha_B.clone()))
        return self.network.features(x_BL, alpha_B)

    def head(self, features):
        return self.network.head(features)

    @property
    def vocab_size(self):
        return self.network.vocab_size


@pytest.fixture
def network(toy):
    torch.manual_seed(0)
    return Counting(toy(V, L))


@pytest.mark.parametrize("steps", [1, 3, 200])
@pytest.mark.parametrize("name", ["absorbing", "renormalised"])
def test_the_head_runs_once_for_each_masked_token(network, name, steps):
    tokens = sample(PROCESSES[name], network, steps)
    assert tokens.shape == (B, L) and tokens.max() < MASK
    assert network.network.head_rows == B * L
    assert len(network.seen) <= min(steps + 1, B * L)


def test_the_network_is_evaluated_only_for_sequences_that_change(network):
    """At most once for each token, since each evaluation of a sequence unmasks one or more."""
    sample(PROCESSES["absorbing"], network, 200)
    assert 10 < len(network.seen) < 40
    assert B * L / 2 < sum(len(x_BL) for x_BL, _ in network.seen) <= B * L


@pytest.mark.parametrize("name", ["uniform", "analytic"])
def test_the_times_are_the_hosts(network, name):
    """Equal steps from 1 to 1e-5, an evaluation at the beginning of each, and one at the end."""
    sample(PROCESSES[name], network, 4)
    alphas = torch.stack([alpha_B[0] for _, alpha_B in network.seen])
    wanted = 1 - 0.999 * torch.linspace(1, 1e-5, 5, dtype=torch.float64)
    torch.testing.assert_close(alphas, wanted[: len(alphas)], rtol=1e-12, atol=0)
    assert len(alphas) == 5 or name == "analytic"


@pytest.mark.parametrize("name", PROCESSES)
def test_no_removal_leaves_the_last_state(network, name):
    """The same random numbers up to there; the mask stays where it was to be removed."""
    found = []
    for removal in ("none", "greedy", "ancestral"):
        torch.manual_seed(3)
        found.append(sample(PROCESSES[name], network, 1, removal, eps=0.6))
    left, *removed = found
    for tokens in removed:
        if name == "uniform":
            assert not torch.equal(tokens, left)
        else:
            assert (left == MASK).any() and tokens.max() < MASK
            assert torch.equal(tokens[left != MASK], left[left != MASK])


@pytest.mark.parametrize("name", ["absorbing", "uniform"])
def test_greedy_is_the_likeliest_token(network, name):
    torch.manual_seed(3)
    left = sample(PROCESSES[name], network, 1, "none", eps=0.6)
    torch.manual_seed(3)
    found = sample(PROCESSES[name], network, 1, "greedy", eps=0.6)
    alpha = torch.full((B,), 1 - 0.999 * 0.6, dtype=torch.float64)
    logits = network.network(left, alpha)
    if name == "absorbing":
        logits[..., MASK] = -torch.inf
        found, likeliest = found[left == MASK], logits.argmax(-1)[left == MASK]
    else:
        likeliest = logits.argmax(-1)
    assert torch.equal(found, likeliest)


@pytest.mark.parametrize("name", PROCESSES)
def test_chunks_change_no_token(network, name, monkeypatch):
    found = []
    for count in (1000, 4):
        monkeypatch.setitem(rows.CHUNK, DEVICE, count * V)
        monkeypatch.setitem(rows.PIECE, DEVICE, count * V // 2)
        torch.manual_seed(3)
        found.append(sample(PROCESSES[name], network, 3))
    assert torch.equal(*found)


class Autocast(torch.nn.Module):
    """A network that chooses its own precision, as Duo's does."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(V, 8)
        self.output_layer = torch.nn.Module()
        self.output_layer.linear = torch.nn.Linear(8, V)

    def forward(self, x_BL, sigma_B):
        with torch.autocast(DEVICE, torch.bfloat16):
            return self.output_layer.linear(self.embedding(x_BL))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_logits_are_the_networks_own_in_float64(temperature):
    torch.manual_seed(0)
    student = Tempered(Autocast(), False, temperature)
    x_BL = torch.randint(V, (B, L))
    logits = student(x_BL, torch.ones(B))
    assert logits.dtype == torch.float64 and student.calls == [1]
    own = student.backbone(x_BL, torch.zeros(B))
    assert own.dtype == torch.bfloat16
    torch.testing.assert_close(logits * temperature, own.double(), rtol=0, atol=0)
