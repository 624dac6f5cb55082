"""Values of SEDD's keys that cannot work in any host, refused before anything is loaded."""

import math

import torch
from omegaconf import DictConfig

from duo_ext import Refused, machine
from duo_ext.settings import COUNTS, check_model, check_optimizer, require_no_pairs
from duo_ext.values import (
    SEEDS,
    make_texts,
    make_whole,
    require_booleans,
    require_number,
    require_positive,
)

TRAINING = (
    *("training.batch_size", "training.accum", "training.n_iters", "training.log_freq"),
    *("training.eval_freq", "training.snapshot_freq", "training.snapshot_freq_for_preemption"),
)
ALWAYS = (
    *("model.length", "model.n_blocks", "model.n_heads", "model.hidden_size", "eval.batch_size"),
    *("eval.perplexity_batch_size", "sampling.steps", "sampling.samples"),
)
BOOLEANS = ("deterministic", "sampling.noise_removal", "sampling.renormalise")
BOOLEANS += ("training.snapshot_sampling", "model.scale_by_sigma")
TEXTS = ("checkpoint", "teacher", "data.train", "data.valid", "data.cache_dir", "data.tokenizer")
TEXTS += ("eval.judge", "sampling.prefix", "sampling.suffix")
PRECISIONS = ("32", "bf16")


def check(config: DictConfig) -> None:
    """Raise Refused that names the first key of a configuration whose value cannot work.

    Counts that are written as 4.0 or 4e3 become whole numbers in ``config``.
    """
    counts = (*COUNTS, *ALWAYS, *TRAINING, "training.micro_batch", "tokens", "optim.warmup")
    make_whole(config, counts)
    require_positive(config, ALWAYS)
    make_texts(config, TEXTS)
    require_booleans(config, BOOLEANS)
    require_number("training.ema", config.training.ema, most=1)
    require_positive(config, ("noise.sigma_min", "noise.sigma_max"))
    check_model(config)
    check_optimizer(config)
    require_number("seed", config.seed, most=SEEDS - 1, whole=True)
    if str(config.precision) not in PRECISIONS:
        raise Refused(f"precision is {config.precision}; it must be {' or '.join(PRECISIONS)}")
    if config.mode == "sample":
        require_no_pairs(config, "sedd_ext")
    if config.mode == "train":
        if config.training.micro_batch is not None:
            require_positive(config, ("training.micro_batch",))
        automatic = config.device == "auto" and not torch.cuda.is_available()
        machine.warn_of_bf16("cpu" if automatic else config.device, config.precision, "precision")
        require_positive(config, ("optim.lr", *TRAINING))
        for key in ("warmup", "grad_clip"):  # SEDD takes less than 0 for none
            require_number(f"optim.{key}", config.optim[key], -math.inf)
        if config.optim.grad_clip == 0 and config.algo.name == "sedd":
            raise Refused("optim.grad_clip is 0, to which SEDD clips all gradients; -1: no limit")
    elif config.checkpoint is None:
        raise Refused(f"checkpoint is null; mode={config.mode} needs one")
