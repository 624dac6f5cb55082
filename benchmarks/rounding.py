"""Networks whose matrix products run in a precision of choice, on a CPU.

bf16 is autocast as in Duo's DIT on a GPU: blocks and head, while embeddings and the conditioning on
time stay in float32. TF32 is emulated: both operands of every product, of the backward pass and of
attention too, are rounded to 10 bits of mantissa and multiplied in float32. How a GPU rounds them
depends on its kernels: to the nearest, or the bits are cut off.
"""

import contextlib
import copy
from dataclasses import dataclass
from unittest import mock

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from duo_ext.core.networks import Denoiser

CUT = 13  # bits of a float32 that TF32 does not have
aten = torch.ops.aten
# a product -> where its operands stand
PRODUCTS = {
    aten.mm.default: (0, 1),
    aten.bmm.default: (0, 1),
    aten.addmm.default: (1, 2),
    aten.addmm_.default: (1, 2),
    aten.baddbmm.default: (1, 2),
}


def tf32(x, cut=False):
    """x with 10 bits of mantissa, to the nearest, ties to even, or cut off."""
    bits = x.view(torch.int32)
    if not cut:
        bits = bits + (1 << CUT - 1) - 1 + ((bits >> CUT) & 1)
    return (bits & -(1 << CUT)).view(torch.float32)


class TF32Products(TorchDispatchMode):
    """While it is on, float32 matrix products take their operands in TF32."""

    def __init__(self, cut=False):
        super().__init__()
        self.cut = cut

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        arguments = list(arguments)
        for place in PRODUCTS.get(function, ()):
            if arguments[place].dtype == torch.float32:
                arguments[place] = tf32(arguments[place], self.cut)
        return function(*arguments, **(keywords or {}))


@contextlib.contextmanager
def products(kind):
    """Matrix products of that kind; of bf16 those of a forward pass."""
    with contextlib.ExitStack() as stack:
        if kind.startswith("TF32"):
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # two products that are seen
            stack.enter_context(TF32Products(cut=kind == "TF32 cut"))
        stack.enter_context(torch.autocast(**_autocast(kind)))
        yield


def _autocast(kind):
    return {"device_type": "cpu", "dtype": torch.bfloat16, "enabled": kind == "bf16"}


@contextlib.contextmanager
def blocks_in(backbone, kind):
    """Blocks and last layer under an autocast to bf16, if that is the kind."""
    with contextlib.ExitStack() as stack:
        for module in (*backbone.blocks, backbone.output_layer):
            cast = torch.autocast(**_autocast(kind))(module.forward)
            stack.enter_context(mock.patch.object(module, "forward", cast))
        if kind != "bf16":
            stack.enter_context(products(kind))
        yield


@dataclass(frozen=True)
class Precision:
    """Of the body and of the head: float64, float32, TF32, TF32 cut or bf16; those of teacher and
    fake, the student's opponents, where they are others."""

    body: str
    head: str
    others: "Precision | None" = None

    @classmethod
    def of(cls, name):
        """From its name: "bf16", "bf16, head float32" or "bf16, opponents TF32"."""
        name, _, others = name.partition(", opponents ")
        body, _, head = name.partition(", head ")
        return cls(body, head or body, cls.of(others) if others else None)

    @property
    def opponents(self):
        return self.others or self

    def network(self, denoiser):
        """A denoiser in this precision; of its own weights only in float64."""
        backbone = denoiser.backbone
        if self.body == "float64":
            backbone = copy.deepcopy(backbone).double()
        return Rounded(backbone, denoiser.time_conditioning, self)

    def networks(self, student, fake, teacher):
        return self.network(student), *map(self.opponents.network, (fake, teacher))

    def backward(self):
        """In which a backward pass runs; in bf16 what was saved has its precision already."""
        return products("float32" if self.body == "bf16" else self.body)


class Rounded(Denoiser):
    """A denoiser in a precision. The backward pass of the body is for the caller to run in it."""

    def __init__(self, backbone, time_conditioning, kinds):
        super().__init__(backbone, time_conditioning)
        self.kinds = kinds

    def features(self, x, alpha_B):
        with blocks_in(self.backbone, self.kinds.body):
            features_BLD = super().features(x, alpha_B)
        self._autocast = _autocast(self.kinds.head)
        return features_BLD

    def head(self, features):
        with products(self.kinds.head):
            return super().head(features.to(self._last_layer.weight.dtype))

    def head_backward(self, *arguments):
        with products(self.kinds.head):
            return super().head_backward(*arguments)


class Stopped(Rounded):
    """A student whose gradient ends at the features, which it keeps."""

    def features(self, x, alpha_B):
        with torch.no_grad():
            self.kept = super().features(x, alpha_B)
        return self.kept.requires_grad_()
