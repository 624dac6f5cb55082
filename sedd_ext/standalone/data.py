"""Text as blocks of tokens: paragraphs with an EOS after each, joined and cut."""

import numpy
import torch
from transformers import GPT2TokenizerFast

from duo_ext import Refused
from duo_ext.data import texts

NAME = "gpt2"  # the only tokenizer SEDD knows; set this module's GPT2TokenizerFast to use another


class Blocks(torch.utils.data.Dataset):
    """(N, L) token blocks."""

    def __init__(self, tokens_NL):
        self.tokens_NL = tokens_NL

    def __len__(self):
        return len(self.tokens_NL)

    def __getitem__(self, index):
        return {"input_ids": torch.from_numpy(self.tokens_NL[index].astype(numpy.int64))}


def get_tokenizer():
    """``GPT2TokenizerFast.from_pretrained("gpt2")``; both trees make theirs so.

    Raises Refused if it has no vocabulary (transformers 5 makes such a one where it finds no
    files) or no EOS.
    """
    tokenizer = GPT2TokenizerFast.from_pretrained(NAME)
    if len(tokenizer) < 2 or tokenizer.eos_token_id is None:
        raise Refused(f"data: the tokenizer '{NAME}' is not here: its vocabulary is empty")
    return tokenizer


def cut(ids_per_paragraph, eos, length):
    """(N, length) blocks of one stream; a remainder shorter than a block is dropped."""
    stream = numpy.concatenate([numpy.asarray([*ids, eos]) for ids in ids_per_paragraph])
    if len(stream) < length:
        raise Refused(
            f"data: the text has {len(stream)} tokens, less than one block of model.length={length}"
        )
    return stream[: len(stream) // length * length].reshape(-1, length)


def get_dataset(name, mode, cache_dir=None, block_size=1024, num_proc=8):
    """The ``Blocks`` of the text in the folder ``name``; ``mode`` is train or validation.

    They are kept in ``cache_dir``, if there is one, under a hash of their source. ``num_proc`` is
    SEDD's; here one process does the work.
    """
    paragraphs, tokenizer = texts.lines(name, mode), get_tokenizer()

    def blocks():
        ids = texts.encode(tokenizer, paragraphs, "data.tokenizer")
        return cut(ids, tokenizer.eos_token_id, block_size)

    if cache_dir is None:
        return Blocks(blocks())
    return Blocks(texts.kept(cache_dir, mode, (block_size, paragraphs), tokenizer, blocks))
