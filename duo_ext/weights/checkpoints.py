"""Checkpoints: read without running foreign code, compared with a model before they are used.

``key`` is everywhere the setting that named the file, for what Refused says.
"""

import hashlib
import os
import re
from dataclasses import dataclass, field
from typing import TypeVar

import omegaconf
import torch
from omegaconf import DictConfig
from torch import Tensor

from duo_ext import Refused, files
from duo_ext.core import adapters
from duo_ext.weights import pickles

T = TypeVar("T")

HASH = re.compile("[0-9a-f]{64}")
# What a value in a file's configuration may refer to: other values, our assets, folders.
REFERENCE = re.compile(
    r"\$\{(?:[\w.]+|(?:idlm_asset|idlm_text|idlm_integral|cwd|hydra):[\w./-]*)\}"
)


def inert(config: T) -> T:
    """A file's configuration without the values that call other resolvers than REFERENCE has.

    Duo has a resolver for Python's eval, and a file must not run code.
    """
    if isinstance(config, dict):
        return {key: inert(value) for key, value in config.items() if not _calls(value)}
    if isinstance(config, list):
        return [inert(value) for value in config if not _calls(value)]
    return config


def _calls(value):
    return isinstance(value, str) and value.count("${") != len(REFERENCE.findall(value))


SECTIONS = ("algo", "data", "model", "noise", "graph")  # of a configuration


@dataclass(frozen=True)
class Saved:
    """A trained denoiser as a file holds it. Raises Refused where a section of its configuration is
    none."""

    weights: dict  # {name in the DIT: tensor}, the raw weights
    average: list | None = None  # their EMA, in the order of the DIT's parameters
    config: dict = field(default_factory=dict)  # the host's, as far as the file carries it
    adapter: dict | None = None  # of which the weights are merged: see ``adapter``

    def __post_init__(self):
        object.__setattr__(self, "config", inert(self.config))
        for key in SECTIONS:
            if not isinstance(self.config.get(key, {}), dict):
                raise Refused(
                    f"its configuration has {key} {self.config[key]}, which is no section"
                )


TRUST = (
    "only tensors, plain values and Duo's own types are loaded, unless "
    "++algo.trust_checkpoint=true (or --trust-checkpoint of evaluate and export) says that you "
    "trust the file"
)


def trusted(config: DictConfig) -> bool:
    """Whether ``algo.trust_checkpoint`` is true: the word itself, and no other text."""
    return config.algo.get("trust_checkpoint", False) is True


def read(path: str, key: str, trust: bool = False) -> dict:
    """A checkpoint file of Duo's, as the dictionary that it holds.

    Raises Refused if the file is missing, is no Duo checkpoint, or holds other objects, unless
    ``trust`` says that whatever it holds may be made.
    """
    checkpoint = pickles.content(path, key, pickles.known_types, TRUST, trust)
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict):
        raise Refused(f"{key} is '{path}'; it is no Duo checkpoint: it has no 'state_dict'")
    return checkpoint


FORMAT = 1  # of what lies under the key ``idlm``; the rest is the host's


def ours(checkpoint: dict, key: str) -> dict | None:
    """What a checkpoint holds under ``idlm``, for a run to go on from; None if it is the host's.

    Raises Refused if a newer version of this package has written it.
    """
    saved = checkpoint.get("idlm")
    if saved is not None and saved.get("format", 0) > FORMAT:
        raise Refused(
            f"{key}: the checkpoint is of format {saved['format']}, written by a newer version of "
            f"idlm; this one reads formats up to {FORMAT}"
        )
    return saved


UNTOLD = {
    "algo.adapter.rank": 0,
    "algo.adapter.frozen": "float32",
}  # what earlier versions had and did not tell


