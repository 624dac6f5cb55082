"""A denoiser from whatever a user has: a checkpoint, a folder or a model of the Hugging Face hub.

A folder holds config.json and the weights of one DIT. ``write_folder`` writes it, or Duo's own
``DIT.save_pretrained``, or it is a published model of Duo or MDLM. It is read as tensors and JSON
alone; code that comes with a model is neither fetched nor run.
"""

import json
import os
import re
import shutil
import uuid
from pathlib import Path

import huggingface_hub
import safetensors.torch
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from torch import Tensor

from duo_ext import Refused, files
from duo_ext.weights import checkpoints
from duo_ext.weights.checkpoints import EMBEDDING, Saved

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
SOURCES = "a checkpoint file, a run's or a hub's folder, or a hub id"
FILE_ENDINGS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")

CONFIG = "config.json"
CARD = "README.md"
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"  # beside the weights where they lie in shards
WANTED = [CONFIG, SAFETENSORS, "model-*.safetensors", PICKLE, "pytorch_model-*.bin", f"*{INDEX}"]

# config.json of the published models -> section and name in Duo's configuration
PUBLISHED = {
    "model_length": ("model", "length"),
    "hidden_dim": ("model", "hidden_size"),
    "cond_dim": ("model", "cond_dim"),
    "n_blocks": ("model", "n_blocks"),
    "n_heads": ("model", "n_heads"),
    "dropout": ("model", "dropout"),
    "time_conditioning": ("algo", "time_conditioning"),
}


def load(path: str | None, key: str, trust: bool = False) -> Saved:
    """The denoiser of a folder, a hub id (owner/name), a checkpoint or a run (``in_run``), as
    ``Saved``.

    ``key`` is the setting that named it, ``trust`` is for checkpoints (``checkpoints.read``).
    Raises Refused where there is none.
    """
    if path is None:
        raise Refused(f"{key} is null; wanted: {SOURCES}")
    path = in_run(path)
    if isinstance(path, str) and os.path.isdir(path):
        return read_folder(path, key)
    if isinstance(path, str) and _is_hub_id(path):
        return read_folder(_download(path, key), key)
    checkpoint = checkpoints.read(path, key, trust)
    try:
        return checkpoints.denoiser(checkpoint)
    except Refused as error:
        raise Refused(f"{key} is '{path}'; {error}") from error


def in_run(path: str) -> str:
    """The checkpoint in the folder of a run that its guard has kept, or else the last one; any
    other path as it is."""
    kept = (f"{path}/checkpoints/{name}.ckpt" for name in ("best", "last"))
    return next(filter(os.path.exists, kept), path)


def _is_hub_id(path):
    legal = HUB_ID.fullmatch(path) and not path.endswith(FILE_ENDINGS)
    return legal and not os.path.exists(path)


def _download(name, key):
    """The local folder with the files of a model on the hub."""
    try:
        return huggingface_hub.snapshot_download(name, allow_patterns=WANTED)
    except Exception as error:  # the hub's client raises its own errors and its transport's
        raise Refused(
            f"{key} is '{name}'; there is no such file or folder, and {_hub_refusal(error)}; "
            f"wanted: {SOURCES}"
        ) from error


def _hub_refusal(error):
    if isinstance(error, GatedRepoError):
        return "the hub's model of that name is gated: its owner has to grant you access"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no model of that name, or a private one"
    if isinstance(error, LocalEntryNotFoundError):
        return "the hub cannot be reached, nor is a copy of such a model in its cache"
    reason = str(error).strip().partition("\n")[0]
    return f"the hub does not give a model of that name ({reason})"


# ---------------------------------------------------------------------------------------- reading


def read_folder(folder: str | Path, key: str) -> Saved:
    """The DIT in a folder of config.json and safetensors or pytorch_model.bin, whole or in shards.

    Weights keep their precision. Raises Refused where a file is missing, damaged or holds
    anything else.
    """
    folder = Path(folder)
    try:
        described = _read_json(folder / CONFIG)
        weights = checkpoints.dit(_read_weights(folder))
        if EMBEDDING not in weights:
            raise Refused(f"its weights must hold one DIT, hence one {EMBEDDING}, and hold 0")
        return Saved(weights, config=_duo_config(described))
    except ValueError as error:
        raise Refused(f"{key} is '{folder}'; {error}") from error


