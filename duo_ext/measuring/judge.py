"""The judge: an autoregressive language model that scores texts.

Shapes: N texts, B of them a batch, T judge tokens a text, D the width of its last layer.
"""

import bisect
import contextlib
import sys
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import tqdm
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from duo_ext import Refused
from duo_ext.data import texts
from duo_ext.measuring import batches
from duo_ext.ranks import ALONE, Ranks

WANTED = (
    "the name or the directory of a transformers causal language model: config.json, "
    "model.safetensors and its tokenizer"
)
CONTEXTS = ("max_position_embeddings", "max_seq_len")  # a configuration's names of the context
TRIED = 1024  # tokens: a model that reads fewer than it says is found by a text of so many


class Scores(NamedTuple):
    """What a judge makes of N texts."""

    nll_N: np.ndarray  # negative log-likelihood of each text, in nats
    tokens_N: np.ndarray  # how many tokens of it were predicted
    features_ND: np.ndarray  # the judge's last hidden state at its last token


class Judge:
    """An autoregressive language model that scores text.

    ``name_or_path`` is what transformers loads: a name such as gpt2-large, or a directory with
    config.json, model.safetensors and a tokenizer; ``key`` is the setting that named it. The
    weights are read from safetensors only and run in float32 on ``device``, where they are only
    while texts are scored, ``batch_size`` of them at a time, by default as many as fit. ``name`` is
    the name to report, ``context`` the number of tokens that it reads.

    Raises Refused when the model cannot be loaded whole or cannot score a text: all that can be
    wrong with it is found here, before anything is sampled for it.
    """

    def __init__(
        self,
        name_or_path: str,
        device: str | torch.device,
        batch_size: int | None = None,
        key: str = "judge",
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
        self.device = torch.device(device)

    @contextlib.contextmanager
    def on_device(self) -> Iterator[torch.nn.Module]:
        """The model on its device for the length of a with block; between two it is on the CPU."""
        self.model.to(self.device)
        try:
            yield self.model
        finally:
            self.model.to("cpu")

    def score(self, given: list[str], ranks: Ranks = ALONE) -> Scores:
        """Negative log-likelihood, number of predicted tokens and features of each text.

        A text is tokenised by the judge's tokenizer and cut at the judge's context. Nothing is
        added, except the BOS at the start of a text that lacks it where the judge's config.json
        says ``starts_with_bos``: such a judge has seen no text without. The first token is given,
        not predicted. As in Duo, every other token counts except an end-of-text token (EOS) that
        is not the text's first one. Unlike in Duo, padding never counts, so that a score does not
        depend on the batch. A text of fewer than two tokens contributes (0, 0) and features of 0.

        The processes of a run, ``ranks``, share the batches; each gets all scores.
        """
        ids = [self._begun(row) for row in texts.encode(self.tokenizer, given, self.key)]
        nll_N, tokens_N = np.zeros(len(ids)), np.zeros(len(ids), dtype=np.int64)
        features_ND = np.zeros((len(ids), self.width), dtype=np.float32)
        scored = [n for n in range(len(ids)) if len(ids[n]) >= 2]
        size = self.batch_size or self._fitted(max(map(len, ids), default=0))
        chosen = [scored[start : start + size] for start in range(0, len(scored), size)]
        with self.on_device():
            found = ranks.shared(chosen, lambda batch: self._score([ids[n] for n in batch]))
        for batch, scores in zip(chosen, found, strict=True):
            nll_N[batch], tokens_N[batch], features_ND[batch] = scores
        return Scores(nll_N, tokens_N, features_ND)

    def warn_of_unread(self, given: list[str]) -> None:
        """Say it on stderr if more than 1 % of the tokens of texts are unknown to the judge."""
        ids = texts.encode(self.tokenizer, given, self.key)
        unread = sum(texts.unread(self.tokenizer, *pair) for pair in zip(given, ids, strict=True))
        share = unread / max(1, sum(map(len, ids)))
        if share > 0.01:
            tqdm.tqdm.write(
                f"warning: {self.key} is '{self.given}', to which {share:.0%} of the held-out "
                "text's tokens are unknown: GenPPL and what else it measures say little",
                file=sys.stderr,
            )

    def nll(self, given: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(nll_N, tokens_N) of ``score``, by this process alone."""
        return self.score(given)[:2]

    def _fitted(self, length: int) -> int:
        """How many texts of this length fit at a time."""
        return batches.fitted(batches.of_logits(max(2, length), self.vocab_size, self.width))

    def _begun(self, ids: list[int]) -> list[int]:
        ids = ids if ids[:1] == self.start else [*self.start, *ids]
        return ids[: self.context]

    @torch.no_grad()
    def _score(self, ids: list[list[int]]) -> Scores:
        """``score`` of one batch of token lists."""
        ids_BT, real_BT = self._padded(ids)
        logits_BTV, hidden_BTD = self._read(ids_BT, real_BT)
        nll_BT = torch.cat(  # text by text: it makes two copies of the logits
            [
                F.cross_entropy(logits_1TV[:, :-1].transpose(1, 2), ids_1T[:, 1:], reduction="none")
                for logits_1TV, ids_1T in zip(logits_BTV.split(1), ids_BT.split(1), strict=True)
            ]
        ).double()
        eos = self.tokenizer.eos_token_id
        eos_BT = ids_BT == (-1 if eos is None else eos)
        counted_BT = (real_BT.bool() & (~eos_BT | (eos_BT.cumsum(1) == 1)))[:, 1:]
        nll_B = torch.where(counted_BT, nll_BT, 0.0).sum(1)
        features_BD = hidden_BTD[torch.arange(len(ids), device=self.device), real_BT.sum(1) - 1]
        return Scores(*(t.cpu().numpy() for t in (nll_B, counted_BT.sum(1), features_BD)))

    def _padded(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Token lists as one batch, padded on the right, and where it is not padding."""
        rows = [torch.tensor(row, device=self.device) for row in ids]
        real = [torch.ones_like(row) for row in rows]
        return pad_sequence(rows, batch_first=True), pad_sequence(real, batch_first=True)

    def _read(self, ids_BT: Tensor, real_BT: Tensor) -> tuple[Tensor, ...]:
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
        said = said_context(self.model.config) or self.tokenizer.model_max_length
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


def said_context(config: object) -> int | None:
    """The number of tokens that a model's configuration says it reads, if it says one."""
    said = (getattr(config, name, None) for name in CONTEXTS)
    return next((number for number in said if number and number > 0), None)


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
