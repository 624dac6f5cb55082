"""measuring.held_out: which prompts samples get, what of them is measured, how they are scored."""

import json

import pytest
import torch
import transformers

from duo_ext.data import corpus
from duo_ext.data.pairs import Form, Pairs, Source
from duo_ext.measuring import held_out, metrics

TOKENIZER = transformers.AutoTokenizer.from_pretrained(corpus.asset("tokenizers/sotu32"))
V, EOS = 32, 0
LINES = [{"q": q, "a": a} for q, a in (("ab", "c"), ("b", "dd"), ("abc", "e"))]


@pytest.fixture
def pairs(tmp_path):
    (tmp_path / "f").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    source = Source(str(tmp_path / "f"), Form("q", "a", score="exact"))
    return Pairs(source, TOKENIZER, 6, str(tmp_path), "the key")


def ids(text):
    return TOKENIZER(text, add_special_tokens=False).input_ids


def test_whole_texts_are_measured_whole():
    blocks = [{"input_ids": torch.arange(8).view(2, 4) + n} for n in range(3)]
    found = held_out.of(blocks, blocks, TOKENIZER, V)
    assert found.tokens_NL.shape == (6, 4) and found.given(5) is None
    assert found.written(found.tokens_NL).equal(found.tokens_NL) and found.right(["a"]) is None
    assert found.texts(found.tokens_NL) == TOKENIZER.batch_decode(found.tokens_NL)
    assert len(found.some(4)) == 4 and len(found.some(9)) == 6


def test_the_first_tokens_of_whole_texts_may_be_given():
    """They are real ones, and what follows them alone is measured."""
    blocks = [{"input_ids": torch.arange(8).view(2, 4) + n} for n in range(2)]
    found = held_out.of(blocks, blocks, TOKENIZER, V, prompt_length=1)
    x0_NL, given_NL = found.given(6)
    assert x0_NL.equal(found.tokens_NL[[0, 1, 2, 3, 0, 1]])
    assert given_NL.tolist() == [[True, False, False, False]] * 6
    assert found.written(x0_NL).equal(x0_NL[:, 1:]) and found.blocks.shape == (4, 3)


def test_prompts_are_spread_evenly_or_come_again(pairs):
    found = held_out.of(pairs, None, TOKENIZER, V)
    for count, wanted in ((2, [0, 1]), (3, [0, 1, 2]), (5, [0, 1, 2, 0, 1])):
        tokens_NL, given_NL = found.given(count)
        prompts = [x_L[own_L].tolist() for x_L, own_L in zip(tokens_NL, given_NL, strict=True)]
        assert prompts == [ids(LINES[n]["q"]) for n in wanted]


def test_completions_end_at_their_first_end(pairs):
    found = held_out.of(pairs, None, TOKENIZER, V)
    x, y = ids("xy")
    samples_NL = torch.tensor(
        [
            [*ids("ab"), x, y, EOS, x],  # behind the end stands what does not count
            [*ids("b"), x, x, x, x, y],  # no end
            [*ids("abc"), EOS, x, EOS],  # nothing
        ]
    )
    written = [part.tolist() for part in found.written(samples_NL)]
    assert written == [[x, y], [x, x, x, x, y], []]
    assert found.texts(samples_NL) == ["xy", "xxxxy", ""]
    assert found.right(["c", "d", "e"]) == [True, False, True]
    assert found.right(["c", "dd", "e", "c", "e"]) == [True, True, True, True, False]
    assert [part.tolist() for part in found.blocks] == [ids(line["a"]) for line in LINES]


def test_statistics_are_those_of_completions(pairs):
    found = held_out.of(pairs, None, TOKENIZER, V)
    assert metrics.unigram_kl(found.blocks, metrics.Reference(found.blocks, V)) < 2.5
    counts = torch.bincount(torch.tensor(ids("cdde")), minlength=V) + 1.0
    assert found.reference.unigram_V == pytest.approx((counts / counts.sum()).numpy())
    codes, shares = found.reference.bigrams
    assert codes.tolist() == [ids("d")[0] * (V + 1)] and shares.tolist() == [1.0]
    assert metrics.sample_entropy(found.blocks) == 0
    assert metrics.distinct_n(found.blocks, 2) == 1


def test_texts_of_different_lengths_have_the_statistics_of_their_rows():
    rows = [torch.tensor([1, 2, 1, 2]), torch.tensor([3]), torch.tensor([], dtype=torch.long)]
    assert metrics.sample_entropy(rows) == pytest.approx(torch.tensor(2.0).log().item() / 3)
    assert metrics.distinct_n(rows, 2) == pytest.approx(2 / 3)
    assert metrics.distinct_n(rows, 5) != metrics.distinct_n(rows, 5)  # nan
    same = torch.arange(8).view(2, 4)
    reference = metrics.Reference(same, 9)
    for statistic in (metrics.unigram_kl, metrics.bigram_tv):
        assert statistic(list(same), reference) == statistic(same, reference)
    assert metrics.bigram_tv([rows[2]], reference) == pytest.approx(0.5)


def test_the_interval_of_an_accuracy():
    found = held_out.accuracy([True] * 8 + [False] * 2)
    assert found["accuracy"] == 0.8
    low, high = found["accuracy_low"], found["accuracy_high"]
    assert (low, high) == pytest.approx((0.490, 0.943), abs=1e-3)  # Wilson's, by hand
    assert held_out.accuracy([False] * 9)["accuracy_low"] == pytest.approx(0)
