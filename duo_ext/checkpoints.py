"""Checkpoints: read without running foreign code, compared with a model before they are used."""

import hashlib
import re

import fsspec
import torch


def read(path, key):
    """A checkpoint of tensors and plain values; ``key`` is the setting that named the path.

    Raises ValueError if the file is missing, is no checkpoint, or holds other objects.
    """
    try:
        opened = fsspec.open(path, "rb").open()
    except Exception as error:  # fsspec's file systems each raise their own
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{key} is '{path}'; it cannot be opened: {reason}") from error
    with opened as file:
        try:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # what torch.load raises depends on the bytes that it meets
            raise ValueError(f"{key} is '{path}'; {_refusal(error)}") from error
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict):
        raise ValueError(f"{key} is '{path}'; it is no Duo checkpoint: it has no 'state_dict'")
    return checkpoint


def _refusal(error):
    """Why torch.load refused a file, without torch's advice to load it all the same."""
    foreign = re.search(r"GLOBAL (\S+)", str(error))
    if foreign:
        return f"it holds '{foreign[1]}', but only tensors and plain values are loaded"
    return "it is damaged, or no file of torch.save"


def saved_config(checkpoint):
    """The configuration that a checkpoint carries, as plain values; {} where there is none."""
    return checkpoint.get("hyper_parameters", {}).get("config", {})


def backbone_weights(checkpoint):
    """The raw weights of the denoiser, by their names in it."""
    prefix = "backbone."
    weights = checkpoint["state_dict"].items()
    return {key.removeprefix(prefix): value for key, value in weights if key.startswith(prefix)}


def dimensions(weights):
    """What the shapes of a DIT's weights say about it."""
    embedding = weights["vocab_embed.embedding"]
    sizes = {
        "vocabulary": embedding.shape[0],
        "model.hidden_size": embedding.shape[1],
        "model.n_blocks": sum(key.endswith("attn_out.weight") for key in weights),
        "width of a head": 2 * len(weights["rotary_emb.inv_freq"]),
    }
    if "sigma_map.mlp.0.weight" in weights:
        sizes["model.cond_dim"] = len(weights["sigma_map.mlp.0.weight"])
    return sizes


def check(checkpoint, backbone, key):
    """Raise a ValueError that names the first dimension in which checkpoint and model differ."""
    weights, state = backbone_weights(checkpoint), backbone.state_dict()
    if "vocab_embed.embedding" not in weights or "rotary_emb.inv_freq" not in weights:
        raise ValueError(f"{key}: the checkpoint holds no DIT (no backbone.vocab_embed.embedding)")
    _compare(key, dimensions(weights), dimensions(state))
    _compare(key, _shapes(weights), _shapes(state))
    if "ema" in checkpoint:
        shadow = [tuple(average.shape) for average in checkpoint["ema"]["shadow_params"]]
        if shadow != [tuple(parameter.shape) for parameter in backbone.parameters()]:
            raise ValueError(f"{key}: the checkpoint's EMA has other shapes than its weights")


def _compare(key, theirs, ours):
    for name in theirs | ours:
        if theirs.get(name) != ours.get(name):
            raise ValueError(
                f"{key}: the checkpoint has {name} {theirs.get(name, 'none')}, "
                f"this configuration asks for {ours.get(name, 'none')}"
            )


def _shapes(weights):
    return {f"backbone.{name}": tuple(value.shape) for name, value in weights.items()}


def check_length(checkpoint, length, key):
    """Raise a ValueError if the checkpoint says that it was trained at another length."""
    trained = saved_config(checkpoint).get("model", {}).get("length", length)
    if trained != length:
        raise ValueError(
            f"{key}: the checkpoint was trained with model.length {trained}, "
            f"this configuration asks for {length}"
        )


def load_average(backbone, checkpoint):
    """Load the EMA weights where the checkpoint has them, the raw ones otherwise."""
    backbone.load_state_dict(backbone_weights(checkpoint))
    if "ema" in checkpoint:
        with torch.no_grad():
            shadow = checkpoint["ema"]["shadow_params"]
            for parameter, average in zip(backbone.parameters(), shadow, strict=True):
                parameter.copy_(average)


def fingerprint(backbone):
    """SHA-256 of all weights, to recognise a network."""
    digest = hashlib.sha256()
    for name, value in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
