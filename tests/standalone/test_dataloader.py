"""Blocks of text token by token, and loaders that resume, share and shuffle as they say."""

import itertools
import json

import numpy
import pytest
import tokenizers
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.utilities import rank_zero_only

BOS, EOS, PAD = 1, 2, 3  # the toy tokenizer's
LINES = [[5, 6, 7], [8], [9, 10, 11, 12]]


@pytest.fixture(scope="session")
def dataloader(standalone):
    return standalone.module("dataloader")


# blocks ----------------------------------------------------------------------------------------


def test_wrapped_blocks_are_bos_a_piece_of_the_stream_and_eos(dataloader, toy_tokenizer):
    blocks = dataloader.wrap(LINES, toy_tokenizer(20), length=5, insert_eos=True)
    pieces = [[5, 6, 7], [EOS, 8, EOS], [9, 10, 11]]  # 12 and its EOS are the remainder
    assert blocks.tolist() == [[BOS, *piece, EOS] for piece in pieces]
    blocks = dataloader.wrap(LINES, toy_tokenizer(20), length=5, insert_eos=False)
    assert blocks.tolist() == [[BOS, 5, 6, 7, EOS], [BOS, 8, 9, 10, EOS]]


def test_padded_blocks_are_one_line_each(dataloader, toy_tokenizer):
    tokens, mask = dataloader.pad(LINES, toy_tokenizer(20), length=5, insert_eos=True)
    rows = [[BOS, 5, 6, 7, EOS], [BOS, 8, EOS, PAD, PAD], [BOS, 9, 10, 11, EOS]]
    assert tokens.tolist() == rows
    assert mask.tolist() == [[1] * 5, [1, 1, 1, 0, 0], [1] * 5]
    tokens, mask = dataloader.pad(LINES, toy_tokenizer(20), length=5, insert_eos=False)
    rows = [[BOS, 5, 6, 7, PAD], [BOS, 8, PAD, PAD, PAD], [BOS, 9, 10, 11, 12]]
    assert tokens.tolist() == rows
    assert mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1] * 5]


def write(folder, text, name="train"):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return str(folder)


@pytest.fixture
def dataset(dataloader, tokenizer, tmp_path):
    """``dataset(text)`` is the wrapped training split of a folder with this text."""

    def make(text, length=6, wrap=True, **options):
        folder = write(tmp_path / "text", text)
        cache = str(tmp_path / "cache")
        return dataloader.get_dataset(
            folder, tokenizer, wrap, "train", cache, block_size=length, **options
        )

    return make


def test_the_blocks_of_a_folder_are_its_text(dataset, tokenizer):
    blocks = dataset("we the people\n\n   \nof the union\n")
    assert len(blocks) == 6
    inner = [blocks[i]["input_ids"][1:-1] for i in range(len(blocks))]
    assert tokenizer.decode(torch.cat(inner)) == "we the people\nof the uni"
    for key, value in blocks[0].items():
        assert value.dtype == torch.int64
        assert value[0].item() == {"input_ids": tokenizer.bos_token_id, "attention_mask": 1}[key]
    rows = dataset("we\nthe people\n", wrap=False)
    assert [tokenizer.decode(row["input_ids"]) for row in rows] == ["\nwe\n\n\n", "\nthe \n"]
    assert [row["attention_mask"].sum().item() for row in rows] == [4, 6]


def test_tokens_are_kept_and_made_anew_when_their_source_changes(dataset, dataloader, monkeypatch):
    made = []
    real = dataloader.wrap
    monkeypatch.setattr(dataloader, "wrap", lambda *a: made.append(a) or real(*a))
    text = "we the people"
    first, again = dataset(text), dataset(text)
    assert len(made) == 1
    assert numpy.array_equal(first.tokens_NL, again.tokens_NL)
    for change in [{"text": text + "s"}, {"length": 5}, {"insert_eos": False}]:
        dataset(**({"text": text} | change))
    assert len(made) == 4


def test_text_that_makes_no_block_is_refused(dataset, dataloader, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"the text has 3 tokens, less than .* model.length=6"):
        dataset("we\n")
    with pytest.raises(ValueError, match=r"train.txt' holds no text"):
        dataset(" \n\n")
    with pytest.raises(ValueError, match=r"model.length is 2; data.wrap needs 3 or more"):
        dataset("we the people", length=2)
    for wrap in (True, False):
        with pytest.raises(ValueError, match=r"nowhere/train.txt' is missing; data.train and"):
            dataloader.get_dataset(str(tmp_path / "nowhere"), tokenizer, wrap, "train", "cache")


# tokenizers ------------------------------------------------------------------------------------


def saved_tokenizer(folder, vocabulary, **special):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="a"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special)
    tokenizer.save_pretrained(folder)
    return f"data.tokenizer_name_or_path={folder}"


WORDS = {"a": 0, "b": 1, "[CLS]": 2, "[SEP]": 3}


def test_a_tokenizer_gets_what_it_lacks(dataloader, composed, tmp_path):
    setting = saved_tokenizer(tmp_path, WORDS, cls_token="[CLS]", sep_token="[SEP]")
    tokenizer = dataloader.get_tokenizer(composed("mdlm", setting))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 3, 4)
    assert (tokenizer.vocab_size, len(tokenizer)) == (4, 5)


