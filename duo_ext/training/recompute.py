"""Less memory for more time: a DIT's blocks are computed again in the backward pass."""

import functools

import torch
from omegaconf import DictConfig
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from duo_ext.core.compiling import compile_blocks


def prepare_blocks(network: torch.nn.Module, algo: DictConfig) -> None:
    """What ``algo.compile`` and ``algo.recompute_blocks`` make of a network and of all its copies:
    what is computed again is compiled."""
    if algo.compile:
        compile_blocks(network)
    if algo.recompute_blocks:
        recompute(network)


def recompute(network: torch.nn.Module) -> None:
    """Keep only the input of each block's forward pass, and let the backward pass repeat it.

    The repetition gives the same bits, with the dropout and the autocast of the first time. The
    blocks stay the host's own, with their names. A copy of the network recomputes as well.
    """
    for block in network.blocks:
        block.forward = functools.partial(_repeatable, block.forward)


def _repeatable(forward, *given, **named):
    if not torch.is_grad_enabled():
        return forward(*given, **named)
    with set_checkpoint_early_stop(False):  # it stops by an exception, which TorchScript swallows
        return checkpoint(forward, *given, use_reentrant=False, **named)
