"""Values of Duo's keys that cannot work in any host, refused before anything is loaded."""

import omegaconf
import torch

POSITIVE = ("optim.lr", "sampling.steps", "trainer.max_steps", "loader.batch_size")


def choose(key, name, options):
    """options[name], or a ValueError that lists what ``key`` may be."""
    if name not in options:
        raise ValueError(f"{key} is '{name}'; it must be one of {', '.join(options)}")
    return options[name]


def check(config):
    """Raise a ValueError that names the first key whose value cannot work."""
    for key in POSITIVE:
        value = omegaconf.OmegaConf.select(config, key)
        if not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"{key} is {value}; it must be a positive number")
    nucleus = config.sampling.p_nucleus
    if not isinstance(nucleus, int | float) or not 0 < nucleus <= 1:
        raise ValueError(f"sampling.p_nucleus is {nucleus}; it must lie above 0, at most at 1")
    if config.trainer.accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "trainer.accelerator is 'cuda', but no GPU is visible; use trainer.accelerator=cpu"
        )
    if config.mode == "train":
        _check_batch(config.loader, config.trainer)


def _check_batch(loader, trainer):
    if not isinstance(trainer.devices, int):
        raise ValueError(f"trainer.devices is {trainer.devices}; it must be a number of devices")
    parts = trainer.devices * trainer.num_nodes * trainer.accumulate_grad_batches
    if loader.batch_size * parts != loader.global_batch_size:
        raise ValueError(
            f"loader.global_batch_size is {loader.global_batch_size}; it must be loader.batch_size "
            "x trainer.devices x trainer.num_nodes x trainer.accumulate_grad_batches = "
            f"{loader.batch_size * parts}"
        )
