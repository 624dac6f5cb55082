"""The precision in which a network's blocks and last layer run.

On a GPU a host's DIT opens an autocast to bf16 around its blocks and last layer; its embeddings
and time conditioning run in float32. A student is distilled in the precision that it is sampled in.
But (10) is a difference of teacher and fake, which are nearly equal. Rounding each to bf16 hides
the difference, and with it the student's gradient (docs/precision.md). So the blocks of teacher and
fake can run in float32 instead, whatever autocast the host opens inside; their matrix products are
TF32 on a GPU.
"""

import contextlib
from collections.abc import Iterator

import torch

# {algo.precision: (of a network's own update and of sampling, of teacher and fake in the student's
# update)}; None is the host's own precision.
PRECISIONS = {
    "mixed": (None, "float32"),
    "float32": ("float32", "float32"),
    "bf16": ("bf16", "bf16"),
}


@contextlib.contextmanager
def running_in(backbone: torch.nn.Module, precision: str | None) -> Iterator[None]:
    """Let ``blocks`` and ``output_layer`` of a backbone run in float32 or bf16 (None: as it says)
    for the length of a with block."""
    if precision is None:
        yield
        return
    autocast = _Autocast(precision == "bf16")
    modules = (*backbone.blocks, backbone.output_layer)
    hooks = [module.register_forward_pre_hook(autocast.enter) for module in modules]
    hooks += [module.register_forward_hook(autocast.leave, always_call=True) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Autocast:
    """An autocast from before a module's forward pass to behind it."""

    def __init__(self, enabled):
        self.enabled, self.entered = enabled, []

    def enter(self, module, arguments):
        autocast = torch.autocast(arguments[0].device.type, torch.bfloat16, self.enabled)
        autocast.__enter__()
        self.entered.append(autocast)

    def leave(self, module, arguments, output):
        if self.entered:  # not where a hook before this one has failed
            self.entered.pop().__exit__(None, None, None)
