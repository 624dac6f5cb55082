"""Quality of samples, measured in one place for the distillation guard and for evaluation.

Shapes: N samples, L tokens a sample, V token values, K distinct bigrams, R bootstrap resamples.
Tokens are integer tensors or arrays (N, L), or a list of N tensors where texts differ in length;
all sums are float64; entropies and divergences are in nats.
"""

import importlib.util
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from duo_ext import Refused
from duo_ext.measuring.judge import Scores

HELD_OUT = 4_000_000  # tokens
Tokens: TypeAlias = Tensor | np.ndarray | list[Tensor]


class Interval(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def gen_ppl(nll_N: np.ndarray, tokens_N: np.ndarray, seed: int, resamples: int = 1000) -> Interval:
    """Generative perplexity exp(sum of nll / sum of tokens), with a 95 % percentile bootstrap.

    ``nll_N`` (nats) and ``tokens_N`` are those of ``Judge.score``. Whole samples are resampled, by
    ``seed``. Without a single predicted token all three numbers are nan.
    """
    nll_N, tokens_N = np.asarray(nll_N, dtype=np.float64), np.asarray(tokens_N)
    if not tokens_N.sum():
        return Interval(np.nan, np.nan, np.nan)
    draw_RN = np.random.default_rng(seed).integers(len(nll_N), size=(resamples, len(nll_N)))
    nll_R, tokens_R = nll_N[draw_RN].sum(1), tokens_N[draw_RN].sum(1)
    low, high = np.percentile(np.exp(nll_R[tokens_R > 0] / tokens_R[tokens_R > 0]), [2.5, 97.5])
    return Interval(float(np.exp(nll_N.sum() / tokens_N.sum())), float(low), float(high))


def mauve(features_ND: np.ndarray, reference_MD: np.ndarray, seed: int) -> float | None:
    """MAUVE (arXiv 2102.01454), 0 to 1, of samples against reference texts by the judge's features
    ``Judge.score(...).features_ND``; None where mauve-text is not installed."""
    if not importlib.util.find_spec("mauve"):
        return None
    import mauve

    found = mauve.compute_mauve(
        p_features=features_ND,
        q_features=reference_MD,
        seed=seed % 2**30,  # its clustering takes no larger one
        verbose=False,
    )
    return float(found.mauve)


def energy(features_ND: np.ndarray, reference_MD: np.ndarray) -> float:
    """Energy distance of samples from reference texts, by the judge's features: as a share of twice
    the mean distance between the two, 0 for equal laws, at most 1; unbiased but for that division.
    """
    x, y = (torch.as_tensor(part).double() for part in (features_ND, reference_MD))
    across = torch.cdist(x, y).mean()
    inside = [torch.cdist(part, part).sum() / (len(part) * (len(part) - 1)) for part in (x, y)]
    return float((2 * across - sum(inside)) / (2 * across))


def sample_entropy(tokens_NL: Tokens) -> float:
    """Mean over the samples of the entropy (nats) of a sample's own token histogram, as in Duo."""
    entropies = []
    for tokens_L in _rows(tokens_NL):
        p = np.unique(tokens_L, return_counts=True)[1] / max(1, len(tokens_L))
        entropies.append(-(p * np.log(p)).sum())
    return float(np.mean(entropies))


class Reference:
    """Token statistics of held-out data, to compare samples with.

    ``unigram_V``: probabilities with one added to every count, (c + 1) / (total + V), so that each
    is positive and a KL divergence to them finite. ``bigrams``: the distinct pairs of neighbours
    (i, j) as codes iV + j, ascending (K,), and their unsmoothed probabilities (K,).

    Raises Refused when a token lies outside 0 .. ``vocab_size`` - 1 or L < 2.
    """

    def __init__(self, tokens_NL: Tokens, vocab_size: int):
        rows = _rows(tokens_NL, vocab_size, length=2)
        counts_V = np.bincount(np.concatenate(rows), minlength=vocab_size) + 1.0
        self.vocab_size = vocab_size
        self.unigram_V = counts_V / counts_V.sum()
        self.bigrams = _bigrams(rows, vocab_size)


def first_blocks(parts: Iterable[Tensor], most: int = HELD_OUT) -> Tensor:
    """The first blocks (N, L) out of parts (n, L), as many as ``most`` tokens fill, at least one.

    To count unigrams and bigrams no more of a validation text is needed.
    """
    taken, tokens = [], 0
    for part_NL in parts:
        taken.append(part_NL)
        tokens += part_NL.numel()
        if tokens >= most:
            break
    blocks_NL = torch.cat(taken)
    return blocks_NL[: max(1, most // blocks_NL.shape[1])]


def unigram_kl(tokens_NL: Tokens, reference: Reference) -> float:
    """KL(token frequencies of the samples || smoothed frequencies of the reference), in nats.

    Raises Refused when a token lies outside the reference's vocabulary.
    """
    tokens = np.concatenate(_rows(tokens_NL, reference.vocab_size))
    p_V = np.bincount(tokens, minlength=reference.vocab_size) / max(1, len(tokens))
    seen = p_V > 0
    return float((p_V[seen] * np.log(p_V[seen] / reference.unigram_V[seen])).sum())


def bigram_tv(tokens_NL: Tokens, reference: Reference) -> float:
    """Total variation, 0 to 1, between the bigrams inside the samples and the reference's.

    Raises Refused when a token lies outside the reference's vocabulary or L < 2.
    """
    codes, p = _bigrams(_rows(tokens_NL, reference.vocab_size, length=2), reference.vocab_size)
    reference_codes, q = reference.bigrams
    _, where = np.unique(np.concatenate([codes, reference_codes]), return_inverse=True)
    return float(np.abs(np.bincount(where, weights=np.concatenate([p, -q]))).sum() / 2)


def distinct_n(tokens_NL: Tokens, n: int) -> float:
    """Distinct n-grams / all n-grams over the whole set; no n-gram spans two samples.

    Raises Refused when L < n; where texts differ in length it is nan if none has n tokens.
    """
    rows = [tokens_L for tokens_L in _rows(tokens_NL, length=n) if len(tokens_L) >= n]
    if not rows:
        return np.nan
    grams = np.concatenate([np.lib.stride_tricks.sliding_window_view(row, n) for row in rows])
    return len(np.unique(grams, axis=0)) / len(grams)


def measure(tokens_NL: Tokens, scores: Scores, reference: Reference, seed: int) -> dict[str, float]:
    """The numbers of a row of results.json that depend on the samples and the reference alone.

    ``scores`` are the judge's of the N samples decoded; ``seed`` is the bootstrap's. Raises
    Refused when a token lies outside the reference's vocabulary or L < 4.
    """
    assert len(scores.nll_N) == len(tokens_NL), f"{len(scores.nll_N)} for {len(tokens_NL)} samples"
    ppl = gen_ppl(scores.nll_N, scores.tokens_N, seed)
    return {
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


def _bigrams(rows: list[np.ndarray], vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes iV + j of the distinct neighbours (i, j), ascending (K,), and their shares (K,)."""
    pairs = np.concatenate([row[:-1] * vocab_size + row[1:] for row in rows])
    codes, counts = np.unique(pairs, return_counts=True)
    return codes, counts / max(1, len(pairs))


def _rows(tokens_NL: Tokens, vocab_size: int | None = None, length: int = 1) -> list[np.ndarray]:
    """The N texts as int64 arrays, if given all in the vocabulary; of (N, L), L is at least
    ``length``."""
    rows = [np.asarray(tokens_L, dtype=np.int64) for tokens_L in _on_cpu(tokens_NL)]
    assert rows and all(row.ndim == 1 for row in rows), "tokens are no (N, L)"
    of_one_length = not (isinstance(tokens_NL, list) and isinstance(tokens_NL[0], Tensor))
    if of_one_length and len(rows[0]) < length:
        raise Refused(f"samples have {len(rows[0])} tokens; at least {length} are needed")
    tokens = np.concatenate(rows)
    if vocab_size is not None and len(tokens):
        least, most = tokens.min(), tokens.max()
        if least < 0 or most >= vocab_size:
            raise Refused(
                f"tokens lie between {least} and {most}; the vocabulary has 0 to {vocab_size - 1}"
            )
    return rows


def _on_cpu(tokens_NL):
    return tokens_NL.cpu().numpy() if isinstance(tokens_NL, Tensor) else tokens_NL
