"""The three modes from configuration to files: exact resumption, samples, likelihoods, refusals."""

import json
import math
import os
from unittest import mock

import lightning
import pytest
import torch
import transformers

from duo_ext import host
from duo_ext.data import corpus
from duo_ext.measuring import metrics
from duo_ext.measuring.judge import Judge
from duo_ext.weights import checkpoints

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling"),
]
QUIET = ("+trainer.enable_progress_bar=false", "+trainer.enable_model_summary=false")


@pytest.fixture(scope="session")
def main(standalone):
    return standalone.module("main")


@pytest.fixture
def configure(tiny, tmp_path, monkeypatch):
    """``configure("algo=mdlm", ..., run="a")`` is a configuration whose files go to a/."""
    monkeypatch.chdir(tmp_path)

    def make(*overrides, run="run"):
        return tiny(f"checkpointing.save_dir={tmp_path / run}", *QUIET, *overrides)

    return make


def last(run):
    return torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)


def state(checkpoint):
    """All numbers that training goes on from."""
    (optimizer,), (schedule,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    return {
        "weights": checkpoint["state_dict"],
        "average": checkpoint["ema"],
        "optimizer": optimizer["state"],
        "rate": schedule["_last_lr"],
        "step": checkpoint["global_step"],
    }


# training --------------------------------------------------------------------------------------

TRAINING = (
    "loader.global_batch_size=32",  # 4 updates an epoch
    "loader.batch_size=16",
    "trainer.val_check_interval=3",
    "model.dropout=0.1",
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=2",
    "algo.ignore_bos=true",
)
IN_CURRICULUM = ("algo.curriculum_start=2", "algo.curriculum_end=6")


@pytest.fixture
def steps_trained(main, monkeypatch):
    """``global_step`` at each micro-batch; training breaks off where ``steps_trained.end`` is."""
    trainer_base = main.algo.trainer_base
    real = trainer_base.TrainerBase.training_step

    class Steps(list):
        end = None

    def training_step(model, batch, batch_idx):
        if model.trainer.global_step == steps.end:
            raise InterruptedError
        steps.append(model.trainer.global_step)
        return real(model, batch, batch_idx)

    steps = Steps()
    monkeypatch.setattr(trainer_base.TrainerBase, "training_step", training_step)
    return steps


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize(
    ("overrides", "stop"),
    [
        (("algo=mdlm", "algo.loss_type=low_var"), 4),  # at the end of an epoch
        (("algo=duo", *IN_CURRICULUM), 3),  # at no step of every_n_train_steps
    ],
)
def test_a_resumed_training_is_the_straight_one(
    main, configure, steps_trained, overrides, stop, killed
):
    """Bit for bit in weights, average and optimizer, on a CPU."""

    def train(run, steps):
        host.active().run(configure(*overrides, *TRAINING, f"trainer.max_steps={steps}", run=run))
        return state(last(run))

    straight = train("straight", 8)
    if killed:
        stop, steps_trained.end = 4, 5
        with pytest.raises(InterruptedError):
            train("stopped", 8)
        steps_trained.end = None
    else:
        train("stopped", stop)
    stopped = state(last("stopped"))
    assert stopped["step"] == stop
    assert not torch.equal(*(s["average"]["shadow_params"][0] for s in (stopped, straight)))
    steps_trained.clear()
    torch.testing.assert_close(train("stopped", 8), straight, rtol=0, atol=0)
    assert steps_trained == [step for step in range(stop, 8) for micro_batch in range(2)]


def test_a_run_that_must_not_resume_starts_again(main, configure):
    def train(seed, run):
        again = "checkpointing.resume_from_ckpt=false"
        host.active().run(
            configure("algo=mdlm", "trainer.max_steps=1", f"seed={seed}", again, run=run)
        )
        return state(last(run))

    first, second = train(1, "a"), train(2, "a")
    torch.testing.assert_close(second, train(2, "b"), rtol=0, atol=0)
    assert not torch.equal(*(s["average"]["shadow_params"][0] for s in (first, second)))


def test_no_epoch_of_lightning_is_empty(main, configure, monkeypatch):
    epochs = []
    monkeypatch.setattr(
        main.algo.MDLM, "on_train_batch_end", lambda model, *_: epochs.append(model.current_epoch)
    )
    limits = ("trainer.max_steps=12", "+trainer.max_epochs=3", "trainer.limit_val_batches=0")
    host.active().run(configure("algo=mdlm", *TRAINING, *limits))
    assert epochs == [0] * 8 + [1] * 8 + [2] * 8


def test_fine_tuning_starts_from_weights_and_average(main, configure, teacher):
    path = teacher("duo_base")
    given = checkpoints.read(path, "path")
    setting = (f"training.finetune_path={path}", "optim.lr=1e-30", "trainer.max_steps=1")
    host.active().run(configure("algo=duo", *setting))
    tuned = last("run")
    torch.testing.assert_close(tuned["state_dict"], given["state_dict"], rtol=0, atol=0)
    raw = [tuned["state_dict"][f"backbone.{name}"] for name in trained_names(given)]
    for mean, before, weight in zip(
        tuned["ema"]["shadow_params"], given["ema"]["shadow_params"], raw, strict=True
    ):
        torch.testing.assert_close(mean, 2 / 11 * before + 9 / 11 * weight)


def trained_names(checkpoint):
    names = checkpoints.denoiser(checkpoint).weights
    return [name for name in names if name != "rotary_emb.inv_freq"]


def test_distillation_trains_beside_a_resting_teacher(main, configure, teacher):
    path = teacher("duo_base")
    setting = ("trainer.max_steps=3", "trainer.val_check_interval=2", "optim.lr=1e-2")
    model = host.active().run(
        configure("algo=distillation", "algo.T=4", f"training.finetune_path={path}", *setting)
    )
    assert not any(module.training for module in model.teacher.modules())
    given, saved = checkpoints.read(path, "path")["state_dict"], last("run")["state_dict"]
    taught = {f"backbone.{key}": value for key, value in model.teacher.state_dict().items()}
    torch.testing.assert_close(taught, given, rtol=0, atol=0)
    assert list(saved) == list(given)
    key = "backbone.output_layer.linear.weight"
    assert not torch.equal(saved[key], given[key])


def test_lightning_keeps_the_loader_of_a_process_group(main, configure, tokenizer, build):
    """It would replace a sampler that it does not know by its own, which cannot resume."""
    seen = []

    class Recorder(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(batch["input_ids"])

    config = configure("algo=mdlm")
    options = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    options |= {"enable_checkpointing": False, "limit_val_batches": 1, "callbacks": [Recorder()]}
    with mock.patch.dict(os.environ):
        trainer = lightning.Trainer(
            strategy="ddp", accelerator="cpu", devices=1, max_steps=2, **options
        )
        train, valid = main.dataloader.get_dataloaders(config, tokenizer)
        try:
            trainer.fit(main.algo.MDLM(config, tokenizer), train, valid)
        finally:
            torch.distributed.destroy_process_group()
    fresh, _ = main.dataloader.get_dataloaders(config, tokenizer)
    wanted = [batch["input_ids"] for batch, _ in zip(fresh, range(2), strict=False)]
    assert all(map(torch.equal, seen, wanted)) and len(seen) == 2


# evaluation ------------------------------------------------------------------------------------


@pytest.fixture
def judge(tokenizer, tmp_path):
    """The folder of a random GPT-2 with the model's own tokenizer."""
    folder = corpus.asset("tokenizers/sotu32")
    gpt2 = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=32, n_embd=8, n_layer=1, n_head=1,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(gpt2).save_pretrained(tmp_path / "judge")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "judge")
    return str(tmp_path / "judge")


@pytest.mark.parametrize("name", ["mdlm", "duo", "ar"])
def test_samples_are_scored_and_written(main, configure, teacher, judge, tokenizer, tmp_path, name):
    config = configure(
        f"algo={name}",
        "mode=sample_eval",
        f"eval.checkpoint_path={teacher(name)}",
        f"eval.gen_ppl_eval_model_name_or_path={judge}",
        "loader.eval_batch_size=3",
        "sampling.steps=2",
        "sampling.num_sample_batches=2",
    )
    result = host.active().run(config)
    assert json.loads((tmp_path / "samples.json").read_text()) == result
    texts = result["generated_seqs"]
    assert [len(text) for text in texts] == [16] * 6  # a token is a character
    nll, count = Judge(judge, "cpu").nll(texts)
    assert result["generative_ppl"] == pytest.approx(math.exp(nll.sum() / count.sum()), rel=1e-5)
    tokens = torch.tensor(tokenizer(texts).input_ids)
    assert result["entropy"] == pytest.approx(metrics.sample_entropy(tokens), rel=1e-5)
    assert host.active().run(config) == result  # by the seed


def test_a_judge_that_cannot_judge_is_found_before_a_sample(main, configure, teacher, monkeypatch):
    monkeypatch.setattr(main.algo.MDLM, "generate_samples", pytest.fail)
    path = teacher("mdlm")
    config = configure("algo=mdlm", "mode=sample_eval", f"eval.checkpoint_path={path}")
    with pytest.raises(ValueError, match=r"^eval.gen_ppl_eval_model_name_or_path is 'none'; it"):
        host.active().run(config)


@pytest.mark.parametrize("disable_ema", ["false", "true"])
def test_the_likelihood_is_that_of_the_average(main, configure, teacher, tokenizer, disable_ema):
    path = teacher("ar")
    limit = "trainer.limit_val_batches=1.0"
    settings = (f"eval.checkpoint_path={path}", f"eval.disable_ema={disable_ema}", limit)
    config = configure("algo=ar", "mode=ppl_eval", *settings)
    (result,) = host.active().run(config)

    network = main.algo.AR(config, tokenizer).backbone.eval()
    saved = checkpoints.denoiser(checkpoints.read(path, "path"))
    checkpoints.load(network, saved, average=disable_ema == "false")
    _, valid = main.dataloader.get_dataloaders(config, tokenizer, skip_train=True)
    tokens = torch.stack([block["input_ids"] for block in valid.dataset])
    logits = network(tokens[:, :-1])
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    wanted = {"val/nll": nats, "val/bpd": nats / math.log(2), "val/ppl": math.exp(nats)}
    assert result == pytest.approx(wanted, rel=1e-5)


# refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("mode=fly", "mode is 'fly'; it must be one of train, sample_eval, ppl_eval"),
        ("algo.name=gan", "algo.name is 'gan'; it must be one of ar, mdlm, sedd, duo_base, duo"),
        ("training.finetune_path=no.ckpt", "training.finetune_path is 'no.ckpt'; it"),
    ],
)
def test_a_value_that_cannot_work_is_refused_in_a_sentence(main, configure, override, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        host.active().run(configure("trainer.max_steps=1", override))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["sample_eval", "ppl_eval"])
@pytest.mark.parametrize("path", ["", "no.ckpt"])
def test_evaluation_asks_for_its_checkpoint(main, configure, mode, path):
    with pytest.raises(ValueError, match=f"eval.checkpoint_path is '{path}'; it"):
        host.active().run(configure(f"mode={mode}", f"eval.checkpoint_path='{path}'"))
