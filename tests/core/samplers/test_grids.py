"""Times at which a network is evaluated."""

import pytest
import torch

from duo_ext import Refused
from duo_ext.core.samplers import grids


@pytest.mark.parametrize(
    ("grid", "steps", "wanted"),
    [
        ("host", 4, [1, 0.7500025, 0.500005, 0.2500075, 1e-5]),
        ("linear", 3, [1, 0.75, 0.5, 0.25]),
        ("power:2", 3, [1, 0.5625, 0.25, 0.0625]),
        ("power:1", 1, [1, 0.5]),
        ("1,.6,.3", 2, [1, 0.6, 0.3]),
    ],
)
def test_n_steps_are_n_plus_one_evaluations(grid, steps, wanted):
    found = grids.times(grid, steps)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize(
    ("grid", "told"),
    {
        "cosine": "the grid is 'cosine'; it must be host, linear, power:NUMBER, or the times",
        "power:": "the grid is 'power:'; it must be",
        "1,.5,.6": "its times must fall from 1 and stay above 0",
        ".9,.5,.1": "its times must fall from 1",
        "1,.5,0": "stay above 0",
        "1,nan,.1": "its times must fall from 1",
        "power:0": "its times must fall from 1",
        "power:-1": "its times must fall from 1",
        "power:nan": "its times must fall from 1",
        "1,.5": "the grid is '1,.5', for 1 steps; 2 are asked for",
    }.items(),
)
def test_another_grid_is_refused(grid, told):
    with pytest.raises(Refused, match=told):
        grids.times(grid, 2)
