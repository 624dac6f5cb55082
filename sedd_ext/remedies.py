"""The remedies on the imported modules of SEDD (``duo_ext.hosting.remedies``)."""

import importlib.util

import torch
from torch import Tensor

from duo_ext.hosting.remedies import AnyTree, Remedy


class RotaryInPlainTorch(Remedy):
    """Turns queries and keys by plain operations."""

    name = "rotary positions in plain torch"
    cause = "without flash-attn they are TorchScript's, which ends in an error on a GPU"
    module = "model.rotary"

    def needed(self, host: AnyTree) -> bool:
        has_one = (host.root / "model" / "rotary.py").is_file()
        return has_one and importlib.util.find_spec("flash_attn") is None

    def apply(self, host: AnyTree) -> None:
        host.module(self.module).apply_rotary_pos_emb = turned


def turned(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries and keys of qkv (B, L, 3, H, K), the pair (x_i, x_{i + K/2}) turned by the angle of
    its position, whose cos and sin are (1, L, 3, 1, K); of values it is 0."""
    first, second = qkv.chunk(2, dim=-1)
    return qkv * cos + torch.cat([-second, first], dim=-1) * sin


AFTER = (RotaryInPlainTorch(),)
