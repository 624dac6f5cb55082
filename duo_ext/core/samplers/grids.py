"""Where in time the network is evaluated.

"N steps" are N + 1 evaluations, as in the hosts, the last of which removes the noise that is left.
"""

import torch
from torch import Tensor

from duo_ext import Refused

WANTED = "host, linear, power:NUMBER, or the times themselves, as 1,.6,.3,.12,.03"


def times(grid: str, steps: int | None = None) -> Tensor:
    """N + 1 descending times in (0, 1], float64, the first of them 1.

    ``grid`` is "host", N equal steps from 1 to 1e-5; "linear", the times (N + 1 - i) / (N + 1);
    "power:P", the linear times to the power of P, dense near 0 for P > 1; or N + 1 times, separated
    by commas. ``steps`` is N; without it the grid is checked alone. Raises Refused for any other
    grid.
    """
    steps = (grid.count(",") or 1) if steps is None else steps
    found = _times(grid, steps)
    if not (found[0] == 1 and found[-1] > 0 and (found.diff() < 0).all()):  # nan is neither
        raise Refused(f"the grid is '{grid}'; its times must fall from 1 and stay above 0")
    if len(found) != steps + 1:
        raise Refused(f"the grid is '{grid}', for {len(found) - 1} steps; {steps} are asked for")
    return found


def _times(grid, steps):
    kind, _, power = grid.partition(":")
    left = 1 - torch.arange(steps + 1, dtype=torch.float64) / (steps + 1)
    if grid == "host":
        return torch.linspace(1, 1e-5, steps + 1, dtype=torch.float64)
    if grid == "linear":
        return left
    if kind == "power":
        return left ** _number(power, grid)
    return torch.tensor([_number(word, grid) for word in grid.split(",")], dtype=torch.float64)


def _number(word, grid):
    try:
        return float(word)
    except ValueError:
        raise Refused(f"the grid is '{grid}'; it must be {WANTED}") from None
