"""Blocks of text token by token, and the loaders of a configuration."""

import numpy
import pytest
import tokenizers
import torch
import transformers
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


def test_tokens_of_two_tokenizers_in_one_folder_are_each_ones_own(dataloader, composed, tmp_path):
    """Of as many tokens, and equal on English."""
    folder, found = write(tmp_path / "text", "b a\n" * 3), {}
    vocabularies = {"one": WORDS, "two": WORDS | {"a": 1, "b": 0}}
    vocabularies["ends"] = WORDS | {"[CLS]": 3, "[SEP]": 2}
    for name in [*vocabularies, *vocabularies]:
        setting = saved_tokenizer(
            tmp_path / name, vocabularies[name], cls_token="[CLS]", sep_token="[SEP]"
        )
        tokenizer = dataloader.get_tokenizer(composed("mdlm", setting))
        words = tokenizer.backend_tokenizer
        words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        cache = str(tmp_path / "cache")
        blocks = dataloader.get_dataset(folder, tokenizer, True, "train", cache, block_size=5)
        found[name] = blocks[0]["input_ids"].tolist()
    wanted = {"one": [2, 1, 0, 3, 3], "two": [2, 0, 1, 3, 3], "ends": [3, 1, 0, 2, 2]}
    assert found == wanted
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_ids_that_a_model_has_no_room_for_are_refused(dataloader, standalone, composed, tmp_path):
    """A gap for any model; for one with a mask also BOS and EOS behind the vocabulary, where the
    mask is."""
    ends = {"bos_token": "<s>", "eos_token": "</s>"}
    setting = saved_tokenizer(tmp_path / "gap", {"a": 0, "b": 1, "<s>": 2, "</s>": 9}, **ends)
    with pytest.raises(ValueError, match=r"tokenizer_name_or_path is .*'</s>' has the id 9; there"):
        dataloader.get_tokenizer(composed("mdlm", setting))
    setting = saved_tokenizer(tmp_path / "added", {"a": 0, "b": 1}, **ends)
    algorithms = standalone.module("main").ALGORITHMS
    config = composed("duo_base", setting)
    assert algorithms["duo_base"](config, dataloader.get_tokenizer(config)).vocab_size == 5
    config = composed("mdlm", setting)
    with pytest.raises(ValueError, match=r"tokenizer_name_or_path is .* the id 3; there are 2 tok"):
        algorithms["mdlm"](config, dataloader.get_tokenizer(config))


def test_a_mask_amid_the_vocabulary_is_the_models(dataloader, standalone, composed, tmp_path):
    words = {"a": 0, "[MASK]": 1, "<s>": 2, "</s>": 3, "[PAD]": 4, "b": 5}
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "[PAD]"}
    setting = saved_tokenizer(tmp_path, words, mask_token="[MASK]", **special)
    config = composed("mdlm", setting)
    model = standalone.module("main").ALGORITHMS["mdlm"](config, dataloader.get_tokenizer(config))
    assert (model.mask_index, model.vocab_size) == (1, 6)


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
