"""What a host computes, for comparison with other hosts: ``contract.py HOST WORK OUTPUT``.

WORK holds the text and the weights that every host is given. Each host runs in a process of its
own, because the modules of two cannot be loaded in one.
"""

import argparse
import os
from pathlib import Path

import hydra
import torch

import duo_ext
from duo_ext import host
from duo_ext.weights import checkpoints

SETTINGS = (
    "data=sotu",
    "model=sotu",
    "model.hidden_size=32",
    "model.cond_dim=16",
    "model.n_blocks=2",
    "model.n_heads=2",
    "model.length=16",
    "loader.global_batch_size=8",
    "loader.eval_global_batch_size=8",
    "loader.num_workers=1",
    "loader.pin_memory=false",
    "lr_scheduler.num_warmup_steps=2",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.precision=32",
    "trainer.max_steps=5",
    "training.ema=0.9",
    "optim.lr=1e-3",
    "++wandb=null",
    "eval.gen_ppl_eval_model_name_or_path=${idlm_asset:judge}",
)
ALGORITHMS = {
    "mdlm": ("sampling.predictor=ancestral_cache",),
    "duo_base": (),
    "sedd": ("sampling.predictor=analytic",),
}
DISTILLATIONS = {
    "idlm_mdlm": ("mdlm", "algo=idlm_mdlm", "algo.on_policy=0.5"),
    "idlm categorical": ("duo_base", "algo=idlm"),
    "idlm posterior": ("duo_base", "algo=idlm", "algo.posterior=true"),
    "idlm gaussian": ("duo_base", "algo=idlm", "algo.noising=gaussian"),
}
VALIDATED = ("trainer.limit_val_batches=1", "trainer.val_check_interval=1")


def compose(work, *overrides):
    data = (f"data.train={work}/text", f"data.cache_dir={work}/tokens")
    return host.active().compose([*SETTINGS, *data, *overrides])


def model_of(work, name, *overrides):
    """The host's algorithm with the given weights."""
    config = compose(work, f"algo={name}", *ALGORITHMS[name], *overrides)
    algo = host.active().module("algo")
    cls = {"mdlm": algo.MDLM, "duo_base": algo.DUO_BASE, "sedd": algo.SEDDAbsorb}[name]
    model = cls(config, host.active().module("dataloader").get_tokenizer(config))
    saved = checkpoints.denoiser(checkpoints.read(f"{work}/{name}.ckpt", "given"))
    checkpoints.load(model.backbone, saved, average=False)
    model.ema = None
    return model.eval()


def logits(model, tokens_BL):
    """Of the denoiser on tokens and on soft tokens."""
    sigma_B = torch.linspace(0.1, 3, len(tokens_BL))
    soft_BLV = torch.nn.functional.one_hot(tokens_BL, model.vocab_size) * 2.0
    with torch.no_grad():
        return [model.backbone(tokens_BL, sigma_B), model.backbone(soft_BLV, sigma_B)]


def nll(model, tokens_BL):
    """What validation logs of one batch."""
    torch.manual_seed(7)
    model.metrics.reset()
    with torch.no_grad():
        model.validation_step(
            {"input_ids": tokens_BL, "attention_mask": torch.ones_like(tokens_BL)}, 0
        )
    return model.metrics.valid_nlls["val/nll"].compute()


def samples(work, name, *overrides):
    model = model_of(work, name, *overrides)
    torch.manual_seed(7)
    return model.generate_samples(num_samples=8, num_steps=6)


def distil(work, name, teacher, *overrides):
    """(losses of the updates, the average student's weights) of five pairs."""
    from duo_ext.core import distiller

    folder = Path(work, "runs", f"{host.active().name} {name}".replace(" ", "-"))
    folder.mkdir(parents=True)
    config = compose(
        work,
        f"algo.teacher_path={work}/{teacher}.ckpt",
        "algo.fake_warmup=2",
        "algo.fake_lr=3e-3",
        f"checkpointing.save_dir={folder}",
        *overrides,
    )
    losses, step = [], distiller.Distiller.step

    def watched(self, x0_BL, given_BL):
        update = step(self, x0_BL, given_BL)
        losses.extend(update.losses.values())
        return update

    distiller.Distiller.step = watched
    os.chdir(folder)
    host.active().run(config, hydra.utils.get_class(duo_ext.ALGORITHMS[config.algo.name]))
    distiller.Distiller.step = step
    student = checkpoints.denoiser(checkpoints.read(f"{folder}/checkpoints/last.ckpt", "last"))
    return torch.tensor(losses), student.average


def validated(work):
    """(losses, how far the weights that are validated lie from the average, from the raw ones) of a
    distillation with a validation after every micro-batch."""

    base = host.active().module("trainer_base").TrainerBase
    validation_step, seen = base.validation_step, []

    def watched(self, batch, batch_idx):
        seen.append(
            [
                max(
                    (p - w).abs().max()
                    for p, w in zip(self.backbone.parameters(), wanted, strict=True)
                )
                for wanted in (self.ema.shadow_params, self.ema.collected_params)
            ]
        )
        return validation_step(self, batch, batch_idx)

    base.validation_step = watched
    teacher, *overrides = DISTILLATIONS["idlm categorical"]
    losses, _ = distil(work, "validated", teacher, *overrides, *VALIDATED)
    base.validation_step = validation_step
    return losses, *torch.tensor(seen).unbind(1)


def contract(work):
    tokens_BL = torch.randint(0, 30, (8, 16), generator=torch.Generator().manual_seed(5))
    greedy, float32 = "sampling.noise_removal=greedy", "sampling.use_float64=false"
    found = {}
    for name in ALGORITHMS:
        model = model_of(work, name)
        found[f"logits {name}"] = logits(model, tokens_BL)
        found[f"nll {name}"] = nll(model, tokens_BL)
        found[f"samples {name} ancestral"] = samples(work, name)
    for name in ("mdlm", "duo_base"):
        found[f"samples {name} greedy"] = samples(work, name, greedy)
    if host.active().name != "duo main":  # it refuses float32 where tokens are masked
        found["samples mdlm ancestral in float32"] = samples(work, "mdlm", float32)
        found["samples mdlm greedy in float32"] = samples(work, "mdlm", greedy, float32)
    if host.active().name != "duo ch-1":  # it takes the nucleus of another distribution
        nucleus = "sampling.p_nucleus=0.8"
        found["samples duo_base nucleus"] = samples(work, "duo_base", nucleus)
        found["samples mdlm nucleus"] = samples(work, "mdlm", nucleus)
    for name, (teacher, *overrides) in DISTILLATIONS.items():
        found[f"distil {name}"] = distil(work, name, teacher, *overrides)
    found["validated"] = validated(work)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("work")
    parser.add_argument("output")
    options = parser.parse_args()
    torch.set_num_threads(1)
    host.find(options.host).activate()
    torch.save(contract(options.work), options.output)
