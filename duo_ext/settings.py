"""Values of Duo's keys that cannot work in any host, refused before anything is loaded."""

from collections.abc import Iterable

import omegaconf
import torch
from omegaconf import DictConfig

from duo_ext import Refused, machine
from duo_ext.core import adapters, rollout, samplers
from duo_ext.core.precision import PRECISIONS
from duo_ext.core.samplers import grids
from duo_ext.values import (
    SEEDS,
    make_texts,
    make_whole,
    require,
    require_booleans,
    require_counts,
    require_number,
    require_positive,
    require_positive_or_null,
)

POSITIVE = ("optim.lr", "sampling.steps", "trainer.max_steps", "loader.batch_size")
# The settings of loss and updates, which no run changes when it goes on.
LASTING = ("process", "noising", "gamma_min", "gamma_max", "tau", "posterior", "on_policy")
LASTING += ("prompt_length", "rollout_steps", "rollout_target", "sampler", "grid", "infill")
LASTING += ("fake_ratio", "fake_warmup", "fake_lr", "shared_forward", "precision", "adapter")
LASTING = tuple(f"algo.{key}" for key in LASTING)
HEADS = ("hidden_size", "n_heads")
# Keys whose values are whole numbers. The global batch comes first: others are computed from it.
ALGO = ("fake_ratio", "fake_warmup", "prompt_length", "guard.every", "guard.steps")
ALGO += ("adapter.rank", "rollout_steps", "guard.samples", "guard.teacher_steps", "guard.patience")
MODEL = ("length", "hidden_size", "cond_dim", "n_blocks", "n_heads")
COUNTS = ("seed", *(f"algo.{key}" for key in ALGO), *(f"model.{key}" for key in MODEL))
COUNTS += ("sampling.steps", "eval.perplexity_batch_size")
OF_DUO = ("loader.global_batch_size", "loader.batch_size", "loader.eval_global_batch_size")
OF_DUO += ("loader.eval_batch_size", "loader.num_workers", "sampling.num_sample_batches")
OF_DUO += ("trainer.max_steps", "trainer.accumulate_grad_batches", "lr_scheduler.num_warmup_steps")
PROCESSES = ("trainer.devices", "trainer.num_nodes")
NOT_NEGATIVE = ("training.ema", "trainer.gradient_clip_val", "lr_scheduler.num_warmup_steps")
NOT_NEGATIVE += ("loader.num_workers",)
AT_LEAST_1 = ("eval.perplexity_batch_size", "loader.eval_batch_size")
AT_LEAST_1 += ("sampling.num_sample_batches",)
AT_LEAST_1 += tuple(f"model.{key}" for key in MODEL)
BOOLEANS = ("algo.time_conditioning", "algo.teacher_ema", "data.wrap")
BOOLEANS += ("data.insert_train_eos", "data.insert_valid_eos", "eval.disable_ema")
BOOLEANS += ("eval.generate_samples", "eval.compute_generative_perplexity")
BOOLEANS += ("sampling.use_float64", "training.antithetic_sampling", "algo.trust_checkpoint")
BOOLEANS += ("checkpointing.resume_from_ckpt", "model.scale_by_sigma")
PATHS = ("algo.teacher_path", "checkpointing.resume_ckpt_path", "eval.checkpoint_path")
PATHS += ("eval.generated_samples_path", "eval.gen_ppl_eval_model_name_or_path")
PATHS += ("data.train", "data.valid", "data.cache_dir", "data.tokenizer_name_or_path")


def check_model(config: DictConfig) -> None:
    """Raise Refused if the width of a network is no multiple of its heads, or its dropout no
    probability."""
    width, heads = (omegaconf.OmegaConf.select(config, f"model.{key}") for key in HEADS)
    if width is not None and heads and width % heads:
        raise Refused(
            f"model.hidden_size is {width}; it must be a multiple of model.n_heads {heads}"
        )
    dropout = omegaconf.OmegaConf.select(config, "model.dropout")
    if dropout is not None and not (isinstance(dropout, int | float) and 0 <= dropout < 1):
        raise Refused(f"model.dropout is {dropout}; it must be a number from 0 to below 1")


