"""Times found by the bound on what a step's independence costs."""

import itertools

import pytest
import torch

from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.samplers import ancestral, auto, blank, order
from duo_ext.core.score import ScoreProcess
from duo_ext.core.uniform import UniformProcess

V, B, L, FINE = 6, 4, 5, 8
PROCESSES = {
    "absorbing": AbsorbingProcess(V, V - 1),
    "score": ScoreProcess(V, V - 1),
    "uniform": UniformProcess(V),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_a_steps_law_composes_over_finer_steps_of_the_same_output(name):
    """q(z_s | z_t) = sum over z_u of q(z_u | z_t) q(z_s | z_u), for any t > u > s."""
    process, (t, u, s) = PROCESSES[name], torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
    torch.manual_seed(0)
    logits_V = torch.randn(V, dtype=torch.float64)

    def transitions(alpha_t, alpha_s):
        rows = logits_V.expand(V, V).clone()
        return process.law(rows, torch.arange(V), alpha_t, alpha_s)

    whole = transitions(t, s)
    torch.testing.assert_close(whole.sum(-1), torch.ones(V, dtype=torch.float64))
    torch.testing.assert_close(transitions(t, u) @ transitions(u, s), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_step_draws_by_its_law(toy, name):
    torch.manual_seed(0)
    process, network, draws = PROCESSES[name], toy(V, L), 40_000
    alphas = torch.tensor([0.2, 0.6], dtype=torch.float64)
    z_L = torch.tensor([0, V - 1, 1, V - 1, 2])
    logits = network(z_L[None], alphas[:1])[0].double()
    wanted = process.law(logits, z_L, *alphas)
    z_BL = z_L.expand(draws, L).clone()
    given_BL = torch.zeros_like(z_BL, dtype=torch.bool)
    found = process.reverse(network, z_BL, *alphas, given_BL)
    shares = torch.nn.functional.one_hot(found, V).double().mean(0)
    torch.testing.assert_close(shares, wanted, rtol=0, atol=0.012)


@pytest.mark.parametrize("evaluations", [1, 2, 3, 6])
def test_the_least_sum_is_that_of_all_grids(evaluations):
    torch.manual_seed(1)
    found = torch.rand(6, 7, dtype=torch.float64).triu(1)
    found[found == 0] = torch.inf

    def total(places):
        return sum(found[i, j] for i, j in itertools.pairwise([*places, 6])).item()

    grids = [(0, *rest) for rest in itertools.combinations(range(1, 6), evaluations - 1)]
    assert tuple(auto.least(found, evaluations)) == min(grids, key=total)


class Fixed(torch.nn.Module):
    """Logits of each position that the input does not change."""

    vocab_size = V

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(1, 1)
        torch.manual_seed(2)
        self.logits_LV = torch.randn(L, V)

    def features(self, x_BL, alpha_B):
        return self.logits_LV.expand(len(x_BL), L, V)

    def head(self, features):
        return features.clone()


@pytest.mark.parametrize("sampler", ["ancestral", "spread"])
@pytest.mark.parametrize("name", PROCESSES)
def test_a_longer_step_costs_more_and_nothing_where_no_token_depends_on_another(toy, name, sampler):
    torch.manual_seed(0)
    for network, free in ((Fixed(), True), (toy(V, L), False)):
        start = blank(network, (B, L))
        times_M, found = auto.costs(PROCESSES[name], network, *start, order(sampler), FINE)
        assert times_M[0] == 1 and (times_M.diff() < 0).all() and times_M[-1] > 0
        cost = found[torch.isfinite(found)]
        assert len(cost) == FINE * (FINE + 1) / 2
        if free:
            torch.testing.assert_close(cost, torch.zeros_like(cost), rtol=0, atol=1e-6)
        else:
            assert (found[:, 1:].diff(dim=1)[torch.isfinite(found[:, 1:-1])] >= 0).all()
            assert found[0, -1] > 0.01


def test_few_positions_stand_for_all(toy, monkeypatch):
    """By a share of the positions the sums are those of all of them in the mean."""
    found = []
    for memory in (2**27, FINE * V * 64 * 2):
        monkeypatch.setattr(auto, "MEMORY", memory)
        torch.manual_seed(3)
        network = toy(V, L)
        start = blank(network, (64, L))
        found.append(
            auto.costs(PROCESSES["uniform"], network, *start, ancestral.independent, FINE)[1][
                0, -1
            ].item()
        )
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], rel=0.3)
