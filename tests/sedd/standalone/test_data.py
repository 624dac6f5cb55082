"""Blocks of text token by token, their cache, and the tokenizer that is given."""

import types
from pathlib import Path

import numpy
import omegaconf
import pytest
import tokenizers
import torch
import transformers

import duo_ext
from sedd_ext import data as sedd_data
from sedd_ext import evaluate

TOKENIZER = Path(duo_ext.__file__).parent / "assets" / "tokenizers" / "sotu32"


@pytest.fixture
def tokenizer(sedd, monkeypatch):
    """The tokenizer of 32 characters, given to the tree by the one assignment that SEDD knows."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(TOKENIZER)
    given = types.SimpleNamespace(from_pretrained=lambda name: tokenizer)
    monkeypatch.setattr(sedd.data, "GPT2TokenizerFast", given)
    return tokenizer


@pytest.fixture
def folder(tmp_path):
    """``folder(train=..., validation=...)`` is a folder with these texts."""

    def make(**texts):
        for mode, text in texts.items():
            (tmp_path / f"{mode}.txt").write_text(text, encoding="utf-8")
        return str(tmp_path)

    return make


def text(tokenizer, blocks):
    return "".join(tokenizer.batch_decode(rows(blocks)))


def rows(blocks):
    return [blocks[n]["input_ids"].tolist() for n in range(len(blocks))]


def test_an_eos_follows_each_paragraph_and_the_stream_is_cut(sedd):
    blocks = sedd.data.cut([[5, 6, 7], [8], [9, 10, 11, 12]], eos=2, length=3)
    assert blocks.tolist() == [[5, 6, 7], [2, 8, 2], [9, 10, 11]]  # 12 and its EOS are left


def test_blocks_of_both_splits(sedd, tokenizer, folder):
    name = folder(train="we the people\n\n  \nof the union\n", validation="in order to form")
    blocks = sedd.data.get_dataset(name, "train", block_size=6)
    assert text(tokenizer, blocks) == "we the people\nof the uni"
    assert blocks[0]["input_ids"].dtype == torch.int64 and list(blocks[0]) == ["input_ids"]
    blocks = sedd.data.get_dataset(name, "validation", block_size=5)
    assert text(tokenizer, blocks) == "in order to for"


def test_a_tokenizers_own_additions_are_left_out(sedd, tokenizer, folder, monkeypatch):
    seen = []

    class Adding:
        eos_token_id = tokenizer.eos_token_id

        def __len__(self):
            return len(tokenizer)

        def __call__(self, texts, **options):
            seen.append(options)
            return tokenizer(texts, **options)

    given = types.SimpleNamespace(from_pretrained=lambda name: Adding())
    monkeypatch.setattr(sedd.data, "GPT2TokenizerFast", given)
    sedd.data.get_dataset(folder(train="we the people"), "train", block_size=6)
    assert [options["add_special_tokens"] for options in seen] == [False]


def test_blocks_are_kept_and_made_anew_when_their_source_changes(
    sedd, tokenizer, folder, tmp_path, monkeypatch
):
    made, real = [], sedd.data.cut
    monkeypatch.setattr(sedd.data, "cut", lambda *a: made.append(a) or real(*a))
    cache = str(tmp_path / "cache")

    def dataset(text="we the people", mode="train", block_size=4):
        name = folder(**{mode: text})
        return sedd.data.get_dataset(name, mode, cache_dir=cache, block_size=block_size)

    first, again = dataset(), dataset()
    assert len(made) == 1 and rows(first) == rows(again) == rows(dataset(mode="validation"))
    assert len(made) == 2
    assert rows(dataset(block_size=5)) != rows(dataset("we the persons")) != rows(first)
    assert len(made) == 4
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_large_ids_are_kept_whole(sedd, folder, tmp_path, monkeypatch):
    """However few tokens have them."""
    vocabulary = {"a": 69_999, "b": 3, "c": 65_536, "<eos>": 70_000}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    large = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
    given = types.SimpleNamespace(from_pretrained=lambda name: large)
    monkeypatch.setattr(sedd.data, "GPT2TokenizerFast", given)
    blocks = sedd.data.get_dataset(folder(train="a b c"), "train", cache_dir=tmp_path, block_size=4)
    assert rows(blocks) == [[69_999, 3, 65_536, 70_000]]
    (path,) = tmp_path.glob("*.npy")
    assert numpy.load(path).dtype == numpy.int32


def test_text_that_makes_no_block_is_refused(sedd, tokenizer, folder, tmp_path):
    wanted = r"validation.txt' is missing; data.train and data.valid are folders"
    with pytest.raises(ValueError, match=wanted):
        sedd.data.get_dataset(folder(train="we"), "validation")
    with pytest.raises(ValueError, match=r"the text has 3 tokens, less than .* model.length=1024"):
        sedd.data.get_dataset(folder(train="we\n"), "train")
    with pytest.raises(ValueError, match=r"train.txt' holds no text"):
        sedd.data.get_dataset(folder(train=" \n\n"), "train")


@pytest.fixture
def reversed_tokenizer(tokenizer, tmp_path):
    """The tokenizer with its letters in the other order."""
    vocabulary = {token: 31 - id for token, id in tokenizer.get_vocab().items()}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=" "))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    words.decoder = tokenizers.decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token=" ", eos_token="\n"
    )


def test_the_tokens_of_two_tokenizers_are_each_ones_own(
    sedd, tokenizer, reversed_tokenizer, folder, tmp_path, monkeypatch
):
    """In one folder, whichever was made last, and for what evaluate compares with."""
    monkeypatch.setattr(
        sedd_data.host, "active", lambda: types.SimpleNamespace(module=vars(sedd).get)
    )
    name = folder(train="we the people", validation="of the union")
    data = {"train": name, "valid": name, "cache_dir": f"{tmp_path}/cache"}
    config = omegaconf.OmegaConf.create({"data": data, "model": {"length": 6}})
    before = sedd.data.GPT2TokenizerFast
    for own in (tokenizer, reversed_tokenizer, tokenizer):
        assert text(own, sedd_data.blocks(config, "train", own)) == "we the people"[:12]
        parts = types.SimpleNamespace(config=config)
        subject = evaluate.Subject("", "", "", "", own, 32, 6, data, parts)
        assert "".join(own.batch_decode(subject.held_out().tokens_NL)) == "of the union"
    assert sedd.data.GPT2TokenizerFast is before


class Empty:
    eos_token_id = 0

    def __len__(self):
        return 1


class WithoutEnd:
    eos_token_id = None

    def __len__(self):
        return 32


@pytest.mark.parametrize("found", [Empty(), WithoutEnd()])
def test_a_tokenizer_that_is_not_there_is_refused(sedd, folder, monkeypatch, found):
    """transformers 5 makes an empty gpt2 where it finds no files."""
    given = types.SimpleNamespace(from_pretrained=lambda name: found)
    monkeypatch.setattr(sedd.data, "GPT2TokenizerFast", given)
    with pytest.raises(ValueError, match=r"data: the tokenizer 'gpt2'"):
        sedd.data.get_dataset(folder(train="we the people"), "train", block_size=4)