def differing(theirs: dict | None, ours: dict) -> str:
    """In words, where a checkpoint's identity (``theirs``) and a run's (``ours``) differ; "" if
    nowhere.

    An identity is {name: value} of what no run changes when it goes on. A checkpoint of an earlier
    version tells less; what it does not tell is not compared, or is as UNTOLD says.
    """
    if theirs is None:
        return "it holds nothing of ours to go on from"
    theirs = {name: value for name, value in UNTOLD.items() if name in ours} | theirs
    now = {name: ours.get(name, "unknown") for name in theirs}
    return "; ".join(
        f"its {name} is {_told(value)}, this run's {_told(now[name])}"
        for name, value in theirs.items()
        if value != now[name] and str(value) != str(now[name])
    )


def _told(value):
    """A value in a sentence; of a hash the beginning."""
    return str(value)[:12] if HASH.fullmatch(str(value)) else str(value)


EMBEDDING, FREQUENCIES = "vocab_embed.embedding", "rotary_emb.inv_freq"
PLACE = "backbone."  # of the denoiser in Duo's algorithms
WRAPPERS = {"module", "_orig_mod"}  # what DDP and torch.compile put into names


def dit(weights: dict) -> dict[str, Tensor]:
    """The weights of one DIT under its own names, out of a state dict.

    What DDP, torch.compile and the module that holds the DIT put into its names is taken out; what
    lies beside it is left out. Where there are several DITs it is the one at ``backbone.``; where
    there is none, it is whatever lies at ``backbone.``. Raises Refused if two are left to choose
    from, if two weights would have one name, or if there are other things than named tensors.
    """
    if not all(isinstance(n, str) and isinstance(w, Tensor) for n, w in weights.items()):
        raise Refused("its weights are no named tensors")
    plain = {".".join(p for p in n.split(".") if p not in WRAPPERS): w for n, w in weights.items()}
    if len(plain) < len(weights):
        raise Refused("it holds weights twice, with and without 'module.' or '_orig_mod.'")
    embeddings = [name for name in plain if f".{name}".endswith(f".{EMBEDDING}")]
    places = [name.removesuffix(EMBEDDING) for name in embeddings]
    if len(places) > 1 and PLACE not in places:
        raise Refused(
            f"its weights must hold one DIT, hence one {EMBEDDING}, and hold {len(places)}"
        )
    place = places[0] if len(places) == 1 else PLACE
    own = {name.removeprefix(place): w for name, w in plain.items() if name.startswith(place)}
    if FREQUENCIES in own and own[FREQUENCIES].element_size() < 4:
        del own[FREQUENCIES]  # half precision turns far positions by radians; they are computed
    return own


def denoiser(checkpoint: dict) -> Saved:
    """The denoiser in a Lightning checkpoint of Duo's, as ``Saved``."""
    weights = dit(checkpoint["state_dict"])
    hyper, ema = (checkpoint.get(name) for name in ("hyper_parameters", "ema"))
    average = ema.get("shadow_params") if isinstance(ema, dict) else None
    if not all(isinstance(value, Tensor) for value in average or ()):
        raise Refused("its averages are no tensors")
    config = hyper.get("config") if isinstance(hyper, dict) else None
    if omegaconf.OmegaConf.is_config(config):
        config = omegaconf.OmegaConf.to_container(config, resolve=False)
    config = config if isinstance(config, dict) else {}
    return Saved(weights, average, config, adapter(checkpoint))


def adapter(checkpoint: dict) -> dict | None:
    """The adapters of a checkpoint's student, {rank, alpha, weights, average}; None where it is a
    full network. The last two are {name: tensor} in the adapted network (``core.adapters``)."""
    saved = checkpoint.get("idlm")
    if not isinstance(saved, dict) or not isinstance(saved.get("adapter"), dict):
        return None
    if not isinstance(saved.get("run"), dict):
        raise Refused("it holds adapters, and not the run's settings")
    told = {key: saved["run"][f"{adapters.KEY}.{key}"] for key in ("rank", "alpha")}
    return told | saved["adapter"]


