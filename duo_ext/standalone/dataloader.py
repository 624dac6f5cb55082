"""Text as wrapped blocks of tokens.

``data.train`` and ``data.valid`` are folders with train.txt and validation.txt, a paragraph a line.
With ``data.wrap`` the paragraphs are joined with EOS between them and cut into blocks of
BOS + (model.length - 2) tokens + EOS, as Duo does; without it each paragraph is one padded block.
"""

import numpy
import torch
from lightning.pytorch.utilities import rank_zero_only

from duo_ext import Refused
from duo_ext.data import texts
from duo_ext.training.order import ResumableLoader

KEY = "data.tokenizer_name_or_path"


def get_tokenizer(config):
    """``data.tokenizer_name_or_path`` through AutoTokenizer, with BOS, EOS and PAD."""
    name = config.data.tokenizer_name_or_path
    tokenizer = texts.tokenizer(name, KEY)
    tokenizer.bos_token = tokenizer.bos_token or tokenizer.cls_token
    tokenizer.eos_token = tokenizer.eos_token or tokenizer.sep_token
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise Refused(f"{KEY} is '{name}': it has no BOS and EOS token")
    texts.require_ids(tokenizer, len(tokenizer), KEY)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    return tokenizer


class Blocks(torch.utils.data.Dataset):
    """(N, L) token blocks with their attention masks."""

    def __init__(self, tokens_NL, mask_NL=None):
        self.tokens_NL = tokens_NL
        self.mask_NL = mask_NL

    def __len__(self):
        return len(self.tokens_NL)

    def __getitem__(self, index):
        tokens = torch.from_numpy(self.tokens_NL[index].astype(numpy.int64))
        mask = torch.ones_like(tokens)
        if self.mask_NL is not None:
            mask = torch.from_numpy(self.mask_NL[index].astype(numpy.int64))
        return {"input_ids": tokens, "attention_mask": mask}


def wrap(ids_per_line, tokenizer, length, insert_eos):
    """(N, length) blocks; a remainder shorter than a block is dropped."""
    if length < 3:
        raise Refused(f"model.length is {length}; data.wrap needs 3 or more: BOS, a token, EOS")
    eos = [tokenizer.eos_token_id] if insert_eos else []
    stream = numpy.concatenate([numpy.asarray(ids + eos, numpy.int32) for ids in ids_per_line])
    inner = length - 2
    body = stream[: len(stream) // inner * inner].reshape(-1, inner)
    if len(body) == 0:
        raise Refused(
            f"data: the text has {len(stream)} tokens, less than one block of model.length={length}"
        )
    edge = numpy.ones((len(body), 1), numpy.int32)
    return numpy.hstack([edge * tokenizer.bos_token_id, body, edge * tokenizer.eos_token_id])


def pad(ids_per_line, tokenizer, length, insert_eos):
    """(N, length) one padded or cut line a block, and the mask of its tokens."""
    tokens = numpy.full((len(ids_per_line), length), tokenizer.pad_token_id, numpy.int32)
    mask = numpy.zeros_like(tokens)
    tail = [tokenizer.eos_token_id] if insert_eos else []
    for row, ids in enumerate(ids_per_line):
        ids = ([tokenizer.bos_token_id, *ids])[: length - len(tail)] + tail
        tokens[row, : len(ids)], mask[row, : len(ids)] = ids, 1
    return tokens, mask


def get_dataset(folder, tokenizer, do_wrap, mode, cache_dir, insert_eos=True, block_size=1024):
    """Blocks of one split; wrapped ones are kept in ``cache_dir``."""
    lines = texts.lines(folder, mode)

    def ids():
        return texts.encode(tokenizer, lines, KEY)

    if not do_wrap:
        return Blocks(*pad(ids(), tokenizer, block_size, insert_eos))

    def blocks():
        return wrap(ids(), tokenizer, block_size, insert_eos)

    source = (block_size, insert_eos, lines)
    return Blocks(texts.kept(cache_dir, mode, source, tokenizer, blocks))


def get_dataloaders(config, tokenizer, skip_train=False, skip_valid=False, valid_seed=None):
    """(train, valid) loaders; None for one that is skipped.

    In a data-parallel run the Trainer comes first: it knows this process's rank.
    """
    data, loader = config.data, config.loader
    options = {"num_workers": loader.num_workers, "pin_memory": loader.pin_memory}
    common = {"cache_dir": data.cache_dir, "block_size": config.model.length}
    train = valid = None
    if not skip_train:
        blocks = get_dataset(
            data.train, tokenizer, data.wrap, "train", insert_eos=data.insert_train_eos, **common
        )
        train = ResumableLoader(
            blocks,
            loader.batch_size,
            config.seed,
            rank=rank_zero_only.rank,
            world=config.trainer.devices * config.trainer.num_nodes,
            accumulate=config.trainer.accumulate_grad_batches,
            **options,
        )
    if not skip_valid:
        blocks = get_dataset(
            data.valid,
            tokenizer,
            data.wrap,
            "validation",
            insert_eos=data.insert_valid_eos,
            **common,
        )
        order = None if valid_seed is None else torch.Generator().manual_seed(valid_seed)
        valid = torch.utils.data.DataLoader(
            blocks,
            batch_size=loader.eval_batch_size,
            shuffle=order is not None,
            generator=order,
            **options,
        )
    return train, valid
