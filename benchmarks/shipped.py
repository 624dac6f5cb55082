"""The shipped teachers, and text for them, as benchmarks of the core take them: without a run."""

import copy
from dataclasses import dataclass

import torch
import transformers

from benchmarks import published
from duo_ext import host
from duo_ext.core import schedules
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.gaussian import GaussianUniformProcess
from duo_ext.core.networks import Denoiser
from duo_ext.core.uniform import UniformProcess
from duo_ext.data import corpus
from duo_ext.weights import checkpoints, pretrained

LENGTH = 128
TOKENIZER = "tokenizers/sotu32"


def absorbing(V, **settings):
    return AbsorbingProcess(V, V - 1, **settings)


def categorical(V):
    return UniformProcess(V)


def gaussian(V):
    schedule = schedules.GaussianSchedule.configured(V, None, None)
    return GaussianUniformProcess(V, schedule)


@dataclass(frozen=True)
class Case:
    """A shipped teacher and a process made of its vocabulary."""

    teacher: str
    process: callable
    time_conditioning: bool


CASES = {
    "mdlm": Case("mdlm", absorbing, False),
    "categorical": Case("duo", categorical, True),
    "gaussian": Case("duo", gaussian, True),
}


def dit(vocab, width, blocks, cond, dropout=0.0, heads=None, length=LENGTH):
    """A fresh DIT of the standalone tree."""
    host.find(host.STANDALONE).activate()
    shape = published.Shape(width, cond, length, blocks, heads or max(1, width // 64))
    return published.dit(shape, vocab, dropout)


def teacher(name, dropout=0.0):
    """The EMA weights of a shipped teacher, with that dropout where it is trained."""
    saved = pretrained.load(corpus.asset(f"teachers/{name}.ckpt"), "teacher")
    model = saved.config["model"]
    network = dit(
        checkpoints.dimensions(saved.weights)["vocabulary"],
        model["hidden_size"],
        model["n_blocks"],
        model["cond_dim"],
        dropout,
        heads=model["n_heads"],
    )
    checkpoints.load(network, saved)
    return network.eval()


def denoisers(network, time_conditioning):
    """Student, fake and teacher, all three copies of one network, the teacher fixed."""
    three = tuple(Denoiser(copy.deepcopy(network), time_conditioning) for _ in range(3))
    three[-1].backbone.requires_grad_(False)
    return three


def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(corpus.asset(TOKENIZER))


def texts(part="train", length=LENGTH, every=4):
    """Blocks of one in ``every`` addresses of the shipped text as Duo makes them, (N, length): the
    end-of-text token, text, the end-of-text token."""
    lines = (corpus.text_dir("sotu32") / f"{part}.txt").read_text(encoding="utf-8").splitlines()
    encode = tokenizer()
    ids = torch.tensor(encode("\n".join(lines[::every]), add_special_tokens=False).input_ids)
    inner = ids[: len(ids) // (length - 2) * (length - 2)].view(-1, length - 2)
    return torch.nn.functional.pad(inner, (1, 1), value=encode.eos_token_id)


def batch(texts_NL, size):
    """(x0_BL, given_BL) of texts at random, none of whose tokens is given."""
    x0_BL = texts_NL[torch.randint(len(texts_NL), (size,))]
    return x0_BL, torch.zeros_like(x0_BL, dtype=torch.bool)
