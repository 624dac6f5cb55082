"""Losses of rows as kernels of torch.compile (``algo.compile``)."""

import functools
from collections.abc import Callable

import torch

# A kernel reads logits again rather than keep what was made of them: it is bound by memory.
RECOMPUTE = {"realize_reads_threshold": 64, "realize_acc_reads_threshold": 64}
RECOMPUTE |= {"realize_opcount_threshold": 512}


@functools.cache
def compiled(loss: Callable) -> Callable:
    """A loss of ``losses`` as a kernel or two, for any number of rows, by torch.compile."""
    return torch.compile(loss, dynamic=True, options=RECOMPUTE)