def check_optimizer(config: DictConfig) -> None:
    """Raise Refused for values of ``optim.*`` that AdamW does not take."""
    for key in ("beta1", "beta2", "eps", "weight_decay"):
        value = omegaconf.OmegaConf.select(config, f"optim.{key}")
        if value is not None:
            require_number(f"optim.{key}", value)
            if key.startswith("beta") and value >= 1:
                raise Refused(f"optim.{key} is {value}; it must be below 1")


def require_no_pairs(config: DictConfig, package: str) -> None:
    """Raise Refused for data of pairs, whose prompts a host's own sampling does not give; those of
    ``package`` do."""
    if omegaconf.OmegaConf.select(config, "data.pairs"):
        raise Refused(
            f"mode is {config.mode}, which gives no prompts of data.pairs; "
            f"python -m {package}.evaluate and {package}.generate do"
        )


def check(config: DictConfig) -> None:
    """Raise Refused that names the first key whose value cannot work."""
    make_whole(config, PROCESSES)
    for key in PROCESSES:  # first: the batch is computed from them
        require_number(key, omegaconf.OmegaConf.select(config, key), 1, whole=True)
    make_whole(config, (*OF_DUO, *COUNTS))
    require_number("seed", config.seed, most=SEEDS - 1, whole=True)
    require_positive(config, POSITIVE)
    for keys, least in ((NOT_NEGATIVE, 0), (AT_LEAST_1, 1)):
        for key in keys:
            value = omegaconf.OmegaConf.select(config, key)
            if value is not None:
                require_number(key, value, least)
    make_texts(config, PATHS)
    require_booleans(config, BOOLEANS)
    check_model(config)
    check_optimizer(config)
    nucleus = config.sampling.p_nucleus
    if not isinstance(nucleus, int | float) or not 0 < nucleus <= 1:
        raise Refused(f"sampling.p_nucleus is {nucleus}; it must lie above 0, at most at 1")
    # by any other name Duo samples on the CPU
    require("trainer.accelerator", config.trainer.accelerator, ("cpu", "cuda"))
    if config.trainer.accelerator == "cuda" and not torch.cuda.is_available():
        raise Refused("trainer.accelerator is 'cuda', but no GPU is visible; use +machine=cpu")
    clip_by = config.trainer.get("gradient_clip_algorithm") or "norm"
    require("trainer.gradient_clip_algorithm", clip_by, ("norm", "value"))
    own = omegaconf.OmegaConf.select(config, "algo.precision") is not None  # a distillation's
    modality = omegaconf.OmegaConf.select(config, "data.modality") or "text"
    if own and modality != "text":
        raise Refused(f"data.modality is '{modality}'; a distillation takes text")
    if config.mode == "sample_eval":
        require_no_pairs(config, "duo_ext")
    if config.mode in ("train", "ppl_eval"):
        key = "algo.precision" if own else "trainer.precision"
        precision = str(omegaconf.OmegaConf.select(config, key))
        machine.warn_of_bf16(config.trainer.accelerator, precision, key)
    if config.mode == "train":
        _check_batch(config.loader, config.trainer)


def _check_batch(loader, trainer):
    accumulated = trainer.accumulate_grad_batches
    require_number("trainer.accumulate_grad_batches", accumulated, 1, whole=True)
    parts = trainer.devices * trainer.num_nodes * accumulated
    if loader.batch_size * parts != loader.global_batch_size:
        raise Refused(
            f"loader.global_batch_size is {loader.global_batch_size}; it must be loader.batch_size "
            "x trainer.devices x trainer.num_nodes x trainer.accumulate_grad_batches = "
            f"{loader.batch_size * parts}"
        )


def check_idlm(settings: DictConfig, length: int) -> None:
    """Raise Refused that names the first value of ``algo.*`` that no distillation can have.

    ``length`` is model.length.
    """
    for key in ("guard", "adapter"):
        if not omegaconf.OmegaConf.is_dict(settings[key]):
            raise Refused(f"algo.{key} is {settings[key]}; it must be a section of settings")
    for key, least in {"fake_ratio": 1, "fake_warmup": 0, "prompt_length": 0}.items():
        require_number(f"algo.{key}", settings[key], least, whole=True)
    if settings.prompt_length >= length:
        raise Refused(
            f"algo.prompt_length is {settings.prompt_length}; "
            f"it must be less than model.length {length}"
        )
    require_positive_or_null("algo.fake_lr", settings.fake_lr, "optim.lr")
    for key in ("on_policy", "infill"):
        require_number(f"algo.{key}", settings[key], most=1)
    require_counts("algo.rollout_steps", settings.rollout_steps)
    require("algo.rollout_target", settings.rollout_target, rollout.TARGETS)
    _check_guard(settings.guard)
    _check_sampler(settings)
    for key in ("shared_forward", "recompute_blocks", "compile"):
        require(f"algo.{key}", settings[key], (True, False))
    require("algo.precision", settings.precision, PRECISIONS)
    _check_adapter(settings.adapter)


