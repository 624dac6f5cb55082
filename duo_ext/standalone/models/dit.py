"""The denoiser: a transformer with rotary positions and time modulation (DiT, arXiv 2212.09748).

Parameter names, shapes and order are Duo's, so one state dict loads in both.
Shapes: B batch, L length, D width, H heads, K width of a head, C width of the time embedding,
V vocabulary.
"""

import contextlib
import importlib.util
import math

import huggingface_hub
import omegaconf
import torch
from torch import nn
from torch.nn import functional as F

TIME_FREQUENCIES = 256
MLP_RATIO = 4
FLASH = importlib.util.find_spec("flash_attn") is not None


def attention(q_BHLK, k_BHLK, v_BHLK, causal):
    """softmax(q k^T / sqrt(K)) v, the fastest way the device has.

    On a CPU the backward pass of the fused kernel is slower than two plain products, so the fused
    one serves the CPU only where no gradient is asked for.
    """
    half = q_BHLK.dtype in (torch.bfloat16, torch.float16)
    if q_BHLK.is_cuda and half and FLASH:
        from flash_attn import flash_attn_func

        return in_flash_layout(flash_attn_func, q_BHLK, k_BHLK, v_BHLK, causal)
    if q_BHLK.is_cuda or causal or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, is_causal=causal)
    scores_BHLL = q_BHLK @ k_BHLK.transpose(-1, -2) / math.sqrt(q_BHLK.shape[-1])
    return scores_BHLL.softmax(-1) @ v_BHLK


def in_flash_layout(function, q_BHLK, k_BHLK, v_BHLK, causal):
    """A function on (B, L, H, K) applied to (B, H, L, K)."""
    mixed_BLHK = function(*(x.transpose(1, 2) for x in (q_BHLK, k_BHLK, v_BHLK)), causal=causal)
    return mixed_BLHK.transpose(1, 2)


class Rotary(nn.Module):
    """Rotary position embedding (arXiv 2104.09864), rotating the two halves of each head."""

    def __init__(self, head_width, base=10_000):
        super().__init__()
        exponent = torch.arange(0, head_width, 2).float() / head_width
        self.register_buffer("inv_freq", base**-exponent)

    def forward(self, length):
        """(cos, sin), each (L, K)."""
        position = torch.arange(length, device=self.inv_freq.device, dtype=self.inv_freq.dtype)
        angle_LK = torch.outer(position, self.inv_freq).repeat(1, 2)
        return angle_LK.cos(), angle_LK.sin()


def rotate(x_BHLK, cos_LK, sin_LK):
    first, second = x_BHLK.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return x_BHLK * cos_LK.to(x_BHLK.dtype) + turned * sin_LK.to(x_BHLK.dtype)


