"""data.prompts: where given tokens stand, and what is refused."""

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from duo_ext import Refused
from duo_ext.data import corpus, texts
from duo_ext.data.pairs import Form
from duo_ext.data.prompts import Frame

L, BOS, EOS = 20, 0, 0  # the shipped tokenizer has one newline for both
TOKENIZER = transformers.AutoTokenizer.from_pretrained(corpus.asset("tokenizers/sotu32"))
FRAMES = {
    "with ends": Frame(TOKENIZER, L, 33, (BOS,), (EOS,)),
    "without": Frame(TOKENIZER, L, 33),
}
letters = st.text("abcdefgh ,.", max_size=5)


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_a_prompt_begins_the_text(frame):
    tokens_L, given_L = frame.prompt("we the")
    text = [*frame.before, *TOKENIZER("we the", add_special_tokens=False).input_ids]
    assert given_L.nonzero()[:, 0].tolist() == list(range(len(text)))
    assert tokens_L[given_L].tolist() == text


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@given(parts=st.lists(letters, min_size=2, max_size=3))
def test_what_stands_around_holes_is_kept(frame, parts):
    """The given parts in order, between them holes that differ by one position at most."""
    tokens_L, given_L = frame.infill("___".join(parts))
    ids = [TOKENIZER(part, add_special_tokens=False).input_ids if part else [] for part in parts]
    wanted = [*frame.before, *(id for part in ids for id in part), *frame.after]
    assert tokens_L[given_L].tolist() == wanted
    tail = tokens_L.tolist()[L - len(ids[-1]) - len(frame.after) :]
    assert tail == [*ids[-1], *frame.after]
    ends = torch.nn.functional.pad((~given_L).long(), (1, 1)).diff()
    holes = (ends == -1).nonzero()[:, 0] - (ends == 1).nonzero()[:, 0]
    if all(parts[1:-1]):
        assert len(holes) == len(parts) - 1 and holes.max() - holes.min() <= 1
    assert holes.sum() == L - len(wanted)


def test_ends_are_left_out_where_they_are():
    frame = FRAMES["with ends"]
    inner = TOKENIZER("abc", add_special_tokens=False).input_ids
    assert frame.decode(torch.tensor([[BOS, *inner, EOS]])) == ["abc"]
    assert frame.decode(torch.tensor([[*inner, *inner]])) == ["abcabc"]


def test_what_has_no_place_is_one_sentence():
    frame = FRAMES["with ends"]
    assert frame.prompt("a" * (L - 2))[1].sum() == L - 1  # one position is left
    assert frame.infill("a" * (L - 3) + "___")[1].sum() == L - 1
    with pytest.raises(Refused, match=r"^--prompt takes 20 tokens of a text, BOS and EOS among"):
        frame.prompt("a" * (L - 1), "--prompt")
    with pytest.raises(Refused, match=r"^infill takes 20 tokens .* of which a hole needs one"):
        frame.infill("a" * (L - 4) + "___bb")
    with pytest.raises(Refused, match=r"^infill is 'abc'; it must have a hole, written ___"):
        frame.infill("abc")


def test_a_model_of_pairs_takes_a_prompt_that_does_not_end_its_text():
    frame = Frame(TOKENIZER, L, 33, form=Form("q", "a"))
    assert frame.decode(frame.prompt("we the")[0][None]) == ["we the"]
    with pytest.raises(Refused, match=r"^infill is 'a ___'; the model writes answers"):
        frame.infill("a ___")
    with pytest.raises(Refused, match=r"a token in it ends a text of this model"):
        frame.prompt("we\nthe")


def test_a_part_without_tokens_is_an_empty_one(monkeypatch):
    """As of a space, for a tokenizer of whole words."""
    monkeypatch.setattr(texts, "encode", lambda tokenizer, lines, key: [[] for _ in lines])
    assert FRAMES["without"].ids(" ", "prompt") == []
    assert FRAMES["without"].infill("a ___ ___ b")[1].sum() == 0


def test_what_the_vocabulary_lacks_is_one_sentence():
    with pytest.raises(Refused, match=r"^prompt is 'we 7'; the model's vocabulary has no token"):
        FRAMES["without"].prompt("we 7")
    with pytest.raises(Refused, match=r"^prompt is 'z'; the model's vocabulary has no token"):
        Frame(TOKENIZER, L, 20).prompt("z")
