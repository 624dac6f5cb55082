"""What every sampler keeps: what is given, the number of evaluations, no mask at the end."""

import itertools

import pytest
import torch

from duo_ext import Refused
from duo_ext.core import samplers
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.networks import Tempered
from duo_ext.core.samplers import OF_MASKS, SAMPLERS, blank, grids
from duo_ext.core.score import ScoreProcess
from duo_ext.core.uniform import UniformProcess

V, B, L = 6, 5, 7
MASK = V - 1
PROCESSES = {
    "absorbing": AbsorbingProcess(V, MASK),
    "score": ScoreProcess(V, MASK),
    "uniform": UniformProcess(V),
}
PAIRS = [(s, p) for s in SAMPLERS for p in PROCESSES if p != "uniform" or s not in OF_MASKS]


@pytest.fixture
def network(toy):
    """A toy that is sampled: its evaluations are in ``calls``."""
    found = toy(V, L)
    tempered = Tempered(found.backbone, True)
    tempered.features = lambda x, alpha_B: (tempered.calls.append(1), found.features(x, alpha_B))[1]
    return tempered


@pytest.mark.parametrize("removal", ["ancestral", "greedy", "none"])
@pytest.mark.parametrize(("sampler", "process"), PAIRS)
def test_what_is_given_stays_and_evaluations_are_counted(network, sampler, process, removal):
    torch.manual_seed(1)
    x0_BL = torch.randint(MASK, (B, L))
    given_BL = torch.rand(B, L) < 0.4
    given_BL[0], given_BL[1] = True, False  # a text that is given whole, one without
    times_K = grids.times("power:2", 3)
    found = SAMPLERS[sampler](PROCESSES[process], network, x0_BL, given_BL, times_K, removal)
    assert found.shape == (B, L) and torch.equal(found[given_BL], x0_BL[given_BL])
    assert len(network.calls) <= (3 if removal == "none" else 4)
    if removal != "none" and process != "uniform":
        assert found.max() < MASK
    assert not torch.equal(found, x0_BL)


@pytest.mark.parametrize("sampler", OF_MASKS)
def test_a_process_without_masks_has_no_order_of_them(network, sampler):
    with pytest.raises(Refused, match=f"'{sampler}', which needs a process that has masks"):
        samplers.drawing(sampler, PROCESSES["uniform"], network, L, grids.times("host", 2), "none")


@pytest.mark.parametrize("temperature", ["", "warm", "-5", "nan", "inf"])
def test_a_temperature_is_a_number(temperature):
    with pytest.raises(Refused, match=f"'confidence:{temperature}'; its temperature must be"):
        samplers.find(f"confidence:{temperature}")
    assert samplers.find("confidence:0") and samplers.find("confidence:1e-1")


@pytest.mark.parametrize("sampler", samplers.TEMPERED)
def test_the_surest_come_first(toy, sampler):
    """One at a time, in the order of the score that a network of one row has for each position."""
    sharpness_L = torch.tensor([3.0, 1.0, 5.0, 2.0, 4.0, 0.5, 6.0], dtype=torch.float64)
    seen = []

    class Sharper(toy):
        """Its logits at a position are two tokens', apart by the position's sharpness."""

        def features(self, x, alpha_B):
            seen.append(x.clone())
            return sharpness_L[None, :, None].expand(len(x), L, 1)

        def head(self, features):
            apart = torch.cat([features, torch.zeros_like(features)], -1)
            rest = torch.full((*features.shape[:-1], V - 2), -1e3, dtype=torch.float64)
            return torch.cat([apart, rest], -1)

    process = AbsorbingProcess(V, MASK)
    network = Sharper(V, L)
    torch.manual_seed(0)
    start = blank(network, (1, L))
    SAMPLERS[sampler](process, network, *start, grids.times("linear", L - 1))
    filled = [(before == MASK) & (after != MASK) for before, after in itertools.pairwise(seen)]
    order = [int(one.nonzero()[0, 1]) for one in filled]
    wanted = sharpness_L.argsort(descending=True).tolist()
    if sampler != "confidence":  # whose score is of the token drawn, at times the unlikely one
        assert order == wanted[:-1]
    assert len(order) == L - 1