class LayerNorm(nn.Module):
    """Layer norm with a scale and no shift, in float32 under autocast."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.dim = dim

    def forward(self, x_BLD):
        with torch.autocast(x_BLD.device.type, enabled=False):
            if x_BLD.dtype in (torch.float16, torch.bfloat16):
                x_BLD = x_BLD.float()
            return F.layer_norm(x_BLD, [self.dim], self.weight)


class TimestepEmbedder(nn.Module):
    """sigma (B,) -> (B, C): 128 cosines and 128 sines of geometric frequencies, then an MLP."""

    def __init__(self, cond_dim):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(TIME_FREQUENCIES, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim)
        )

    def forward(self, sigma_B):
        half = TIME_FREQUENCIES // 2
        order = torch.arange(half, device=sigma_B.device, dtype=torch.float32)
        angle = sigma_B[:, None].float() * torch.exp(-math.log(10_000) * order / half)
        features = torch.cat([angle.cos(), angle.sin()], dim=-1)
        return self.mlp(features.to(self.mlp[0].bias.dtype))


class EmbeddingLayer(nn.Module):
    """Token ids (B, L); (B, L, k) with weights; or logits (B, L, V), their softmax the weights."""

    def __init__(self, dim, vocab_dim):
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(vocab_dim, dim))
        nn.init.kaiming_uniform_(self.embedding, a=math.sqrt(5))

    def forward(self, x, weights=None):
        if weights is not None:
            mixed = weights.to(self.embedding.dtype)[..., None, :] @ F.embedding(x, self.embedding)
            return mixed[..., 0, :]
        if x.ndim == 2:
            return F.embedding(x, self.embedding)
        weights = x.to(torch.promote_types(x.dtype, torch.float32)).softmax(-1)
        return weights.to(self.embedding.dtype) @ self.embedding


class DDiTBlock(nn.Module):
    """Attention and MLP, both residual; with ``adaLN`` shifted, scaled and gated by the time."""

    def __init__(self, dim, n_heads, adaLN, cond_dim=None, dropout=0.1, causal=False):
        super().__init__()
        self.n_heads, self.causal, self.dropout = n_heads, causal, dropout
        self.norm1 = LayerNorm(dim)
        self.attn_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.attn_out = nn.Linear(dim, dim, bias=False)
        self.norm2 = LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, MLP_RATIO * dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(MLP_RATIO * dim, dim),
        )
        if adaLN:
            self.adaLN_modulation = nn.Linear(cond_dim, 6 * dim)
            nn.init.zeros_(self.adaLN_modulation.weight)
            nn.init.zeros_(self.adaLN_modulation.bias)

    def forward(self, x_BLD, cos_sin, c_BC=None):
        if c_BC is None:
            shift_a = scale_a = shift_m = scale_m = 0.0
            gate_a = gate_m = 1.0
        else:
            modulation = self.adaLN_modulation(c_BC)[:, None].chunk(6, dim=2)
            shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation
        h_BLD = self.norm1(x_BLD) * (1 + scale_a) + shift_a
        x_BLD = x_BLD + gate_a * self._drop(self._attend(h_BLD, cos_sin))
        h_BLD = self.norm2(x_BLD) * (1 + scale_m) + shift_m
        return x_BLD + gate_m * self._drop(self.mlp(h_BLD))

    def _drop(self, x_BLD):
        return F.dropout(x_BLD, self.dropout, self.training)

    def _attend(self, h_BLD, cos_sin):
        B, L, D = h_BLD.shape
        qkv = self.attn_qkv(h_BLD).view(B, L, 3, self.n_heads, D // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = rotate(q, *cos_sin), rotate(k, *cos_sin)
        mixed_BHLK = attention(q, k, v, self.causal)
        return self.attn_out(mixed_BHLK.transpose(1, 2).reshape(B, L, D))


class DDiTFinalLayer(nn.Module):
    """Norm, time modulation where there is one, and the logits."""

    def __init__(self, hidden_size, out_channels, cond_dim, adaLN):
        super().__init__()
        self.norm_final = LayerNorm(hidden_size)
        self.linear = nn.Linear(hidden_size, out_channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        if adaLN:
            self.adaLN_modulation = nn.Linear(cond_dim, 2 * hidden_size)
            nn.init.zeros_(self.adaLN_modulation.weight)
            nn.init.zeros_(self.adaLN_modulation.bias)

    def forward(self, x_BLD, c_BC=None):
        x_BLD = self.norm_final(x_BLD)
        if c_BC is not None:
            shift, scale = self.adaLN_modulation(c_BC)[:, None].chunk(2, dim=2)
            x_BLD = x_BLD * (1 + scale) + shift
        return self.linear(x_BLD)


class DIT(nn.Module, huggingface_hub.PyTorchModelHubMixin):
    """Logits (B, L, V) in float32 for x at noise level sigma (B,).

    x: token ids (B, L), or (B, L, V) logits of a distribution over tokens: the softmax is inside,
    so a log-probability gives the mean embedding under it; or token ids (B, L, k) with their
    ``weights`` (B, L, k) in the mean embedding, as in Duo's main. With ``algo.causal_attention``
    there is no time and sigma is ignored.
    """

    def __init__(self, config, vocab_size):
        super().__init__()
        if isinstance(config, dict):
            config = omegaconf.DictConfig(config)
        algo, model = config.algo, config.model
        self.config, self.vocab_size = config, vocab_size
        self.causal = algo.causal_attention
        self.adaLN = not self.causal
        self.vocab_embed = EmbeddingLayer(model.hidden_size, vocab_size)
        if self.adaLN:
            self.sigma_map = TimestepEmbedder(model.cond_dim)
        self.rotary_emb = Rotary(model.hidden_size // model.n_heads)
        self.blocks = nn.ModuleList(
            DDiTBlock(
                model.hidden_size,
                model.n_heads,
                self.adaLN,
                cond_dim=model.cond_dim,
                dropout=model.dropout,
                causal=self.causal,
            )
            for _ in range(model.n_blocks)
        )
        self.output_layer = DDiTFinalLayer(
            model.hidden_size, vocab_size, model.cond_dim, self.adaLN
        )

    def forward(self, x, sigma=None, class_cond=None, weights=None):
        if class_cond is not None:
            raise ValueError("the standalone DIT has no class conditions")
        c_BC = F.silu(self.sigma_map(sigma)) if self.adaLN else None
        x_BLD = self.vocab_embed(x, weights)
        cos_sin = self.rotary_emb(x.shape[1])
        with self._precision(x.device.type):
            for block in self.blocks:
                x_BLD = block(x_BLD, cos_sin, c_BC)
            logits_BLV = self.output_layer(x_BLD, c_BC)
        return logits_BLV.to(torch.promote_types(logits_BLV.dtype, torch.float32))

    def _precision(self, device):
        """bf16 matrix products on a GPU; on a CPU whatever the caller's autocast says."""
        if device == "cuda" and self.output_layer.linear.weight.dtype == torch.float32:
            return torch.autocast("cuda", torch.bfloat16)
        return contextlib.nullcontext()
