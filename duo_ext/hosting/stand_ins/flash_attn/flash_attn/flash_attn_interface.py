"""Attention over packed sequences of different lengths."""

import itertools

import torch
from torch.nn.functional import scaled_dot_product_attention


def flash_attn_varlen_qkvpacked_func(
    qkv, cu_seqlens, max_seqlen, dropout_p=0.0, softmax_scale=None, causal=False
):
    """Attention within each sequence, (N, heads, D) of queries, keys and values (N, 3, heads, D).

    Sequence i is the rows cu_seqlens[i] to cu_seqlens[i + 1]. Where all have max_seqlen rows, which
    their number tells, it is one call; otherwise a device is waited for to know where they end.
    """

    def attend(qkv_BL3HD):
        q, k, v = qkv_BL3HD.permute(2, 0, 3, 1, 4)
        out_BHLD = scaled_dot_product_attention(
            q, k, v, dropout_p=dropout_p, is_causal=causal, scale=softmax_scale
        )
        return out_BHLD.transpose(1, 2).flatten(0, 1)

    sequences = len(cu_seqlens) - 1
    if len(qkv) == sequences * max_seqlen:
        return attend(qkv.unflatten(0, (sequences, max_seqlen)))
    pieces = itertools.pairwise(cu_seqlens.tolist())
    return torch.cat([attend(qkv[None, start:end]) for start, end in pieces])
