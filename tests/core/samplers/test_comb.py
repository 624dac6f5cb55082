"""Comb sampling: every n-th position together, then their right neighbours; the step of a position
is uniform. That as many steps as tokens are exact is tested with ``spread``."""

import itertools

import pytest
import torch

from duo_ext.core import rows
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.samplers import SAMPLERS, blank, comb, grids
from duo_ext.core.schedules import LogLinear

V, MASK = 3, 3
PROCESS = AbsorbingProcess(V + 1, MASK, LogLinear(0.0))


class Watched:
    """A network that says the same everywhere and keeps what it was asked."""

    vocab_size = V + 1

    def __init__(self):
        self.seen, self.backbone = [], torch.nn.Linear(1, 1)

    def features(self, x_BL, alpha_B):
        self.seen.append(x_BL.clone())
        return torch.zeros(*x_BL.shape, 1, dtype=torch.float64)

    def head(self, features):
        return torch.zeros(*features.shape[:-1], V + 1, dtype=torch.float64)


@pytest.mark.parametrize("L", [1, 5, 8, 13])
@pytest.mark.parametrize("n", [1, 2, 5, 16])
def test_each_positions_number_is_uniform(L, n):
    """Over all places to begin at, a position has each part once; chance fills a part."""
    begin = torch.arange(n)[:, None]

    def uniforms(shape, device):
        return (begin + 0.5) / n if shape[1] == 1 else rows.uniforms(shape, device)

    if L > 1:
        parts = (
            comb.places(torch.zeros(n, L, dtype=torch.bool), torch.tensor(n), uniforms) * n
        ).floor()
        assert torch.equal(parts.long().sort(0).values, begin.expand(-1, L))


@pytest.mark.parametrize(("grid", "n"), [("linear", 5), ("host", 4)])
def test_a_step_takes_every_nth_position_and_the_next_their_right_neighbours(grid, n):
    """The last of the host's evaluations has next to nothing to do and is no part of it."""
    torch.manual_seed(0)
    network, B, L = Watched(), 20, 40
    SAMPLERS["comb"](PROCESS, network, *blank(network, (B, L)), grids.times(grid, 4))
    states = [*network.seen[:n], torch.zeros(B, L, dtype=torch.long)]
    taken = [(a == MASK) & (b != MASK) for a, b in itertools.pairwise(states) if len(b) == B]
    assert len(taken) == n
    for now, then in itertools.pairwise(taken):
        assert (now.sum(1) == L // n).all() and torch.equal(now.roll(1, 1), then)
    assert len({tuple(row) for row in taken[0].tolist()}) == n


def test_what_is_given_is_no_part_of_the_comb():
    torch.manual_seed(0)
    given_BL = torch.rand(50, 40) < 0.4
    numbers_BL = comb.places(given_BL, torch.tensor(4))
    for given_L, numbers_L in zip(given_BL, numbers_BL, strict=True):
        parts = (numbers_L[~given_L] * 4).floor()
        assert (parts.diff() % 4 == 1).all()