def _read_json(path):
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise Refused(f"{path.name} cannot be opened: {error.strerror}") from error
    except ValueError as error:
        raise Refused(f"{path.name} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise Refused(f"{path.name} must hold a JSON object")
    return content


def _read_weights(folder):
    """{name: tensor}, from safetensors where there are some, else from pytorch_model.bin."""
    for name in (SAFETENSORS, PICKLE):
        if (folder / name).exists():
            return _read_tensors(folder / name)
        if (folder / f"{name}{INDEX}").exists():
            parts = [_read_tensors(part) for part in _shards(folder / f"{name}{INDEX}")]
            return {name: value for part in parts for name, value in part.items()}
    raise Refused(f"it has neither {SAFETENSORS} nor {PICKLE}, whole or in shards")


def _shards(index):
    """The files that an index names; they lie beside it."""
    table = _read_json(index).get("weight_map")
    names = sorted({str(name) for name in table.values()}) if isinstance(table, dict) else []
    if not names or not all(re.fullmatch(r"\w[\w.-]*", name) for name in names):
        raise Refused(f"{index.name} must have a weight_map to files beside it")
    return [index.with_name(name) for name in names]


def _read_tensors(path):
    try:
        if path.suffix == ".safetensors":
            weights = safetensors.torch.load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        if not all(isinstance(value, Tensor) for value in weights.values()):
            raise TypeError("not only tensors")
    except FileNotFoundError as error:
        raise Refused(f"{path.name} is missing") from error
    except Exception as error:  # what the readers raise depends on the bytes that they meet
        raise Refused(
            f"{path.name} is damaged or holds other things than named tensors, which alone are read"
        ) from error
    return weights


def _duo_config(described):
    """Duo's configuration, as far as a config.json tells it."""
    if isinstance(described.get("config"), dict):
        return described["config"]
    if isinstance(described.get("model"), dict):  # as the hub's mixin saves it, of a plain dict
        return {name: value for name, value in described.items() if name != "vocab_size"}
    config = {}
    for name, (section, ours) in PUBLISHED.items():
        if name in described:
            config.setdefault(section, {})[ours] = described[name]
    return config


# ---------------------------------------------------------------------------------------- writing


def write_folder(
    folder: str | Path, weights: dict[str, Tensor], described: dict, card: str
) -> None:
    """Write a DIT's ``weights`` in float32, its arguments ``described`` as config.json and a model
    card as a new folder (``write_new``)."""
    content = {
        SAFETENSORS: as_safetensors(weights),
        CONFIG: json.dumps(described, indent=2).encode(),
        CARD: card.encode(),
    }
    write_new(folder, content)


def as_safetensors(weights: dict[str, Tensor]) -> bytes:
    """The bytes of a file of weights in float32."""
    weights = {name: w.detach().cpu().float().contiguous() for name, w in weights.items()}
    return safetensors.torch.save(weights, metadata={"format": "pt"})


def write_new(folder: str | Path, content: dict[str, bytes]) -> None:
    """Write a new folder of these files.

    It appears whole or not at all. Raises Refused, which names --output, where it cannot be written
    or already holds something.
    """
    if files.is_url(folder):
        raise Refused(f"--output is '{folder}'; it must be a local folder")
    target = Path(folder).resolve()
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        if target.exists() and any(target.iterdir()):
            raise Refused(f"--output is '{folder}'; it must be a new or an empty folder")
        temporary.mkdir(parents=True)
        for name, data in content.items():
            (temporary / name).write_bytes(data)
        temporary.replace(target)
    except OSError as error:
        raise Refused(
            f"--output is '{folder}'; the folder cannot be written: {error.strerror}"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
