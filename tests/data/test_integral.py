"""Duo's table of the integral, for any vocabulary."""

import math
import pickle

import numpy
import pytest

from duo_ext.core import schedules
from duo_ext.data import integral


@pytest.mark.parametrize("vocab_size", [2, 32, 50258])
def test_the_slope_is_that_of_the_values_and_the_ends_are_one_and_one_in_v(vocab_size):
    table = integral.table(vocab_size)
    pt, step = table["pt"], 16 / (table["num_points"] - 1)
    assert (table["gamma_min"], table["gamma_max"]) == (-8, 8)
    slope = (pt[2:] - pt[:-2]) / (2 * step)
    numpy.testing.assert_allclose(table["grad_pt"][1:-1], slope, atol=1e-6)
    assert pt[0] == pytest.approx(1, abs=1e-9) and pt[-1] < 1.3 / vocab_size
    assert (numpy.diff(pt) < 1e-12).all()


def test_two_symbols_have_a_closed_form():
    """The clean symbol wins where a + s e > s e', so P = Phi(a / (s sqrt 2))."""
    table = integral.table(2)
    middle = table["num_points"] // 2  # gamma = 0, a = s
    assert table["pt"][middle] == pytest.approx(0.5 * (1 + math.erf(0.5)), abs=1e-12)


def test_the_file_is_written_once_and_has_duos_keys(tmp_path, monkeypatch):
    path = integral.path(tmp_path, 32)
    content = pickle.loads(path.read_bytes())
    assert content.keys() == {
        "vocab_size", "gamma_min", "gamma_max", "num_points", "pt", "grad_pt"
    }  # fmt: skip
    monkeypatch.setattr(schedules, "gaussian_alpha", pytest.fail)
    assert integral.path(tmp_path, 32) == path
