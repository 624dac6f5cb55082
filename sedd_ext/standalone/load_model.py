"""Trained models, ready to sample: (model, graph, noise)."""

import os

import graph_lib
import noise_lib
import utils
from model import SEDD
from model.ema import ExponentialMovingAverage


def load_model_hf(dir, device):
    """From a Hugging Face folder or hub name: model.safetensors and config.json."""
    model = SEDD.from_pretrained(dir).to(device)
    return model, *_process(model.config, device)


def load_model_local(root_dir, device):
    """From a run's folder, with the average weights."""
    config = utils.load_hydra_config_from_run(root_dir)
    path = os.path.join(root_dir, "checkpoints-meta", "checkpoint.pth")
    saved = utils.read_checkpoint(path)
    model = SEDD(config).to(device).eval()
    utils.load_weights(model, saved["model"], path)
    ema = ExponentialMovingAverage(model.parameters(), decay=config.training.ema)
    ema.load_state_dict(saved["ema"])
    ema.copy_to(model.parameters())
    return model, *_process(config, device)


def load_model(root_dir, device):
    """From a run's folder if it is one, else as ``load_model_hf``."""
    run = os.path.exists(os.path.join(root_dir, ".hydra"))
    return (load_model_local if run else load_model_hf)(root_dir, device)


def _process(config, device):
    return graph_lib.get_graph(config, device), noise_lib.get_noise(config).to(device)
