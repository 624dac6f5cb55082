"""Spread sampling: each position's own law is the ancestral one's, and the joint law is exact where
a step changes one position."""

import pytest
import torch

from duo_ext.core import rows
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.samplers import ORDERS, SAMPLERS, blank, grids, spread
from duo_ext.core.schedules import LogLinear
from duo_ext.core.uniform import UniformProcess


@pytest.mark.parametrize("L", [1, 2, 5, 8, 13])
def test_each_positions_number_is_uniform(L):
    """Over all places to begin at, a position has each stratum once; the jitter fills a stratum."""
    resolution = 2 ** max(1, (L - 1).bit_length())
    begin = torch.arange(resolution)[:, None]

    def uniforms(shape, device):
        return begin / resolution if shape[1] == 1 else rows.uniforms(shape, device)

    found = spread.low_discrepancy(torch.zeros(resolution, L, dtype=torch.bool), uniforms)
    strata = (found * resolution).floor().long().sort(0).values
    assert torch.equal(strata, begin.expand(-1, L))


def test_numbers_below_a_share_lie_apart():
    """A quarter of 32 positions are each fourth, those that are not given."""
    torch.manual_seed(0)
    given_BL = torch.zeros(50, 40, dtype=torch.bool)
    given_BL[:, :8] = True
    chosen = (spread.low_discrepancy(given_BL)[:, 8:] < 0.25).nonzero()[:, 1].view(50, 8)
    assert (chosen.diff(dim=1) == 4).all()


def posterior(p, space, V, mask):
    """A network of the exact conditionals of a joint law p over a space of texts."""

    class Exact:
        vocab_size = V + 1
        backbone = torch.nn.Linear(1, 1)

        def features(self, x_BL, alpha_B):
            fits = ((x_BL[:, None] == space) | (x_BL[:, None] == mask)).all(-1)
            weight = fits * p  # (B, texts)
            one_hot = torch.nn.functional.one_hot(space, V + 1).double()
            return torch.einsum("bs,slv->blv", weight, one_hot).log()

        def head(self, features):
            return features.clone()

    return Exact()


@pytest.mark.parametrize("sampler", ORDERS)
def test_as_many_steps_as_tokens_are_exact(space, same_law, sampler):
    """Each step fills one position, so that the joint law is the data's; with fewer it is not."""
    V, L, mask = 3, 4, 3
    torch.manual_seed(0)
    texts = space(V, L)
    p = (3 * torch.randn(len(texts), dtype=torch.float64)).softmax(0)
    network, process = posterior(p, texts, V, mask), AbsorbingProcess(V + 1, mask, LogLinear(0.0))
    seen, features = [], network.features
    network.features = lambda x, alpha: (seen.append(x.clone()), features(x, alpha))[1]
    N = 20_000
    found = SAMPLERS[sampler](
        process, network, *blank(network, (N, L)), grids.times("linear", L - 1)
    )
    masks = [(x == mask).sum(1) for x in seen]
    assert [m.unique().tolist() for m in masks] == [[4], [3], [2], [1]]
    codes = V ** torch.arange(L - 1, -1, -1)
    drawn = (found * codes).sum(-1).bincount(minlength=V**L)
    exact = torch.multinomial(p, N, replacement=True)
    same_law(drawn, (texts[exact] * codes).sum(-1).bincount(minlength=V**L))


def test_a_jump_has_the_ancestral_steps_probabilities(toy):
    """At every position: over a grid of both numbers that decide it."""
    V, L, M = 6, 1, 400
    process, network = UniformProcess(V), toy(V, L)
    alpha_t, alpha_s = (torch.tensor(a, dtype=torch.float64) for a in (0.3, 0.6))
    numbers = (torch.arange(M, dtype=torch.float64) + 0.5) / M
    changes, tokens = (x.reshape(-1, 1) for x in torch.meshgrid(numbers, numbers, indexing="ij"))
    z = torch.full((M * M, L), 2)
    given = torch.zeros(M * M, L, dtype=torch.bool)
    laws = []
    for decided in (None, changes):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rows, "uniforms", lambda shape, device: tokens)
            after = process.reverse(network, z.clone(), alpha_t, alpha_s, given, decided)
        laws.append(after.flatten().bincount(minlength=V) / M**2)
    torch.testing.assert_close(*laws, rtol=0, atol=2 / M)


def test_jumps_lie_apart(toy):
    """Of a network that says the same everywhere, the positions that jump are each so many."""
    V, L, B = 5, 64, 20

    class Same(toy):
        def features(self, x, alpha_B):
            return torch.zeros(*x.shape, 1, dtype=torch.float64)

        def head(self, features):
            return torch.zeros(*features.shape[:-1], V, dtype=torch.float64)

    process, network = UniformProcess(V), Same(V, L)
    torch.manual_seed(0)
    seen = []
    features = network.features
    network.features = lambda x, alpha: (seen.append(x.clone()), features(x, alpha))[1]
    times = torch.tensor([1.0, 0.9], dtype=torch.float64)
    SAMPLERS["spread"](process, network, *blank(network, (B, L)), times, "none")
    SAMPLERS["spread"](process, network, *blank(network, (B, L)), times)
    before, after = seen[1:]
    moved = [(a != b).nonzero().flatten() for a, b in zip(before, after, strict=True)]
    gaps = [m.diff() for m in moved if len(m) > 1]
    counts = torch.tensor([float(len(m)) for m in moved])
    assert counts.var() <= 1 and all(g.max() <= 2 * g.min() for g in gaps)


def test_orders_of_two_texts_differ():
    torch.manual_seed(0)
    found = spread.low_discrepancy(torch.zeros(64, 16, dtype=torch.bool)).argsort(1)
    assert len({tuple(order.tolist()) for order in found}) == 16


def test_bits_are_reversed():
    wanted = [int(f"{i:03b}"[::-1], 2) for i in range(8)]
    assert spread.reversed_bits(8, torch.get_default_device()).tolist() == wanted
