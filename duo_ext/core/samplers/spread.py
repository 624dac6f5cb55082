"""Spread sampling: the positions that change in one step lie far from each other.

A step draws all its positions at once, each by itself. Neighbours depend on each other most, so a
step errs least where its positions are spread over the text. Which positions change is decided by
numbers of a low-discrepancy sequence over the positions instead of independent ones; the order
knows nothing of the content. Each text begins at a random place of the sequence. That makes each
position's number uniform by itself, so that taken alone it changes as in an ancestral step.

Where a position changes once (the absorbing process), a text has one order for all steps: as many
steps as tokens are exact, as in any order. Where it may change at every step (the uniform process),
each step has an order of its own.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from duo_ext.core import rows
from duo_ext.core.sampled import Sampled
from duo_ext.core.samplers import ancestral


def changes(process: Sampled, given_BL: Tensor, alphas: Tensor) -> Callable[[Tensor], Tensor]:
    """As ``ancestral.Order`` says."""
    if not process.changes_once:
        return lambda alpha_t: low_discrepancy(given_BL, process.uniforms)
    return ancestral.in_order(low_discrepancy(given_BL, process.uniforms))


def low_discrepancy(given_BL: Tensor, uniforms: Callable[..., Tensor] = rows.uniforms) -> Tensor:
    """Numbers (B, L) in [0, 1), float64: van der Corput's sequence over the positions that are not
    given, from a random place in it for each text, and a jitter below its resolution."""
    B, L = given_BL.shape
    device = given_BL.device
    resolution = 2 ** max(1, (L - 1).bit_length())
    place_BL = ((~given_BL).cumsum(1) - 1).clamp(min=0)
    shift_B1 = (uniforms((B, 1), device) * resolution).long()
    corput_BL = reversed_bits(resolution, device)[(place_BL + shift_B1) % resolution]
    return (corput_BL + uniforms((B, L), device)) / resolution


@functools.lru_cache(maxsize=8)  # every step of the uniform process asks
def reversed_bits(n: int, device: torch.device) -> Tensor:
    """The numbers 0 to n - 1, n a power of 2, each with its bits in reverse order (n,)."""
    found = torch.zeros(1, dtype=torch.long, device=device)
    while len(found) < n:
        found = torch.cat([2 * found, 2 * found + 1])
    return found
