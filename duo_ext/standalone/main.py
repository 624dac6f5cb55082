"""The three modes of Duo's command line: train, sample_eval, ppl_eval.

``main`` is called with a composed configuration by duo_ext's own command line, which calls the
modes themselves for the registered algorithms that this tree does not know.
"""

import json
import os

import algo
import dataloader
import hydra
import lightning
import omegaconf

from duo_ext import files
from duo_ext.values import require
from duo_ext.weights import checkpoints

ALGORITHMS = {
    "ar": algo.AR,
    "mdlm": algo.MDLM,
    "sedd": algo.SEDDAbsorb,
    "duo_base": algo.DUO_BASE,
    "duo": algo.DUO,
    "distillation": algo.Distillation,
    "sdtt": algo.SDTT,
}

RESOLVERS = {
    "cwd": os.getcwd,
    "div_up": lambda a, b: -(-a // b),
    "mul": lambda a, b: a * b,
    "minus": lambda a, b: a - b,
}
for _name, _resolver in RESOLVERS.items():
    omegaconf.OmegaConf.register_new_resolver(_name, _resolver, replace=True)


def _load(diffusion_model, config, tokenizer, key):
    """A model from the checkpoint that ``key`` names, its EMA included."""
    path, trust = omegaconf.OmegaConf.select(config, key), checkpoints.trusted(config)
    checkpoints.read(path, key, trust)
    return diffusion_model.load_from_checkpoint(
        path, tokenizer=tokenizer, config=config, map_location="cpu", weights_only=not trust
    )


def _load_from_checkpoint(diffusion_model, config, tokenizer):
    model = _load(diffusion_model, config, tokenizer, "eval.checkpoint_path")
    if config.eval.disable_ema:
        model.ema = None
    return model.to("cuda" if config.trainer.accelerator == "cuda" else "cpu")


def _generate_samples(diffusion_model, config, logger, tokenizer):
    """Sample ``num_sample_batches`` batches, score them, write eval.generated_samples_path."""
    model = _load_from_checkpoint(diffusion_model, config, tokenizer)
    model.metrics.load_judge(model.device)
    texts, sampling = [], config.sampling
    for _ in range(sampling.num_sample_batches):
        samples = model.restore_model_and_sample(num_steps=sampling.steps)
        model.metrics.record_entropy(samples)
        texts += tokenizer.batch_decode(samples)
    model.metrics.record_generative_perplexity(texts, config.model.length, device=model.device)
    result = {
        "generative_ppl": model.metrics.gen_ppl.compute().exp().item(),
        "entropy": model.metrics.sample_entropy.compute().item(),
        "generated_seqs": texts,
    }
    print(f"GenPPL {result['generative_ppl']:.3f}  entropy {result['entropy']:.4f}")
    files.write_whole(config.eval.generated_samples_path, json.dumps(result, indent=1).encode())
    return result


def _eval_ppl(diffusion_model, config, logger, tokenizer):
    """The likelihood bound on the validation data."""
    model = _load_from_checkpoint(diffusion_model, config, tokenizer)
    trainer = _trainer(config, callbacks=[])
    _, valid = dataloader.get_dataloaders(
        config, tokenizer, skip_train=True, valid_seed=config.seed
    )
    return trainer.validate(model, valid)


def _train(diffusion_model, config, logger, tokenizer):
    """Train from scratch, from training.finetune_path, or from the run's last checkpoint."""
    resume = config.checkpointing.resume_ckpt_path
    if not (config.checkpointing.resume_from_ckpt and resume and files.exists(resume)):
        resume = None
    if resume:
        checkpoints.read(resume, "checkpointing.resume_ckpt_path", checkpoints.trusted(config))
    callbacks = [hydra.utils.instantiate(c) for c in config.get("callbacks", {}).values()]
    trainer = _trainer(config, callbacks)
    train, valid = dataloader.get_dataloaders(config, tokenizer)
    if config.training.finetune_path:
        model = _load(diffusion_model, config, tokenizer, "training.finetune_path")
    else:
        model = diffusion_model(config, tokenizer=tokenizer)
    trainer.fit(model, train, valid, ckpt_path=resume, weights_only=not checkpoints.trusted(config))
    return model


def _trainer(config, callbacks):
    one_device = config.trainer.devices * config.trainer.num_nodes == 1
    return hydra.utils.instantiate(
        config.trainer,
        default_root_dir=os.getcwd(),
        callbacks=callbacks,
        strategy="auto" if one_device else hydra.utils.instantiate(config.strategy),
    )


MODES = {"train": _train, "sample_eval": _generate_samples, "ppl_eval": _eval_ppl}


def main(config):
    """Run ``config.mode`` with the algorithm that ``algo.name`` names."""
    require("algo.name", config.algo.name, ALGORITHMS)
    lightning.seed_everything(config.seed, verbose=False)
    return MODES[config.mode](
        diffusion_model=ALGORITHMS[config.algo.name],
        config=config,
        logger=None,
        tokenizer=dataloader.get_tokenizer(config),
    )
