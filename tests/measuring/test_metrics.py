"""duo_ext.measuring.metrics against plain loops."""

import importlib
import itertools
import json
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from duo_ext.measuring.judge import Scores
from duo_ext.measuring.metrics import (
    Reference,
    bigram_tv,
    distinct_n,
    energy,
    first_blocks,
    gen_ppl,
    mauve,
    measure,
    sample_entropy,
    unigram_kl,
)


def test_mauve_is_high_for_the_same_texts_and_low_for_others():
    pytest.importorskip("mauve", reason="mauve-text is not installed")
    rng = np.random.default_rng(0)
    same, again = rng.normal(size=(2, 200, 8)).astype(np.float32)
    assert mauve(same, again, seed=1) > 0.9 > 0.1 > mauve(same + 4, again, seed=1)
    assert mauve(same, again, seed=2**32 - 1) > 0.9


def test_without_mauve_text_there_is_no_mauve(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert mauve(np.zeros((2, 2)), np.zeros((2, 2)), seed=1) is None


def test_gen_ppl_is_weighted_by_tokens_and_repeats_by_seed():
    nll_N, tokens_N = np.array([10.0, 1.0, 0.0, 7.0]), np.array([5, 1, 0, 2])
    ppl = gen_ppl(nll_N, tokens_N, seed=3)
    assert ppl.value == pytest.approx(math.exp(18 / 8), rel=1e-12)
    assert ppl.low < ppl.value < ppl.high
    assert ppl == gen_ppl(nll_N, tokens_N, seed=3)
    many = np.random.default_rng(0).gamma(4.0, size=(2, 50))
    assert gen_ppl(*many, seed=3)[1:] != gen_ppl(*many, seed=4)[1:]


def test_gen_ppl_of_nothing_is_nan():
    assert all(math.isnan(x) for x in gen_ppl(np.zeros(3), np.zeros(3), seed=0))
    assert all(math.isnan(x) for x in gen_ppl(np.zeros(0), np.zeros(0), seed=0))
    assert math.isfinite(gen_ppl(np.array([0.0, 2.0]), np.array([0, 1]), seed=0).high)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty():
    rng, covered, widths, rounds = np.random.default_rng(0), 0, [], 300
    for seed in range(rounds):
        tokens_N = rng.integers(5, 40, size=80)
        nll_N = tokens_N * rng.gamma(9.0, 1 / 3, size=80)  # mean 3 nats a token
        ppl = gen_ppl(nll_N, tokens_N, seed, resamples=300)
        covered += ppl.low <= math.exp(3.0) <= ppl.high
        mean = nll_N.sum() / tokens_N.sum()
        error = (nll_N - mean * tokens_N).std() * 80**0.5 / tokens_N.sum()  # delta method
        widths.append(math.log(ppl.high / ppl.low) / (2 * 1.96 * error))
    assert 0.90 <= covered / rounds <= 0.985
    assert np.mean(widths) == pytest.approx(1.0, abs=0.05)


TOKENS = st.integers(1, 4).flatmap(
    lambda n: st.integers(4, 7).flatmap(
        lambda length: arrays(np.int64, (n, length), elements=st.integers(0, 4))
    )
)


def ngrams(tokens_NL, n):
    return [tuple(row[i : i + n]) for row in tokens_NL.tolist() for i in range(len(row) - n + 1)]


@settings(max_examples=60, deadline=None)
@given(TOKENS, TOKENS)
def test_statistics_equal_plain_loops(tokens_NL, held_out_NL):
    V, N = 5, len(tokens_NL)
    reference = Reference(torch.from_numpy(held_out_NL), V)

    entropy = 0.0
    for row in tokens_NL.tolist():
        entropy -= sum(c / len(row) * math.log(c / len(row)) for c in Counter(row).values()) / N
    assert sample_entropy(tokens_NL) == pytest.approx(entropy, abs=1e-12)

    p, q = Counter(ngrams(tokens_NL, 1)), Counter(ngrams(held_out_NL, 1))
    kl = sum(
        c / p.total() * math.log(c / p.total() / ((q[g] + 1) / (q.total() + V)))
        for g, c in p.items()
    )
    assert unigram_kl(tokens_NL, reference) == pytest.approx(kl, abs=1e-12)
    assert reference.unigram_V.sum() == pytest.approx(1.0)

    p, q = Counter(ngrams(tokens_NL, 2)), Counter(ngrams(held_out_NL, 2))
    tv = sum(abs(p[i, j] / p.total() - q[i, j] / q.total()) for i in range(V) for j in range(V))
    assert bigram_tv(tokens_NL, reference) == pytest.approx(tv / 2, abs=1e-12)

    for n in (1, 2, 3, 4):
        grams = ngrams(tokens_NL, n)
        assert distinct_n(tokens_NL, n) == len(set(grams)) / len(grams)
        assert distinct_n(torch.from_numpy(tokens_NL), n) == len(set(grams)) / len(grams)


def test_bigrams_of_a_large_vocabulary_are_sparse_and_do_not_overflow():
    V = 50258
    tokens_NL = np.array([[V - 1, V - 2, V - 1, V - 2]], dtype=np.int32)
    reference = Reference(tokens_NL, V)
    codes, shares = reference.bigrams
    assert codes.tolist() == [(V - 2) * V + V - 1, (V - 1) * V + V - 2]
    np.testing.assert_allclose(shares, [1 / 3, 2 / 3])
    assert bigram_tv(tokens_NL, reference) == 0
    assert bigram_tv(np.array([[0, 1, 2]]), reference) == pytest.approx(1.0)


def test_tokens_outside_the_vocabulary_are_refused():
    reference = Reference([[0, 1, 2]], 3)
    for statistic in (unigram_kl, bigram_tv):
        with pytest.raises(ValueError, match=r"between 0 and 3; the vocabulary has 0 to 2"):
            statistic([[0, 3]], reference)
    with pytest.raises(ValueError, match="between -1 and 2"):
        Reference([[-1, 2]], 3)


def test_samples_too_short_for_an_ngram_are_refused():
    with pytest.raises(ValueError, match="samples have 3 tokens; at least 4 are needed"):
        distinct_n([[0, 1, 2]], 4)
    with pytest.raises(ValueError, match="at least 2"):
        bigram_tv([[0]], Reference([[0, 1]], 2))


def test_measure_is_its_parts():
    rng = np.random.default_rng(0)
    tokens_NL = torch.from_numpy(rng.integers(0, 9, size=(6, 10)))
    reference = Reference(rng.integers(0, 9, size=(6, 10)), 9)
    scores = Scores(rng.uniform(5, 20, size=6), np.full(6, 9), np.zeros((6, 1)))
    ppl = gen_ppl(*scores[:2], seed=5)
    measured = measure(tokens_NL, scores, reference, seed=5)
    assert measured == {
        "genppl": ppl.value,
        "genppl_low": ppl.low,
        "genppl_high": ppl.high,
        "entropy": sample_entropy(tokens_NL),
        "unigram_kl": unigram_kl(tokens_NL, reference),
        "bigram_tv": bigram_tv(tokens_NL, reference),
        "distinct_2": distinct_n(tokens_NL, 2),
        "distinct_3": distinct_n(tokens_NL, 3),
        "distinct_4": distinct_n(tokens_NL, 4),
    }
    assert all(type(value) is float for value in measured.values())
    assert json.loads(json.dumps(measured)) == measured


def test_metrics_and_report_import_no_host_and_nothing_heavy():
    heavy = "{'hydra', 'lightning', 'pytorch_lightning', 'transformers', 'matplotlib'}"
    program = (
        f"import sys, duo_ext.measuring.metrics, duo_ext.report; print({heavy} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert out.stdout == "set()\n", out.stderr


def test_the_first_blocks_of_a_large_text_are_enough():
    """No part is read that is not needed."""
    parts = (torch.full((4, 8), n) for n in itertools.count())
    assert first_blocks(parts, most=80)[:, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert next(parts)[0, 0] == 3
    assert len(first_blocks([torch.zeros(3, 8)], most=80)) == 3


def test_energy_is_0_for_the_same_law_and_near_1_far_away():
    draw = np.random.default_rng(0)
    same, again = draw.normal(size=(2, 400, 8))
    assert energy(same, again) == pytest.approx(0, abs=0.003)
    shifted = [energy(same + shift, again) for shift in (0.1, 0.5, 100)]
    assert 0.003 < shifted[1] < shifted[2] < 1 and shifted[0] < shifted[1]
    assert shifted[2] > 0.95


def test_energy_by_hand():
    """Points 0, 2 and 1, 1: across 1, inside 2 and 0."""
    x, y = np.array([[0.0], [2.0]]), np.array([[1.0], [1.0]])
    assert energy(x, y) == pytest.approx((2 * 1 - 2 - 0) / 2)
    assert energy(x, y + 2) == pytest.approx((2 * 2 - 2 - 0) / 4)
