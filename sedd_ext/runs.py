"""Run folders, training states and checkpoints in SEDD's layout.

A run is a folder with .hydra/config.yaml, checkpoints-meta/checkpoint.pth (the last step; beside
it previous.pth, what was saved before), checkpoints/checkpoint_N.pth, samples and logs. A
checkpoint is {optimizer, model, ema, step}, which SEDD's own load_model reads, and ``idlm``, which
we add. A training state is SEDD's: {optimizer, scaler, model, noise, ema, step}.
"""

import io
import itertools
import os
import posixpath

import numpy
import omegaconf
import torch
import yaml
from omegaconf.errors import OmegaConfBaseException

from duo_ext import Refused, files
from duo_ext.core import adapters
from duo_ext.weights import checkpoints, pickles, pretrained, saves
from duo_ext.weights.checkpoints import Saved
from sedd_ext import host
from sedd_ext.parts import Parts

LAST, BEST = "checkpoints-meta/checkpoint.pth", "checkpoints/best.pth"
CONFIG = ".hydra/config.yaml"
ENDINGS = (".pth", ".pt", ".ckpt")  # of checkpoint files
SECTIONS = ("algo", "graph", "noise", "model", "data")  # of CONFIG: those that a denoiser needs

# SEDD's warm-up leaves its learning rate in the optimizer's state as a numpy float64. These are the
# only types beyond torch's own that are made from a checkpoint; numpy 1 had another module name.
_SCALAR = numpy.float64(0).__reduce__()[0]
NUMPY_TYPES = [
    (_SCALAR, "numpy._core.multiarray.scalar"),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (numpy.dtype, "numpy.dtype"),
    type(numpy.dtype(numpy.float64)),
]


def new_state(parts: Parts) -> dict:
    """The training state of ``parts`` before its first step."""
    config, tree = parts.config, host.active()
    parameters = itertools.chain(adapters.trained(parts.model), parts.noise.parameters())
    average = tree.module("model.ema").ExponentialMovingAverage
    return {
        "optimizer": tree.module("losses").get_optimizer(config, parameters),
        "scaler": torch.amp.GradScaler("cuda", enabled=False),
        "model": parts.model,
        "noise": parts.noise,
        "ema": average(parts.model.parameters(), decay=config.training.ema),
        "step": 0,
    }


def save(path: str, state: dict, extra: dict | None = None) -> None:
    """Write SEDD's checkpoint of a training state, whole or not at all.

    ``extra`` is what it holds besides, under ``idlm``.
    """
    optimizer = state["optimizer"].state_dict()
    for group in optimizer["param_groups"]:
        group["lr"] = float(group["lr"])
    model, ema = state["model"], state["ema"].state_dict()
    weights, average = model.state_dict(), ema["shadow_params"]
    if adapters.adapted(model):
        weights, average, ours = adapters.plain(model, average)
        extra = extra | {"adapter": ours}
    content = {
        "optimizer": optimizer,
        "model": weights,
        "ema": ema | {"shadow_params": average},
        "step": state["step"],
    }
    saves.write(path, content | ({"idlm": extra} if extra else {}))


TRUST = ", unless --trust-checkpoint says that you trust the file"


def read(path: str, key: str, trust: bool | None = None) -> dict:
    """A checkpoint file of SEDD's, as the dictionary that it holds.

    ``key`` is the setting that named it. ``trust`` says whether any types in it may be made; it is
    None where a user has no way to say so. Raises Refused if the file is no checkpoint, or holds
    other types than it may.
    """
    rule = f"only tensors and plain values are loaded{'' if trust is None else TRUST}"
    checkpoint = pickles.content(path, key, lambda file: NUMPY_TYPES, rule, trust)
    if not _is_sedds(checkpoint):
        raise Refused(f"{key} is '{path}'; it is no SEDD checkpoint: it needs model, ema, step")
    return checkpoint


def _is_sedds(checkpoint):
    if not isinstance(checkpoint, dict) or not {"model", "ema", "step"} <= checkpoint.keys():
        return False
    model, ema = checkpoint["model"], checkpoint["ema"]
    return isinstance(model, dict) and isinstance(ema, dict) and "shadow_params" in ema


def load(checkpoint: dict, state: dict, key: str) -> None:
    """Load SEDD's part of a checkpoint (``read``) into a training state.

    Adapters are loaded from ours. Raises Refused, which names ``key``, where the state's model has
    another shape.
    """
    model, ema = state["model"], checkpoint["ema"]
    if adapters.adapted(model):
        ema = ema | {"shadow_params": adapters.go_on(model, checkpoint["idlm"]["adapter"])}
    else:
        checkpoints.check(Saved(checkpoint["model"], ema["shadow_params"]), model, key)
        model.load_state_dict(checkpoint["model"])
    state["optimizer"].load_state_dict(checkpoint["optimizer"])
    state["ema"].load_state_dict(ema)
    device = next(model.parameters()).device  # SEDD reads its files to where its model is
    state["ema"].shadow_params = [s.to(device) for s in state["ema"].shadow_params]
    state["step"] = checkpoint["step"]


def denoiser(path: str | None, key: str, trust: bool | None = None) -> Saved:
    """The trained network at ``path``, as ``Saved``.

    ``path`` is a run folder (``in_run``), one of SEDD's checkpoint files, or a folder or hub id in
    Hugging Face format. ``key`` is the setting that named it, ``trust`` is for checkpoints
    (``read``). Raises Refused where there is none.
    """
    path = path and in_run(path)
    if not (path and path.endswith(ENDINGS)):
        return pretrained.load(path, key)
    whole = path if files.is_url(path) else os.path.abspath(path)
    run, checkpoint = posixpath.dirname(posixpath.dirname(whole)), read(path, key, trust)
    try:
        weights, adapter = checkpoints.dit(checkpoint["model"]), checkpoints.adapter(checkpoint)
    except Refused as error:
        raise Refused(f"{key} is '{path}'; {error}") from error
    average, config = checkpoint["ema"]["shadow_params"], _settings(f"{run}/{CONFIG}", key)
    return Saved(weights, average, config, adapter)


def _settings(path, key):
    """The settings in the file at ``path``, as plain values; {} where there is no such file.

    Raises Refused where they cannot be read.
    """
    if not files.exists(path):
        return {}
    try:
        with files.opened(path) as file:
            text = io.StringIO(file.read().decode())
        settings = omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.load(text))
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise _damaged(path, key) from error
    if not isinstance(settings, dict) or not isinstance(settings.get("model"), dict):
        raise _damaged(path, key)
    if not all(isinstance(settings.get(section, {}), dict) for section in SECTIONS):
        raise _damaged(path, key)
    return settings


def _damaged(path, key):
    return Refused(
        f"{key}: '{path}' is damaged; it must hold a run's settings, as Hydra writes them"
    )


def in_run(path: str) -> str:
    """The checkpoint in the folder of a run that its guard has kept, or else the last one; any
    other path as it is."""
    kept = (os.path.join(path, name) for name in (BEST, LAST))
    return next(filter(os.path.exists, kept), path)
