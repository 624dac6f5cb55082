"""data.pairs: how a line becomes tokens, what is kept and left out, what is refused."""

import json

import omegaconf
import pytest
import torch
import transformers

from duo_ext import Refused
from duo_ext.data import arithmetic, corpus
from duo_ext.data.pairs import Form, Pairs, Source, padding_of

TOKENIZER = transformers.AutoTokenizer.from_pretrained(corpus.asset("tokenizers/sotu32"))
BOS = EOS = 0  # the shipped tokenizer has one newline for all
FORM = Form("q", "a", template="so {prompt}", separator=" - ")
LINES = [{"q": " we the", "a": "folks\n"}, {"q": "x" * 30, "a": "y"}, {"q": "of", "a": "the"}]


@pytest.fixture
def made(tmp_path):
    """``made(form, lines, ...)``: the ``Pairs`` of a file."""

    def make(form=FORM, lines=LINES, length=20, **options):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        own = {"cache_dir": str(tmp_path / "kept"), "key": "the key", "before": (BOS,)}
        return Pairs(Source(str(path), form), TOKENIZER, length, **own | options)

    return make


def ids(text):
    return TOKENIZER(text, add_special_tokens=False).input_ids


def test_a_text_is_its_parts_and_the_prompt_is_given(made, capfd):
    pairs = made()
    told = "1 of 3 pairs have more than 20 tokens"
    assert len(pairs) == 2 and told in capfd.readouterr().err
    assert len(made()) == 2 and told in capfd.readouterr().err  # of blocks that are kept, too
    given, written = [BOS, *ids("so we the - ")], [*ids("folks"), EOS]
    found = pairs[0]
    padding = 20 - len(given) - len(written)
    assert padding == 1  # a shorter one would not show it
    assert found["input_ids"].tolist() == [*given, *written, EOS]
    assert found["attention_mask"].tolist() == [0] * len(given) + [1] * (20 - len(given))
    assert pairs[1]["input_ids"][: len(ids("so of - ")) + 1].tolist() == [BOS, *ids("so of - ")]
    assert pairs.source.answers([0, 2]) == ["folks\n", "the"]
    batch = next(iter(torch.utils.data.DataLoader(pairs, 2)))
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 20)


def test_without_an_end_and_without_bos(made):
    found = made(Form("q", "a", end=False), length=9, before=())[0]
    assert found["input_ids"].tolist() == [*ids("ofthe"), 0, 0, 0, 0]


def test_padding_is_the_tokenizers_own_or_eos(tmp_path):
    """The hosts add a padding where there is none; MDLM's mask has the same id."""
    arithmetic.write(str(tmp_path), train=20, validation=1, test=1)
    own = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert padding_of(own) == own.pad_token_id != own.eos_token_id
    added = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer", pad_token=None)
    assert padding_of(added) == added.eos_token_id
    added.add_special_tokens({"pad_token": "[another]"})
    assert padding_of(added) == added.eos_token_id != added.pad_token_id == added.vocab_size


def test_a_line_may_have_its_answer_alone(made):
    form = Form("q", "a", answer="number")
    pairs = made(form, [{"q": "of", "number": 5}])
    assert pairs[0]["input_ids"][: 1 + len(ids("of"))].tolist() == [BOS, *ids("of")]
    assert pairs.source.answers([0]) == ["5"]
    both = made(form, [{"q": "of", "number": 5}, {"q": "we", "a": "us"}])
    assert both.source.answers([0, 1]) == ["5", "us"]


def test_tokens_are_kept_by_all_that_they_are_made_of(made, monkeypatch):
    one = made()
    with monkeypatch.context() as patched:
        patched.setattr(Pairs, "_make", None)
        again = made()
        assert torch.equal(one[0]["input_ids"], again[0]["input_ids"])
    assert len(made(length=25)[0]["input_ids"]) == 25
    assert made(Form("q", "a"))[0]["input_ids"][1:3].tolist() == ids("we")
    assert made(lines=LINES[2:])[0]["input_ids"].tolist() == one[1]["input_ids"].tolist()


@pytest.mark.parametrize(
    "lines, told",
    [
        ([{"q": "we"}], r"line 1 of '.*pairs.jsonl' has no text 'a'"),
        ([{"q": "we", "a": "us"}, {"q": ["we"], "a": "us"}], r"line 2 of .* has no text 'q'"),
        ([[1]], r"line 1 of '.*pairs.jsonl' is no JSON object"),
        ([LINES[1]], r"no pair of at most model.length=20 tokens"),
        ([], r"no pair of at most model.length=20 tokens"),
    ],
)
def test_lines_that_are_no_pairs(made, tmp_path, lines, told):
    with pytest.raises(Refused, match=told):
        made(lines=lines)
    assert not list((tmp_path / "kept").glob("*"))


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "text").write_text("no json\n")
    for name, told in (("text", "is no JSON"), ("none", "are files of JSON lines")):
        with pytest.raises(Refused, match=told):
            Pairs(Source(str(tmp_path / name), FORM), TOKENIZER, 20, str(tmp_path), "the key")


def test_the_section_of_a_configuration():
    data = omegaconf.OmegaConf.create({"pairs": {"prompt": "q", "completion": "a"}})
    assert Form.configured(data) == Form("q", "a")
    assert Form.configured(omegaconf.OmegaConf.create({"wrap": True})) is None
    with pytest.raises(Refused, match=r"data.pairs.promt is no key; they are prompt, compl"):
        Form.configured(omegaconf.OmegaConf.create({"pairs": {"promt": "q"}}))
    nulls = {**data.pairs, "separator": None, "template": None, "score": None}
    assert Form.configured(omegaconf.OmegaConf.create({"pairs": nulls})) == Form("q", "a")
    for key, value in (("separator", 5), ("end", "maybe"), ("score", 5), ("prompt", None)):
        section = omegaconf.OmegaConf.create({"pairs": {**data.pairs, key: value}})
        with pytest.raises(Refused, match=rf"data.pairs.{key} is {value}; it must be"):
            Form.configured(section)
    data.pairs.template = "question:"
    with pytest.raises(Refused, match=r"data.pairs.template is 'question:'; it must have {prompt}"):
        Form.configured(data)
