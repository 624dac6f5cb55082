"""What ``algo.compile`` makes kernels of, by torch.compile: losses of rows, and a network's blocks.

On a GPU both are bound by memory and by the launch of small kernels; one kernel in the place of ten
reads and writes once.
"""

import functools
from collections.abc import Callable

import torch

# A kernel reads logits again rather than keep what was made of them: it is bound by memory.
RECOMPUTE = {"realize_reads_threshold": 64, "realize_acc_reads_threshold": 64}
RECOMPUTE |= {"realize_opcount_threshold": 512}
# Of one block's code: with and without a gradient, in bf16 and float32, of some or any batch.
VARIANTS = 64


@functools.cache
def compiled(loss: Callable) -> Callable:
    """A loss of ``losses`` as a kernel or two, for any number of rows, by torch.compile."""
    return torch.compile(loss, dynamic=True, options=RECOMPUTE)


def compile_blocks(network: torch.nn.Module) -> None:
    """Let a network's ``blocks`` run as kernels of torch.compile, made at their first use.

    The blocks stay the host's own, with their names. All blocks, and those of the network's copies,
    share the kernels. Values differ by rounding.
    """
    torch._dynamo.config.recompile_limit = VARIANTS
    for block in network.blocks:
        block.forward = functools.partial(_run, block.forward)


def _run(forward, *given, **named):
    return _forward_of(forward.__func__)(forward.__self__, *given, **named)


@functools.cache
def _forward_of(function):
    return torch.compile(function)
