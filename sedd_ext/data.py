"""The tokenizer of a configuration, and its text in blocks by SEDD's own data module."""

from collections.abc import Iterator

from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import Dataset

from duo_ext import Refused
from duo_ext.data import texts
from duo_ext.data.pairs import Form, Pairs, Source
from sedd_ext import host


def tokenizer_of(config: DictConfig) -> texts.Tokenizer:
    """Load ``data.tokenizer``.

    Raises Refused where it cannot be loaded, has no EOS token, which SEDD puts behind every
    paragraph, or has other than ``tokens`` tokens.
    """
    name = config.data.tokenizer
    tokenizer = texts.tokenizer(name, "data.tokenizer")
    if tokenizer.eos_token_id is None:
        raise Refused(f"data.tokenizer is '{name}': it has no EOS token")
    if len(tokenizer) != config.tokens:
        raise Refused(f"tokens is {config.tokens}; data.tokenizer '{name}' has {len(tokenizer)}")
    texts.require_ids(tokenizer, config.tokens, "data.tokenizer")
    return tokenizer


class _OneTokenizer:
    """Stands for a tokenizer class: ``from_pretrained`` gives this tokenizer for any name."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def from_pretrained(self, name):
        return self.tokenizer


def blocks(config: DictConfig, split: str, tokenizer: texts.Tokenizer) -> Dataset:
    """The data set of ``data.train`` (split "train") or ``data.valid`` (split "validation").

    An item is {"input_ids": tokens (L,)}; of pairs, it is what ``pairs.Pairs`` says. SEDD's data
    module makes whole texts. The module names the hub's gpt2 in its source, which is found nowhere
    offline; for this call the name means ``tokenizer``.
    """
    folder = config.data.train if split == "train" else config.data.valid
    if form := Form.configured(config.data):
        source, own = Source(folder, form), (config.model.length, config.data.cache_dir)
        return Pairs(source, tokenizer, *own, "data.tokenizer")
    data = host.active().module("data")
    own, data.GPT2TokenizerFast = data.GPT2TokenizerFast, _OneTokenizer(tokenizer)
    try:
        return data.get_dataset(
            folder,
            split,
            cache_dir=config.data.cache_dir,
            block_size=config.model.length,
            num_proc=1,
        )
    except Exception:  # datasets raises the tokenizer's own, of no class
        texts.explain(folder, split, tokenizer, "data.tokenizer")
        raise
    finally:
        data.GPT2TokenizerFast = own


def batches(blocks: Dataset) -> Iterator[dict[str, Tensor]]:
    """A data set's items as batches of one."""
    for block in blocks:
        yield {"input_ids": block["input_ids"][None]}