def test_a_tokenizer_that_cannot_serve_is_refused(dataloader, composed, tmp_path):
    setting = saved_tokenizer(tmp_path / "plain", WORDS)
    with pytest.raises(ValueError, match=r"tokenizer_name_or_path is .* no BOS and EOS"):
        dataloader.get_tokenizer(composed("mdlm", setting))
    setting = saved_tokenizer(tmp_path / "empty", {"a": 0})
    with pytest.raises(ValueError, match=r"tokenizer_name_or_path is .* vocabulary is empty"):
        dataloader.get_tokenizer(composed("mdlm", setting))
    setting = f"data.tokenizer_name_or_path={tmp_path / 'none'}"
    with pytest.raises(ValueError, match=r"tokenizer_name_or_path is .* must be a tokenizer's"):
        dataloader.get_tokenizer(composed("mdlm", setting))


# order -----------------------------------------------------------------------------------------


def loader_of(dataloader, size, batch_size, **place):
    """A loader of blocks whose only token is their number."""
    blocks = dataloader.Blocks(numpy.arange(size)[:, None])
    return dataloader.ResumableLoader(blocks, batch_size, seed=1, **place)


def many(loader):
    """Batches as Lightning takes them: it never asks an epoch for more than ``len(loader)``."""
    for _ in range(99):
        for batch in itertools.islice(loader, len(loader)):
            yield batch["input_ids"][:, 0].tolist()


def take(count, iterator):
    return list(itertools.islice(iterator, count))


def epochs_of(loader, count):
    batches = many(loader)
    return [take(len(loader), batches) for _ in range(count)]


def test_each_epoch_is_another_permutation_in_full_batches(dataloader):
    loader = loader_of(dataloader, 50, 7)
    assert len(loader) == 7
    epochs = epochs_of(loader, 3)
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [7] * 7
        assert len(set(itertools.chain(*epoch))) == 49
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs != epochs_of(dataloader.ResumableLoader(loader.dataset, 7, seed=2), 3)
    asked_to_the_end = loader_of(dataloader, 50, 7)
    for epoch in epochs:
        assert [batch["input_ids"][:, 0].tolist() for batch in asked_to_the_end] == epoch


@settings(max_examples=50, deadline=None)
@given(
    size=st.integers(12, 40),
    batch_size=st.integers(1, 4),
    world=st.integers(1, 3),
    taken=st.integers(0, 60),
)
def test_a_resumed_loader_goes_on_where_it_stopped(dataloader, size, batch_size, world, taken):
    for rank in range(world):
        straight, stopped, resumed = (
            loader_of(dataloader, size, batch_size, rank=rank, world=world) for _ in range(3)
        )
        take(taken, many(stopped))
        resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
        assert take(15, many(resumed)) == take(taken + 15, many(straight))[taken:]


def test_a_loader_resumed_at_the_end_of_an_epoch_first_ends_it(dataloader):
    """Lightning, resumed there, may ask for one more batch of the old epoch."""
    loader = loader_of(dataloader, 12, 3)
    loader.load_state_dict({"epoch": 0, "batches": 4})
    assert list(loader) == []
    assert take(4, many(loader)) == epochs_of(loader_of(dataloader, 12, 3), 2)[1]


@settings(max_examples=50, deadline=None)
@given(size=st.integers(12, 40), batch_size=st.integers(1, 4), world=st.integers(2, 3))
def test_processes_share_the_permutation_of_one(dataloader, size, batch_size, world):
    """Their k-th batches together, interleaved, are the k-th batch of one process alone."""
    alone = loader_of(dataloader, size, batch_size * world)
    shares = [
        loader_of(dataloader, size, batch_size, rank=rank, world=world) for rank in range(world)
    ]
    assert {len(share) for share in shares} == {len(alone)}
    count = 2 * len(alone)
    together = zip(*(take(count, many(share)) for share in shares), strict=True)
    interleaved = [list(itertools.chain(*zip(*parts, strict=True))) for parts in together]
    assert interleaved == take(count, many(alone))


def test_less_than_one_global_batch_is_refused(dataloader):
    assert len(loader_of(dataloader, 6, 3, world=2)) == 1
    with pytest.raises(ValueError, match=r"data.train has 5 blocks, less than one .* of 6"):
        loader_of(dataloader, 5, 3, world=2)


# from a configuration --------------------------------------------------------------------------


def test_the_loaders_of_a_configuration(dataloader, tiny, tokenizer, monkeypatch):
    config = tiny("loader.batch_size=3", "loader.eval_batch_size=5", "model.length=9", "seed=4")
    train, valid = dataloader.get_dataloaders(config, tokenizer)
    assert next(iter(train))["input_ids"].shape == (3, 9)
    assert next(iter(valid))["input_ids"].shape == (5, 9)
    assert torch.equal(next(iter(valid))["input_ids"][0], valid.dataset[0]["input_ids"])
    assert dataloader.get_dataloaders(config, tokenizer, skip_train=True)[0] is None
    assert dataloader.get_dataloaders(config, tokenizer, skip_valid=True)[1] is None

    order = list(train.sampler)
    assert order != list(dataloader.get_dataloaders(tiny("seed=5"), tokenizer)[0].sampler)
    config.trainer.devices = 2
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(rank_zero_only, "rank", rank)
        shares.append(list(dataloader.get_dataloaders(config, tokenizer)[0].sampler))
    assert not set(shares[0]) & set(shares[1])


def test_validation_is_shuffled_by_its_seed_alone(dataloader, tiny, tokenizer):
    def order(seed):
        torch.rand(3)
        _, valid = dataloader.get_dataloaders(tiny(), tokenizer, True, valid_seed=seed)
        return torch.cat([batch["input_ids"] for batch in valid]).tolist()

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == sorted(order(2))
