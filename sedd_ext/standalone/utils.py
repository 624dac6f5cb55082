"""Runs on disk: the configuration that Hydra wrote, and checkpoints in SEDD's layout."""

import logging
import os

import omegaconf

from duo_ext import Refused
from duo_ext.weights import pickles, saves
from sedd_ext.runs import NUMPY_TYPES

LAYOUT = ("optimizer", "model", "ema", "step")


def load_hydra_config_from_run(load_dir):
    """The configuration of the run in a folder."""
    path = os.path.join(load_dir, ".hydra", "config.yaml")
    if not os.path.isfile(path):
        raise Refused(f"'{load_dir}' is no folder of a run: it has no .hydra/config.yaml")
    return omegaconf.OmegaConf.load(path)


def bare(model):
    """The model inside a DistributedDataParallel, or itself."""
    return getattr(model, "module", model)


def save_checkpoint(ckpt_dir, state):
    """Write the file ``ckpt_dir`` (SEDD's name for it), whole or not at all."""
    saved = {
        "optimizer": state["optimizer"].state_dict(),
        "model": bare(state["model"]).state_dict(),
        "ema": state["ema"].state_dict(),
        "step": state["step"],
    }
    saves.write(ckpt_dir, saved)


def read_checkpoint(path):
    """{optimizer, model, ema, step} on the CPU, of tensors and plain values alone.

    Raises Refused if the file is missing, is no checkpoint of SEDD's, or holds other objects.
    """
    rule = "only tensors and plain values are loaded"
    saved = pickles.content(path, "the checkpoint", lambda file: NUMPY_TYPES, rule)
    lacks = [key for key in LAYOUT if not isinstance(saved, dict) or key not in saved]
    if lacks:
        raise Refused(f"'{path}' is no checkpoint of SEDD: it lacks {', '.join(lacks)}")
    for group in saved["optimizer"]["param_groups"]:
        group["lr"] = float(group["lr"])
    return saved


def load_weights(model, weights, path):
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise Refused(f"the weights in '{path}' are those of another model: {reason}") from error


def restore_checkpoint(ckpt_dir, state, device):
    """``state`` as the file ``ckpt_dir`` left it; as it is, with a warning, if there is none."""
    if not os.path.exists(ckpt_dir):
        logging.getLogger(__name__).warning("no checkpoint '%s': a new start", ckpt_dir)
        return state
    saved = read_checkpoint(ckpt_dir)
    load_weights(bare(state["model"]), saved["model"], ckpt_dir)
    state["optimizer"].load_state_dict(saved["optimizer"])
    state["ema"].load_state_dict(saved["ema"])
    state["ema"].move_shadow_params_to_device(device)
    state["step"] = saved["step"]
    return state
