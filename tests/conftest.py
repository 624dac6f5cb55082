"""A tiny world for the tests: a text, a model of a few thousand weights, the standalone host."""

import contextlib
import os

import hydra
import pytest
import torch

from duo_ext import checkpoints, corpus, host

TINY = (
    "data=text",
    "data.tokenizer_name_or_path=${idlm_asset:tokenizers/sotu32}",
    "model=sotu",
    "model.hidden_size=32",
    "model.cond_dim=16",
    "model.n_blocks=2",
    "model.n_heads=2",
    "model.length=16",
    "loader.global_batch_size=4",
    "lr_scheduler.num_warmup_steps=2",
    "trainer.precision=32",
    "trainer.limit_val_batches=2",
    "training.ema=0.9",
    "eval.gen_ppl_eval_model_name_or_path=none",
)


# For tests/upstream alone: everything else runs in the standalone tree, submodules or not.
CHECKOUTS = {
    "duo ch-1": ("DUO_ROOT", os.environ.pop("DUO_ROOT", None)),
    "duo main": ("DUO_MAIN_ROOT", os.environ.pop("DUO_MAIN_ROOT", None)),
}
os.environ["DUO_ROOT"] = str(host.STANDALONE)


@pytest.fixture(scope="session")
def checkouts():
    """{name of the host: (the variable that names a real checkout, its value or None)}."""
    return CHECKOUTS


@pytest.fixture(scope="session", autouse=True)
def standalone():
    """The standalone tree, active in this process as for a command."""
    torch.set_num_threads(1)
    tree = host.find(host.STANDALONE).activate()
    corpus.register_resolvers()
    return tree


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """A folder for data.train with a few thousand characters of the corpus' alphabet."""
    folder = tmp_path_factory.mktemp("text")
    line = "we the people of the united states, in order to form a more perfect union, "
    (folder / "train.txt").write_text("\n".join(line * 3 for _ in range(8)) + "\n")
    (folder / "validation.txt").write_text(line * 6 + "\n")
    return folder


@contextlib.contextmanager
def _composition(tree):
    with hydra.initialize_config_dir(str(tree.configs), version_base=None):
        yield


@pytest.fixture(scope="session")
def tiny(standalone, text_folder):
    """``tiny("algo=mdlm", ...)`` is a small configuration on the small text."""

    def compose(*overrides, base=TINY):
        data = [f"data.train={text_folder}", f"data.cache_dir={text_folder}/tokens"]
        with _composition(standalone):
            return hydra.compose("config", [*base, *data, *overrides])

    return compose


@pytest.fixture(scope="session")
def tokenizer(standalone, tiny):
    return standalone.module("dataloader").get_tokenizer(tiny())


@pytest.fixture
def teacher(standalone, tiny, tokenizer, tmp_path):
    """``teacher("mdlm")`` is the path of a checkpoint with random weights and their EMA."""

    def make(name, *overrides, seed=3):
        config = tiny(f"algo={name}", *overrides)
        torch.manual_seed(seed)
        model = standalone.module("main").ALGORITHMS[name](config, tokenizer)
        for parameter in model.backbone.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.ema.shadow_params = [p.detach() * 1.1 for p in model.backbone.parameters()]
        checkpoint = {
            "state_dict": model.state_dict(),
            "pytorch-lightning_version": "2.6.6",
            "global_step": 0,
            "epoch": 0,
            "loops": {},
        }
        model.on_save_checkpoint(checkpoint)
        path = tmp_path / f"{name}-{seed}.ckpt"
        torch.save(checkpoint, path)
        assert checkpoints.read(str(path), "path")
        return str(path)

    return make
