"""Quality of samples, measured in one place for the distillation guard and for evaluation.

Shapes: N samples, L tokens a sample, V token values, K distinct bigrams, R bootstrap resamples,
B texts a batch, T judge tokens a text. Tokens are integer tensors or arrays (N, L); all sums are
float64; entropies and divergences are in nats.
"""

import bisect
import importlib.util
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from duo_ext import Refused, texts

WANTED = (
    "the name or the directory of a transformers causal language model: config.json, "
    "model.safetensors and its tokenizer"
)
CONTEXTS = ("max_position_embeddings", "max_seq_len")  # what configurations call it
TRIED = 1024  # tokens; tables of positions that end elsewhere than they say are shorter


class Interval(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Scores(NamedTuple):
    """What a judge makes of N texts: negative log-likelihoods (nats) and numbers of predicted
    tokens, (N,); its last layer at each text's last token, (N, D)."""

    nll_N: np.ndarray
    tokens_N: np.ndarray
    features_ND: np.ndarray


class Judge:
    """An autoregressive language model that scores text.

    ``name_or_path`` is what transformers loads: a name such as gpt2-large, or a directory with
    config.json, model.safetensors and a tokenizer; ``key`` is the setting that named it. The
    weights are read from safetensors only and run in float32 on ``device``, ``batch_size`` texts at
    a time. ``name`` is the name to report, ``context`` the number of tokens that it reads.

    Raises Refused when the model cannot be loaded whole or cannot score a text: all that can be
    wrong with it is found here, before anything is sampled for it.
    """

    def __init__(
        self, name_or_path: str, device: str | torch.device, batch_size: int = 8, key: str = "judge"
    ):
        self.given, self.key, self.batch_size = name_or_path, key, batch_size
        self.model = _load_model(name_or_path, key).float().eval()
        self.model.config.use_cache = False  # for generation; some architectures' fail without it
        self.tokenizer = texts.tokenizer(name_or_path, key, WANTED)
        directory = Path(name_or_path)
        self.name = directory.resolve().name if directory.is_dir() else name_or_path
        self.device = torch.device("cpu")  # where an index that is too large harms nothing
        self.start, self.vocab_size = self._check_ids()
        try:
            self.context, self.width = self._try_lengths()
            self._require_causal()
        except Refused:
            raise
        except Exception as error:  # what a model raises depends on its architecture
            raise self._refusal(f"it cannot score a text ({texts.reason(error)})") from error
        self.model.to(device)
        self.device = device

    def score(self, given: list[str]) -> Scores:
        """Negative log-likelihood, number of predicted tokens and features of each text.

        A text is tokenised by the judge's tokenizer and cut at the judge's context. Nothing is
        added, except the BOS at the start of a text that lacks it where the judge's config.json
        says ``starts_with_bos``: such a judge has seen no text without. The first token is given,
        not predicted. As in Duo, every other token counts except an end-of-text token (EOS) that
        is not the text's first one. Unlike in Duo, padding never counts, so that a score does not
        depend on the batch. A text of fewer than two tokens contributes (0, 0) and features of 0.
        """
        ids = [self._begun(row) for row in texts.encode(self.tokenizer, given, self.key)]
        nll_N, tokens_N = np.zeros(len(ids)), np.zeros(len(ids), dtype=np.int64)
        features_ND = np.zeros((len(ids), self.width), dtype=np.float32)
        scored = [n for n in range(len(ids)) if len(ids[n]) >= 2]
        for start in range(0, len(scored), self.batch_size):
            batch = scored[start : start + self.batch_size]
            found = self._score([ids[n] for n in batch])
            nll_N[batch], tokens_N[batch], features_ND[batch] = found
        return Scores(nll_N, tokens_N, features_ND)

    def nll(self, given: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The first two of ``score``."""
        return self.score(given)[:2]

    def _begun(self, ids: list[int]) -> list[int]:
        ids = ids if ids[:1] == self.start else [*self.start, *ids]
        return ids[: self.context]

    @torch.no_grad()
    def _score(self, ids: list[list[int]]) -> Scores:
        """``score`` of one batch of token lists."""
        ids_BT, real_BT = self._padded(ids)
        logits_BTV, hidden_BTD = self._read(ids_BT, real_BT)
        nll_BT = F.cross_entropy(
            logits_BTV[:, :-1].transpose(1, 2), ids_BT[:, 1:], reduction="none"
        ).double()
        eos = self.tokenizer.eos_token_id
        eos_BT = ids_BT == (-1 if eos is None else eos)
        counted_BT = (real_BT.bool() & (~eos_BT | (eos_BT.cumsum(1) == 1)))[:, 1:]
        nll_B = torch.where(counted_BT, nll_BT, 0.0).sum(1)
        features_BD = hidden_BTD[torch.arange(len(ids), device=self.device), real_BT.sum(1) - 1]
        return Scores(*(t.cpu().numpy() for t in (nll_B, counted_BT.sum(1), features_BD)))

    def _padded(self, ids: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token lists as one batch, padded on the right, and where it is not padding."""
        rows = [torch.tensor(row, device=self.device) for row in ids]
        real = [torch.ones_like(row) for row in rows]
        return pad_sequence(rows, batch_first=True), pad_sequence(real, batch_first=True)

    def _read(self, ids_BT: torch.Tensor, real_BT: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits, and what the last layer makes them of; the other layers' output is not kept."""
        seen = []
        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        try:
            return self.model(input_ids=ids_BT, attention_mask=real_BT).logits, seen[0]
        finally:
            hook.remove()

    # before the first score ------------------------------------------------------------------

    def _refusal(self, what: str) -> Refused:
        return Refused(f"{self.key} is {self.given!r}: {what}; it must be {WANTED}")

    def _check_ids(self) -> tuple[list[int], int]:
        """What every text starts with, and the number of ids of the judge's tokenizer."""
        config, vocab_size = self.model.config, max(self.tokenizer.get_vocab().values()) + 1
        embedded = self.model.get_input_embeddings().weight.shape[0]
        if vocab_size > embedded:
            raise self._refusal(f"its tokenizer has {vocab_size} ids, its model {embedded}")
        if not getattr(config, "starts_with_bos", False):
            return [], vocab_size
        if config.bos_token_id not in range(embedded):
            raise self._refusal(
                f"it starts_with_bos, but its bos_token_id is {config.bos_token_id}"
            )
        return [config.bos_token_id], vocab_size

    def _ordinary(self, length: int) -> list[int]:
        """Token ids of a text of this length without special tokens."""
        return list(islice(cycle(texts.ordinary(self.tokenizer)), length))

    def _try_lengths(self) -> tuple[int, int]:
        """The longest text that the model reads, and the width of its features.

        The first is what its configuration says, unless it fails at a text of that length, or of
        ``TRIED`` tokens if that is less: RoBERTa's counts positions that no token can have.
        """
        said = [getattr(self.model.config, name, None) for name in CONTEXTS]
        said = next(n for n in (*said, self.tokenizer.model_max_length) if n and n > 0)
        tried = self._ordinary(min(said, TRIED))

        def fails(length):
            try:
                self._score([tried[:length]])
            except (IndexError, RuntimeError):
                return True
            return False

        width = self._score([tried[:2]]).features_ND.shape[1]
        if fails(len(tried)):
            lengths = range(2, len(tried))
            said = lengths[bisect.bisect_left(lengths, True, key=fails) - 1]
        return said, width

    @torch.no_grad()
    def _require_causal(self):
        """Raise Refused where what a token is given depends on the tokens behind it, or on padding:
        encoders such as BERT load as causal language models too."""
        long = self._ordinary(min(8, self.context))
        short = long[: len(long) // 2]
        both_BTV, _ = self._read(*self._padded([long, short]))
        alone_BTV, _ = self._read(*self._padded([short]))
        alone_BTV = alone_BTV.log_softmax(-1)[..., long]
        both_BTV = both_BTV[:, : len(short)].log_softmax(-1)[..., long]
        if not alone_BTV.isfinite().all():
            raise self._refusal("its probabilities are not finite")
        if (both_BTV - alone_BTV).abs().max() > 1e-3 * alone_BTV.std():
            raise self._refusal("what it says of a token depends on the tokens behind it")


def _load_model(name_or_path: str, key: str):
    """The model; Refused unless it loads and every weight is in the checkpoint."""
    import transformers

    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            name_or_path, use_safetensors=True, output_loading_info=True
        )
        if info["missing_keys"]:
            raise Refused(f"the checkpoint lacks {min(info['missing_keys'])}")
        return model
    except Exception as error:  # transformers and safetensors each raise their own
        raise Refused(
            f"{key} is {name_or_path!r}; it must be {WANTED} ({texts.reason(error)})"
        ) from error


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
        p_features=features_ND, q_features=reference_MD, seed=seed, verbose=False
    )
    return float(found.mauve)


def sample_entropy(tokens_NL) -> float:
    """Mean over the samples of the entropy (nats) of a sample's own token histogram, as in Duo."""
    entropies = []
    for tokens_L in _array(tokens_NL):
        p = np.unique(tokens_L, return_counts=True)[1] / len(tokens_L)
        entropies.append(-(p * np.log(p)).sum())
    return float(np.mean(entropies))


class Reference:
    """Token statistics of held-out data, to compare samples with.

    ``unigram_V``: probabilities with one added to every count, (c + 1) / (total + V), so that each
    is positive and a KL divergence to them finite. ``bigrams``: the distinct pairs of neighbours
    (i, j) as codes iV + j, ascending (K,), and their unsmoothed probabilities (K,).

    Raises Refused when a token lies outside 0 .. ``vocab_size`` - 1 or L < 2.
    """

    def __init__(self, tokens_NL, vocab_size: int):
        tokens_NL = _array(tokens_NL, vocab_size, length=2)
        counts_V = np.bincount(tokens_NL.ravel(), minlength=vocab_size) + 1.0
        self.vocab_size = vocab_size
        self.unigram_V = counts_V / counts_V.sum()
        self.bigrams = _bigrams(tokens_NL, vocab_size)


def unigram_kl(tokens_NL, reference: Reference) -> float:
    """KL(token frequencies of the samples || smoothed frequencies of the reference), in nats.

    Raises Refused when a token lies outside the reference's vocabulary.
    """
    tokens_NL = _array(tokens_NL, reference.vocab_size)
    p_V = np.bincount(tokens_NL.ravel(), minlength=reference.vocab_size) / tokens_NL.size
    seen = p_V > 0
    return float((p_V[seen] * np.log(p_V[seen] / reference.unigram_V[seen])).sum())


def bigram_tv(tokens_NL, reference: Reference) -> float:
    """Total variation, 0 to 1, between the bigrams inside the samples and the reference's.

    Raises Refused when a token lies outside the reference's vocabulary or L < 2.
    """
    tokens_NL = _array(tokens_NL, reference.vocab_size, length=2)
    codes, p = _bigrams(tokens_NL, reference.vocab_size)
    reference_codes, q = reference.bigrams
    _, where = np.unique(np.concatenate([codes, reference_codes]), return_inverse=True)
    return float(np.abs(np.bincount(where, weights=np.concatenate([p, -q]))).sum() / 2)


def distinct_n(tokens_NL, n: int) -> float:
    """Distinct n-grams / all n-grams over the whole set; no n-gram spans two samples.

    Raises Refused when L < n.
    """
    tokens_NL = _array(tokens_NL, length=n)
    grams = np.lib.stride_tricks.sliding_window_view(tokens_NL, n, axis=1).reshape(-1, n)
    return len(np.unique(grams, axis=0)) / len(grams)


@torch.no_grad()
def draw(batch, samples: int, batch_size: int) -> torch.Tensor:
    """Tokens (``samples``, L) on the CPU from ``batch(size)``, ``batch_size`` or less at a time."""
    sizes = [min(batch_size, samples - start) for start in range(0, samples, batch_size)]
    return torch.cat([batch(size).cpu() for size in sizes])


def measure(tokens_NL, scores: Scores, reference: Reference, seed: int) -> dict[str, float]:
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


def _bigrams(tokens_NL: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes iV + j of the distinct neighbours (i, j), ascending (K,), and their shares (K,)."""
    codes, counts = np.unique(tokens_NL[:, :-1] * vocab_size + tokens_NL[:, 1:], return_counts=True)
    return codes, counts / counts.sum()


def _array(tokens_NL, vocab_size: int | None = None, length: int = 1) -> np.ndarray:
    """Tokens as an int64 array (N, L) with L >= ``length`` and, if given, all in the vocabulary."""
    if isinstance(tokens_NL, torch.Tensor):
        tokens_NL = tokens_NL.cpu().numpy()
    tokens_NL = np.asarray(tokens_NL, dtype=np.int64)
    assert tokens_NL.ndim == 2 and tokens_NL.size, f"tokens of shape {tokens_NL.shape}, not (N, L)"
    if tokens_NL.shape[1] < length:
        raise Refused(f"samples have {tokens_NL.shape[1]} tokens; at least {length} are needed")
    if vocab_size is not None and not 0 <= tokens_NL.min() <= tokens_NL.max() < vocab_size:
        raise Refused(
            f"tokens lie between {tokens_NL.min()} and {tokens_NL.max()}; "
            f"the vocabulary has 0 to {vocab_size - 1}"
        )
    return tokens_NL
