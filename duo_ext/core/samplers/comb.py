"""Comb sampling: a step unmasks every n-th position, the next step their right neighbours.

A comb with a tooth at every n-th position moves over the text, one position a step: n steps fill
it, n positions apart in each, and each next to a token that is there already. A step draws its
positions independently of each other, so it errs least where they lie far apart and where what is
known is near. ``spread`` keeps any part of its order apart, for steps of any sizes; a comb is made
for one number of equal steps. As many steps as tokens are sampling from left to right.

The order knows nothing of the content. Each text begins at a random place of the comb: taken alone,
a position changes as in an ancestral step.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from duo_ext.core import rows
from duo_ext.core.sampled import Sampled
from duo_ext.core.samplers import ancestral


def changes(process: Sampled, given_BL: Tensor, alphas: Tensor) -> Callable[[Tensor], Tensor]:
    """As ``ancestral.Order`` says, with a comb for as many steps as fit in 1 by the largest one."""
    shares = torch.cat([alphas, alphas.new_ones(1)]).diff()
    n = (1 / shares.max()).round().long()
    return ancestral.in_order(places(given_BL, n, process.uniforms))


def places(given_BL: Tensor, n: Tensor, uniforms: Callable[..., Tensor] = rows.uniforms) -> Tensor:
    """Numbers (B, L) in [0, 1), float64: of the positions that are not given each n-th has one in
    the same n-th part of [0, 1), its right neighbour in the next; at random within a part."""
    device = given_BL.device
    place_BL = (~given_BL).cumsum(1)
    shift_B1 = (uniforms((len(given_BL), 1), device) * n).long()
    return ((place_BL + shift_B1) % n + uniforms(given_BL.shape, device)) / n