def dimensions(weights: dict[str, Tensor]) -> dict[str, int]:
    """{setting: size} that the shapes of a DIT's weights tell."""
    embedding = weights[EMBEDDING]
    sizes = {
        "vocabulary": embedding.shape[0],
        "model.hidden_size": embedding.shape[1],
        "model.n_blocks": sum(key.endswith("attn_out.weight") for key in weights),
    }
    if FREQUENCIES in weights:
        sizes["width of a head"] = 2 * len(weights[FREQUENCIES])
    if "sigma_map.mlp.0.weight" in weights:
        sizes["model.cond_dim"] = len(weights["sigma_map.mlp.0.weight"])
    return sizes


def check(saved: Saved, backbone: torch.nn.Module, key: str) -> None:
    """Raise Refused that names the first dimension in which file and model differ."""
    state = backbone.state_dict()
    if EMBEDDING not in saved.weights:
        raise Refused(f"{key}: the checkpoint holds no DIT (no {PLACE}{EMBEDDING})")
    weights = {name: state[name] for name in _computed(saved, state)} | saved.weights
    _compare(key, dimensions(weights), dimensions(state))
    _compare(key, _shapes(weights), _shapes(state))
    if saved.average is not None:
        shadow = [tuple(average.shape) for average in saved.average]
        if shadow != [tuple(parameter.shape) for parameter in adapters.trained(backbone)]:
            raise Refused(f"{key}: the checkpoint's EMA has other shapes than its weights")


def _computed(saved, state):
    """Names of a DIT's buffer of frequencies where a file leaves it out: no training changes it."""
    return {FREQUENCIES} & state.keys() - saved.weights.keys()


def _compare(key, theirs, ours):
    for name in theirs | ours:
        if theirs.get(name) != ours.get(name):
            raise Refused(
                f"{key}: the checkpoint has {name} {theirs.get(name, 'none')}, "
                f"this configuration asks for {ours.get(name, 'none')}"
            )


def _shapes(weights):
    return {f"{PLACE}{name}": tuple(value.shape) for name, value in weights.items()}


# Settings that no shape tells: of all hosts, of Duo, of SEDD.
TOLD = ("model.length", "model.n_heads", "algo.time_conditioning")
TOLD += ("model.scale_by_sigma", "graph.type")


def check_config(saved: Saved, config: DictConfig, key: str, names: tuple[str, ...] = TOLD) -> None:
    """Raise Refused if the file's configuration has another value than ``config`` of a name."""
    trained = omegaconf.OmegaConf.create(saved.config)
    for name in names:
        theirs, ours = (omegaconf.OmegaConf.select(c, name) for c in (trained, config))
        if theirs is not None and theirs != ours:
            raise Refused(
                f"{key}: the checkpoint was trained with {name} {theirs}, "
                f"this configuration asks for {ours}"
            )


def fill(
    backbone: torch.nn.Module, saved: Saved, config: DictConfig, key: str, average: bool = True
) -> None:
    """Load a file's weights into a network of ``config`` (``load``).

    Raises Refused, before anything is loaded, where the file's network is another (``check``,
    ``check_config``).
    """
    check(saved, backbone, key)
    check_config(saved, config, key)
    load(backbone, saved, average)


def load(backbone: torch.nn.Module, saved: Saved, average: bool = True) -> None:
    """Load the EMA weights, or the raw ones: where there is no EMA, or ``average`` is false."""
    state = backbone.state_dict()
    kept = {name: state[name] for name in _computed(saved, state)}
    backbone.load_state_dict(saved.weights | kept)
    if average and saved.average is not None:
        with torch.no_grad():
            for parameter, value in zip(backbone.parameters(), saved.average, strict=True):
                parameter.copy_(value)


def sha256(path: str, backbone: torch.nn.Module) -> str:
    """The SHA-256 of a checkpoint file's bytes, or, for a folder or a hub id, of the weights."""
    if os.path.isdir(path) or not files.exists(path):
        return fingerprint(backbone)
    digest = hashlib.sha256()
    with files.opened(path) as file:
        for block in iter(lambda: file.read(2**24), b""):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(backbone: torch.nn.Module) -> str:
    """SHA-256 of all weights, to recognise a network."""
    digest = hashlib.sha256()
    for name, value in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
