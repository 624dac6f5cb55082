"""Cumulated sums, where algorithms must be deterministic too."""

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 256  # entries that one product sums


def cumulated(values: Tensor) -> Tensor:
    """The sums (..., n) of the first 1, ..., n entries of each row. torch's own are refused on a
    GPU where algorithms must be deterministic."""
    if values.is_cuda and torch.are_deterministic_algorithms_enabled():
        return by_products(values)
    return values.cumsum(-1)


def by_products(values: Tensor) -> Tensor:
    """The same by matrix products: in blocks, to which the sums of the blocks before are added."""
    n = values.shape[-1]
    if n <= BLOCK:
        return values @ torch.ones(n, n, dtype=values.dtype, device=values.device).triu_()
    blocks = by_products(F.pad(values, (0, -n % BLOCK)).unflatten(-1, (-1, BLOCK)))
    before = F.pad(by_products(blocks[..., -1])[..., :-1], (1, 0))
    return (blocks + before[..., None]).flatten(-2)[..., :n]
