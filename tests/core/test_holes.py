"""core.holes: what of a text stays to be written."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from duo_ext.core import holes

L = 12


@given(seed=st.integers(0, 10**6), prompt=st.integers(0, L - 1))
def test_one_span_of_what_was_free_is_left(seed, prompt):
    torch.manual_seed(seed)
    given_BL = (torch.arange(L) < prompt).repeat(8, 1)
    found_BL = holes.opened(given_BL, 1.0)
    assert found_BL[given_BL].all()  # what was given is
    for free_L in ~found_BL:
        places = free_L.nonzero()[:, 0]
        assert len(places) and places[-1] - places[0] + 1 == len(places)


def test_none_of_the_texts_and_a_share_of_them():
    given_BL = torch.zeros(4000, L, dtype=torch.bool)
    assert torch.equal(holes.opened(given_BL, 0.0), given_BL)
    torch.manual_seed(1)
    holed_B = holes.opened(given_BL, 0.3).any(1).double()
    whole = 2 / L * 1 / L  # the span is the whole text
    assert holed_B.mean() == pytest.approx(0.3 * (1 - whole), abs=0.03)
    free_L = (~holes.opened(given_BL, 1.0)).double().mean(0)
    assert free_L[L // 2] == pytest.approx(0.5 + 1 / L, abs=0.05)  # of two uniform places


def test_a_text_without_room_for_a_hole_stays_as_it_was():
    given_BL = torch.arange(L).expand(100, L) < L - 1
    torch.manual_seed(2)
    assert torch.equal(holes.opened(given_BL, 1.0), given_BL)