def _check_adapter(adapter):
    """Raise Refused for values of ``algo.adapter`` that no network can have, or without peft."""
    key = "algo.adapter"
    if type(adapter.rank) is not int or adapter.rank < 0:
        raise Refused(
            f"{key}.rank is {adapter.rank}; it must be a whole number, 0 for full networks"
        )
    require_positive_or_null(f"{key}.alpha", adapter.alpha, "the rank")
    for name, least in (("targets", 1), ("whole", 0)):
        patterns = adapter[name]
        listed = omegaconf.OmegaConf.is_list(patterns) and len(patterns) >= least
        if not listed or not all(isinstance(pattern, str) for pattern in patterns):
            raise Refused(f"{key}.{name} is {patterns}; it must be a list of patterns of names")
    require(f"{key}.frozen", adapter.frozen, adapters.FROZEN)
    if adapter.rank:
        adapters.library()


def _check_sampler(settings):
    """Raise Refused where ``algo.sampler`` or ``algo.grid`` is none, or the grid has not the times
    that are asked of it."""
    asked = [*(settings.guard.steps if settings.guard.every else ())]
    asked += [steps - 1 for steps in settings.rollout_steps] if settings.on_policy else []
    for key in ("sampler", "grid"):
        if not isinstance(settings[key], str):
            raise Refused(f"algo.{key} is {settings[key]}; it must be a name, or times in quotes")
    try:
        samplers.find(settings.sampler)
    except Refused as error:
        raise Refused(f"algo.sampler: {error}") from error
    try:
        for steps in asked or [None]:
            grids.times(settings.grid, steps)
    except Refused as error:
        raise Refused(f"algo.grid: {error}") from error


def inputs(settings: DictConfig) -> dict:
    """How the student's inputs are drawn: arguments of the core's processes.

    ``settings`` are the section ``algo``. The inputs are as the sampler ``algo.sampler`` meets them
    at the times of ``algo.grid``.
    """
    return {
        "on_policy": settings.on_policy,
        "rollout_steps": tuple(settings.rollout_steps),
        "rollout_grid": "linear" if settings.grid == "host" else settings.grid,
        "rollout_target": settings.rollout_target,
        "order": samplers.order(settings.sampler),
    }


def require_whole(precision: str | int) -> None:
    """Raise Refused for a trainer.precision that scales gradients or changes weights.

    The fake's optimizer would step with the scaled gradients. How the networks run is said by
    algo.precision.
    """
    if precision is not None and str(precision) not in ("32", "32-true", "bf16", "bf16-mixed"):
        raise Refused(
            f"trainer.precision is {precision}; a distillation takes 32 or bf16, by which no "
            "gradient is scaled and no weight changed; algo.precision says how its networks run"
        )


def chosen(config: DictConfig, keys: Iterable[str]) -> dict:
    """{dotted key: plain value} of ``keys`` in a configuration; None for a key that it lacks.

    A key of a section stands for all keys of that section.
    """
    found = {}
    for key in keys:
        value = omegaconf.OmegaConf.select(config, key)
        if omegaconf.OmegaConf.is_dict(value):
            found |= chosen(config, [f"{key}.{name}" for name in value])
        else:
            found[key] = list(value) if omegaconf.OmegaConf.is_list(value) else value
    return found


def _check_guard(guard):
    require_number("algo.guard.every", guard.every, whole=True)
    for key in ("samples", "teacher_steps", "patience"):
        require_number(f"algo.guard.{key}", guard[key], 1, whole=True)
    for key in ("entropy", "unigram_kl", "word_length"):
        require_number(f"algo.guard.{key}", guard[key])
    require_counts("algo.guard.steps", guard.steps)
