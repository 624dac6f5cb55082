"""Run folders and checkpoints in SEDD's layout.

A run is a folder with .hydra/config.yaml, checkpoints-meta/checkpoint.pth (the last step),
checkpoints/checkpoint_N.pth, samples and logs. A checkpoint is {optimizer, model, ema, step}, which
SEDD's own load_model reads, and ``idlm`` where a distillation wrote it.
"""

import io
import os

import numpy
import omegaconf
import torch

from duo_ext import Refused, checkpoints, files
from duo_ext.checkpoints import Saved

LAST, BEST = "checkpoints-meta/checkpoint.pth", "checkpoints/best.pth"
CONFIG = ".hydra/config.yaml"

# SEDD's warm-up leaves its learning rate in the optimizer's state as a numpy float64. These are the
# only types beyond torch's own that are made from a checkpoint; numpy 1 had another module name.
_SCALAR = numpy.float64(0).__reduce__()[0]
NUMPY_TYPES = [
    (_SCALAR, "numpy._core.multiarray.scalar"),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (numpy.dtype, "numpy.dtype"),
    type(numpy.dtype(numpy.float64)),
]


def save(path, state, extra=None):
    """Write SEDD's checkpoint of a training state, whole or not at all."""
    optimizer = state["optimizer"].state_dict()
    for group in optimizer["param_groups"]:
        group["lr"] = float(group["lr"])
    content = {
        "optimizer": optimizer,
        "model": state["model"].state_dict(),
        "ema": state["ema"].state_dict(),
        "step": state["step"],
    }
    buffer = io.BytesIO()
    torch.save(content | ({"idlm": extra} if extra else {}), buffer)
    files.write_whole(path, buffer.getvalue())


def read(path, key):
    """A checkpoint file of SEDD's. Raises Refused if it is none, or holds other types."""
    with checkpoints.opened(path, key) as file:
        try:
            with torch.serialization.safe_globals(NUMPY_TYPES):
                checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # what torch.load raises depends on the bytes that it meets
            reason = checkpoints.refusal(error, "only tensors and plain values are loaded")
            raise Refused(f"{key} is '{path}'; {reason}") from error
    if not isinstance(checkpoint, dict) or not {"model", "ema", "step"} <= checkpoint.keys():
        raise Refused(f"{key} is '{path}'; it is no SEDD checkpoint: it needs model, ema, step")
    return checkpoint


def load(checkpoint, state, key):
    """Load SEDD's part of a checkpoint into a training state that must be of the same shape."""
    saved = Saved(checkpoint["model"], checkpoint["ema"]["shadow_params"])
    checkpoints.check(saved, state["model"], key)
    state["optimizer"].load_state_dict(checkpoint["optimizer"])
    state["model"].load_state_dict(checkpoint["model"])
    state["ema"].load_state_dict(checkpoint["ema"])
    state["step"] = checkpoint["step"]


def denoiser(path, key):
    """The denoiser of a run folder or of a checkpoint file of SEDD's, as ``Saved``."""
    folder = path if os.path.isdir(path) else os.path.dirname(os.path.dirname(path))
    checkpoint = read(f"{path}/{LAST}" if os.path.isdir(path) else path, key)
    config, described = {}, os.path.join(folder, CONFIG)
    if os.path.exists(described):
        config = omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.load(described))
    return Saved(checkpoint["model"], checkpoint["ema"]["shadow_params"], config)


def is_run(path):
    """Whether a path is a run folder, rather than a folder in HF format or a hub id."""
    return os.path.exists(os.path.join(path, LAST))
