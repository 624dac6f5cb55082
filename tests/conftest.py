"""A tiny world for the tests: a text, a model of a few thousand weights, the standalone host."""

import os
from pathlib import Path

# What the tests need of the surroundings, before the imports that read it, and for the commands
# that tests start: no network, this checkout whatever is installed, sentences and no tracebacks,
# one thread each.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")))
)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # Lightning would choose; a fork hangs in a pool of threads
os.environ.pop("HYDRA_FULL_ERROR", None)

import contextlib
import re
import socket
import subprocess
import sys

import hydra
import pytest
import torch

from duo_ext import host
from duo_ext.core.networks import Denoiser
from duo_ext.data import corpus
from duo_ext.measuring.subject import Setting
from duo_ext.weights import checkpoints
from sedd_ext import host as sedd_host
from sedd_ext import runs

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
SEDD_TINY = (
    "data=sotu",
    "model=sotu",
    "model.hidden_size=32",
    "model.cond_dim=16",
    "model.n_blocks=2",
    "model.n_heads=2",
    "model.length=16",
    "model.dropout=0.1",
    "tokens=32",
    "training.batch_size=4",
    "training.accum=2",
    "training.n_iters=4",
    "training.log_freq=1",
    "training.ema=0.5",
    "optim.lr=1e-2",
    "optim.warmup=2",
    "eval.batch_size=8",
    "eval.judge=${idlm_asset:judge}",
)


# For tests/upstream alone: everything else runs in the standalone tree, submodules or not.
def _checkout(variable):
    """(the variable, what the user said by it): in the processes that pytest-xdist starts, which
    inherit our own values, too."""
    return variable, os.environ.setdefault(f"CHECKOUT_{variable}", os.environ.pop(variable, ""))


CHECKOUTS = {
    "duo ch-1": _checkout("DUO_ROOT"),
    "duo main": _checkout("DUO_MAIN_ROOT"),
    "sedd": _checkout("SEDD_ROOT"),
}
os.environ["DUO_ROOT"] = str(host.STANDALONE)
os.environ["SEDD_ROOT"] = str(sedd_host.STANDALONE)


@pytest.fixture(scope="session")
def checkouts():
    """{name of the host: (the variable that names a real checkout, its value or "")}."""
    return CHECKOUTS


@pytest.fixture(scope="session", autouse=True)
def standalone():
    """The standalone tree, active in this process as for a command."""
    tree = host.find(host.STANDALONE).activate()
    corpus.register_resolvers()
    return tree


@pytest.fixture(autouse=True)
def sentences():
    """A command in this process tells those that it starts to raise; a later test's are to say one
    sentence."""
    yield
    os.environ.pop("HYDRA_FULL_ERROR", None)


@pytest.fixture(scope="session")
def texts_drawn():
    """How often a subject of ``evaluate`` draws each text in 8000, (V^L,)."""

    def count(subject, sampler, steps=2, **way):
        setting = Setting(steps, sampler, **way)
        torch.manual_seed({"host": 1, "ancestral": 2}[sampler])
        with subject.sampler(setting, "float64") as (draw, _):
            tokens_NL = draw(8_000)
        texts = subject.vocab_size**subject.length
        codes = tokens_NL @ subject.vocab_size ** torch.arange(subject.length)
        return codes.bincount(minlength=texts)

    return count


@pytest.fixture(scope="session")
def same_law():
    """Two counts, of as many draws each, come from one law: chi-square, at 1 in 1000."""

    def check(first, second):
        assert first.sum() == second.sum()
        both = (first + second).double()
        often = both >= 20  # the others are one cell
        difference, both = (
            torch.cat([cells[often], cells[~often].sum(0, keepdim=True)])
            for cells in ((first - second).double(), both)
        )
        chi = (difference[both > 0] ** 2 / both[both > 0]).sum()
        freedom = ((both > 0).sum() - 1) / 2
        assert torch.special.gammaincc(freedom.double(), chi / 2) > 1e-3

    return check


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


@pytest.fixture
def arguments(text_folder, tmp_path):
    """``arguments("algo=mdlm", ...)``: a command line on the small text, run in tmp_path/run."""
    data = [f"data.train={text_folder}", f"data.cache_dir={tmp_path}/tokens"]
    return lambda *overrides: [*TINY, *data, f"hydra.run.dir={tmp_path}/run", *overrides]


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


