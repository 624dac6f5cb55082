"""Attention over packed sequences of different lengths."""

import itertools

import torch
from torch.nn.functional import scaled_dot_product_attention


def flash_attn_varlen_qkvpacked_func(
    qkv, cu_seqlens, max_seqlen, dropout_p=0.0, softmax_scale=None, causal=False
):
    """Attention within each sequence, (N, heads, D) of queries, keys and values (N, 3, heads, D).

    Sequence i is the rows cu_seqlens[i] to cu_seqlens[i + 1].
    """
    parts = []
    for start, end in itertools.pairwise(cu_seqlens.tolist()):
        q, k, v = qkv[start:end].permute(1, 2, 0, 3)[:, None]
        out = scaled_dot_product_attention(
            q, k, v, dropout_p=dropout_p, is_causal=causal, scale=softmax_scale
        )
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)
