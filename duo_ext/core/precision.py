"""The precision in which a network's blocks and last layer run, set from outside.

A host's DIT on a GPU opens an autocast to bf16 around its blocks and last layer; its embeddings
and time conditioning run in float32. That serves sampling and training. It does not serve (10): the
student's gradient is a difference of two networks that are nearly equal, and each rounded to bf16
hides it (docs/precision.md). In ``float32`` the same layers run without autocast, their matrix
products on a GPU as TF32.
"""

import torch

PRECISIONS = ("float32", "bf16")


class _Autocast:
    """An autocast from before a module's forward pass to behind it."""

    def __init__(self, enabled):
        self.enabled, self.entered = enabled, []

    def enter(self, module, arguments):
        autocast = torch.autocast(arguments[0].device.type, torch.bfloat16, self.enabled)
        autocast.__enter__()
        self.entered.append(autocast)

    def leave(self, module, arguments, output):
        self.entered.pop().__exit__(None, None, None)


def run_in(backbone, precision):
    """Let ``blocks`` and ``output_layer`` of a backbone run in a precision, whoever calls it.

    float32, or bf16 as under the host's own autocast on a GPU. A copy of the backbone does too.
    """
    if precision == "float32":
        torch.set_float32_matmul_precision("high")
    for module in (*backbone.blocks, backbone.output_layer):
        autocast = _Autocast(precision == "bf16")
        module.register_forward_pre_hook(autocast.enter)
        module.register_forward_hook(autocast.leave, always_call=True)
