"""Rotary position embeddings: the pair (x_i, x_{i + R/2}) turns by the angle of its position."""

import torch


def apply_rotary_emb_torch(x, cos, sin, interleaved=False):
    """x (B, L, heads, D) with its first R entries turned; cos, sin (L, R / 2)."""
    if interleaved:
        raise NotImplementedError("the stand-in for flash-attn turns halves, not neighbours")
    cos, sin = (torch.cat([half, half], -1)[:, None].to(x.dtype) for half in (cos, sin))
    R = cos.shape[-1]
    turned, rest = x[..., :R], x[..., R:]
    first, second = turned.chunk(2, -1)
    return torch.cat([turned * cos + torch.cat([-second, first], -1) * sin, rest], -1)


def apply_rotary_emb_qkv_(qkv, cos, sin):
    """Turn queries and keys of qkv (B, L, 3, heads, D) in place."""
    for part in (0, 1):
        qkv[:, :, part] = apply_rotary_emb_torch(qkv[:, :, part], cos, sin)
    return qkv