class ToyDenoiser(Denoiser):
    """Three matrices in float64: embedding, mixing of positions, head. Counts its head's rows."""

    def __init__(self, vocab_size, length, width=8, seed=0):
        generator = torch.Generator(torch.get_default_device()).manual_seed(seed)

        def weight(*shape):
            value = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return torch.nn.Parameter(value)

        backbone = torch.nn.Module()
        backbone.embedding = weight(vocab_size, width)
        backbone.mixing = weight(length, length)
        backbone.output_layer = torch.nn.Module()
        backbone.output_layer.linear = torch.nn.Linear(width, vocab_size, bias=False)
        backbone.output_layer.linear.weight = weight(vocab_size, width)
        super().__init__(backbone, time_conditioning=True)
        self.head_rows = 0

    def features(self, x, alpha_B):
        embedding, mixing = self.backbone.embedding, self.backbone.mixing
        h = x.double().softmax(-1) @ embedding if x.ndim == 3 else embedding[x]
        return torch.tanh(mixing @ h * (1 + alpha_B[:, None, None]))

    def head(self, features):
        self.head_rows += features[..., 0].numel()
        return super().head(features)


@pytest.fixture
def toy():
    return ToyDenoiser


@pytest.fixture
def random_dit(request, standalone, tiny):
    """``random_dit("model.length=8", ...)``: a DIT over the tokens V of the test's module, all of
    its weights random. ``prepare``, if given, is called with it before they are."""

    def make(*overrides, prepare=None):
        torch.manual_seed(0)
        config = tiny("algo=duo_base", *overrides)
        made = standalone.module("models").dit.DIT(config, request.module.V)
        if prepare:
            prepare(made)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        return made

    return make


@pytest.fixture
def networks(request, toy):
    """Student, fake and teacher over the tokens V and the length L of the test's module."""
    module = request.module
    return [toy(module.V, module.L, seed=seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="session")
def in_processes():
    """``in_processes(world, do)``: [do() of each of so many processes], which are forked from this
    one and have the variables of torchrun."""

    def child(do, sender, **variables):
        os.environ |= {name: str(value) for name, value in variables.items()}
        sender.send(do())

    def run(world, do):
        context = torch.multiprocessing.get_context("fork")
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        variables = {"WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        receivers = []
        for rank in range(world):
            receiver, sender = context.Pipe(duplex=False)
            own = variables | {"RANK": rank}
            context.Process(target=child, args=(do, sender), kwargs=own, daemon=True).start()
            sender.close()  # so that the end of the child ends the wait for its result
            receivers.append(receiver)
        return [receiver.recv() for receiver in receivers]

    return run


class SeddProgram:
    """``python -m sedd_ext`` as a process in the tiny setting, and what its runs leave behind."""

    def __init__(self, data, host):
        self.data, self.host = data, host

    def start(self, folder, *overrides, processes=1):
        """The started command; ``folder`` is hydra.run.dir."""
        launch = ("torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m")
        module = (*(launch if processes > 1 else ()), "sedd_ext", "--host", str(self.host))
        settings = (*SEDD_TINY, *self.data, f"hydra.run.dir={folder}", *overrides)
        return subprocess.Popen(
            [sys.executable, "-m", *module, *settings],
            cwd=folder.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(self, folder, *overrides, processes=1, code=0):
        """What the command prints. It fails unless it exits with ``code``."""
        process = self.start(folder, *overrides, processes=processes)
        printed, _ = process.communicate()
        assert process.returncode == code, printed[-3000:]
        return printed

    @staticmethod
    def state(folder):
        """All that the last checkpoint goes on from, as far as it is numbers."""
        saved = runs.read(f"{folder}/{runs.LAST}", "last")
        trained = saved.pop("idlm")["trained"]
        return saved | trained

    @staticmethod
    def weights(folder):
        """The weights of the last checkpoint and their average."""
        state = SeddProgram.state(folder)
        return [*state["model"].values(), *state["ema"]["shadow_params"]]

    @staticmethod
    def logged(folder):
        """The numbers of the file ``logs``: [[step, loss, gradient norm], ...]."""
        lines = (folder / "logs").read_text().splitlines()
        return [
            [float(number) for number in re.findall(r": (-?[\d.]\S*?)(?=,|$)", line)]
            for line in lines
        ]


@pytest.fixture(scope="session")
def sedd_program(text_folder, tmp_path_factory):
    """``sedd_program(host)``: the program in a tree, by default in the standalone one."""
    data = (f"data.train={text_folder}", f"data.cache_dir={tmp_path_factory.mktemp('tokens')}")
    return lambda host=sedd_host.STANDALONE: SeddProgram(data, host)
