"""duo_ext.settings: values that cannot work in any host, each refused in a sentence."""

import omegaconf
import pytest
import torch

from duo_ext import host, settings, values

CONFIG = {
    "mode": "train",
    "seed": 1,
    "optim": {"lr": 3e-4},
    "sampling": {"steps": 8, "p_nucleus": 1.0},
    "loader": {"batch_size": 2, "global_batch_size": 8},
    "trainer": {
        "max_steps": 10, "accelerator": "cpu", "precision": 32,
        "devices": 2, "num_nodes": 1, "accumulate_grad_batches": 2,
    },
}  # fmt: skip


def config_of(*changes):
    changed = omegaconf.OmegaConf.from_dotlist(list(changes))
    return omegaconf.OmegaConf.merge(CONFIG, changed)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


REFUSED = {
    "optim.lr=-1e-3": "optim.lr is -0.001; it must be a positive number",
    "optim.lr=fast": "optim.lr is fast; it must be a positive number",
    "optim.lr=nan": "optim.lr is nan; it must be a positive number",
    "optim.lr=null": "optim.lr is None; it must be a positive number",
    "training.ema=-1": "training.ema is -1; it must be a number, at least 0",
    "trainer.gradient_clip_val=-1": "trainer.gradient_clip_val is -1; it must be a number, .* 0",
    "lr_scheduler.num_warmup_steps=few": "lr_scheduler.num_warmup_steps is few; it must be .* 0",
    "seed=-1": "seed is -1; it must be a whole number, at least 0, at most 4294967295",
    "seed=null": "seed is None; it must be a whole number, at least 0, at most 4294967295",
    "eval.perplexity_batch_size=-3": "eval.perplexity_batch_size is -3; it must be .* 1",
    "loader.eval_batch_size=0": "loader.eval_batch_size is 0; it must be a number, at least 1",
    "model.n_heads=0": "model.n_heads is 0; it must be a number, at least 1",
    "trainer.accumulate_grad_batches=null": "trainer.accumulate_grad_batches is None; .* 1",
    "optim.beta2=1": "optim.beta2 is 1; it must be below 1",
    "optim.eps=-1": "optim.eps is -1; it must be a number, at least 0",
    "optim.weight_decay=-0.1": "optim.weight_decay is -0.1; it must be a number, at least 0",
    "optim=null": "optim.lr is None; it must be a positive number",
    "sampling.steps=4.5": "sampling.steps is 4.5; it must be a whole number",
    "algo.guard.steps=[4,8.5]": "algo.guard.steps is 8.5; it must be a whole number",
    "trainer.max_steps=.inf": "trainer.max_steps is inf; it must be a whole number",
    "trainer.gradient_clip_algorithm=both": "trainer.gradient_clip_algorithm is 'both'; .* value",
    "model.dropout=1": "model.dropout is 1; it must be a number from 0 to below 1",
    "sampling.steps=0": "sampling.steps is 0; it must be a positive number",
    "trainer.max_steps=0": "trainer.max_steps is 0; it must be a positive number",
    "loader.batch_size=0": "loader.batch_size is 0; it must be a positive number",
    "sampling.p_nucleus=0": "sampling.p_nucleus is 0; it must lie above 0, at most at 1",
    "sampling.p_nucleus=1.5": "sampling.p_nucleus is 1.5; it must lie above 0, at most at 1",
    "sampling.p_nucleus=most": "sampling.p_nucleus is most; it must lie above 0, at most at 1",
    "sampling.p_nucleus=null": "sampling.p_nucleus is None; it must lie above 0, at most at 1",
    "loader.global_batch_size=6": "loader.global_batch_size is 6; it must be loader.batch_size x "
    "trainer.devices x trainer.num_nodes x trainer.accumulate_grad_batches = 8",
    "loader.batch_size=3": "loader.global_batch_size is 8; it must be .* = 12",
    "trainer.devices=1": "loader.global_batch_size is 8; it must be .* = 4",
    "trainer.num_nodes=3": "loader.global_batch_size is 8; it must be .* = 24",
    "trainer.accumulate_grad_batches=1": "loader.global_batch_size is 8; it must be .* = 4",
    "trainer.accelerator=cuda": "trainer.accelerator is 'cuda', but no GPU is visible; use "
    r"\+machine=cpu",
}


@pytest.mark.parametrize("change", REFUSED)
def test_a_value_that_cannot_work_is_refused_in_a_sentence(change):
    with pytest.raises(ValueError, match=f"^{REFUSED[change]}$"):
        settings.check(config_of(change))


def test_what_can_work_passes(monkeypatch):
    settings.check(config_of())
    settings.check(config_of("sampling.p_nucleus=0.1", "optim.lr=1", "loader.batch_size=2"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    settings.check(config_of("trainer.accelerator=cuda"))


@pytest.mark.parametrize("mode", ["sample_eval", "ppl_eval"])
def test_the_batch_of_the_training_is_of_no_concern_to_an_evaluation(mode):
    settings.check(config_of(f"mode={mode}", "loader.global_batch_size=3"))
    with pytest.raises(ValueError, match=r"optim.lr is 0"):
        settings.check(config_of(f"mode={mode}", "optim.lr=0"))


def test_a_choice_is_one_of_the_options():
    assert values.choose("algo.process", "b", {"a": 1, "b": 2}) == 2
    with pytest.raises(ValueError, match=r"^algo.process is 'c'; it must be one of a, b$"):
        values.choose("algo.process", "c", {"a": 1, "b": 2})


@pytest.mark.parametrize("algorithm", [None, pytest.fail], ids=["the host's", "ours"])
@pytest.mark.parametrize("setting", ["optim.lr=-1", "mode=fly"])
def test_a_host_refuses_before_it_loads_anything(tiny, standalone, monkeypatch, setting, algorithm):
    monkeypatch.setattr(standalone.module("dataloader"), "get_tokenizer", pytest.fail)
    with pytest.raises(ValueError, match=f"{setting.partition('=')[0]} is '?{setting[-1:]}?"):
        host.active().run(tiny("algo=mdlm", setting), algorithm)


def test_a_choice_outside_the_list_names_the_key_and_the_list():
    assert values.choose("mode", "train", {"train": 1, "sample": 2}) == 1
    with pytest.raises(ValueError, match="mode is 'fly'; it must be one of train, sample"):
        values.choose("mode", "fly", {"train": 1, "sample": 2})


def test_a_whole_number_may_be_written_with_a_point():
    config = config_of(
        "sampling.steps=4.0", "trainer.max_steps=1e1", "loader.global_batch_size=8.0",
        "algo.guard.steps=[4.0,8]", "optim.lr=1.0",
    )  # fmt: skip
    settings.check(config)
    found = (config.sampling.steps, config.trainer.max_steps, config.loader.global_batch_size)
    for value, wanted in zip((*found, *config.algo.guard.steps), (4, 10, 8, 4, 8), strict=True):
        assert type(value) is int and value == wanted
    assert type(config.optim.lr) is float
