"""The validation data of a model: what its samples are compared with, what is given of them, and
what of them is measured."""

import functools
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from duo_ext.data.pairs import Pairs, padding_of
from duo_ext.data.texts import Tokenizer
from duo_ext.measuring import metrics, scores, words

Rows: TypeAlias = Tensor | list[Tensor]  # tokens (N, L), or of N texts of different lengths


class HeldOut:
    """Whole texts, of which the first ``prompt_length`` tokens are given; ``tokens_NL`` are the
    first blocks of them."""

    def __init__(
        self, tokens_NL: Tensor, tokenizer: Tokenizer, vocab_size: int, prompt_length: int = 0
    ):
        self.tokens_NL, self.tokenizer, self.vocab_size = tokens_NL, tokenizer, vocab_size
        self.prompt_length = prompt_length

    def given(self, count: int) -> tuple[Tensor, Tensor] | None:
        """What is given of ``count`` samples: (x0, given), (count, L) each; None for nothing."""
        if self.prompt_length == 0:
            return None
        x0_NL = self.tokens_NL[torch.arange(count) % len(self.tokens_NL)]
        return x0_NL, (torch.arange(x0_NL.shape[1]) < self.prompt_length).expand(count, -1)

    def written(self, tokens_NL: Tensor) -> Rows:
        """What a model has written of samples (N, L), in which ``given(N)`` was given."""
        return tokens_NL[:, self.prompt_length :]

    def texts(self, tokens_NL: Tensor) -> list[str]:
        """The same as texts."""
        return self.tokenizer.batch_decode(list(self.written(tokens_NL)))

    def right(self, texts: list[str]) -> list[bool] | None:
        """Whether each of N texts is the right answer; None for data without answers."""
        return None

    @property
    def blocks(self) -> Rows:
        """The held-out texts, as ``written`` gives a sample's."""
        return self.written(self.tokens_NL)

    def some(self, count: int) -> list[str]:
        """At most ``count`` of them, evenly over all."""
        places = torch.linspace(0, len(self.blocks) - 1, min(count, len(self.blocks))).long()
        return self.tokenizer.batch_decode([self.blocks[place] for place in places])

    @functools.cached_property
    def reference(self) -> metrics.Reference:
        """Their statistics."""
        return metrics.Reference(self.blocks, self.vocab_size)

    @functools.cached_property
    def word_length(self) -> float | None:
        """The mean number of letters of their words."""
        return words.length(self.tokenizer.batch_decode(list(self.blocks[: words.BLOCKS])))


class HeldOutPairs(HeldOut):
    """Pairs of prompt and completion: samples are given the prompts, and completions are measured.

    Of N samples the n-th has a prompt of its own, evenly over all; where there are fewer prompts
    they come again.
    """

    def __init__(self, pairs: Pairs, tokenizer: Tokenizer, vocab_size: int):
        self.pairs = pairs
        most = max(1, metrics.HELD_OUT // pairs.length)
        tokens_NL, self._given_NL = self._blocks(range(min(most, len(pairs))))
        super().__init__(tokens_NL, tokenizer, vocab_size)
        form = pairs.source.form
        self._right = form.score and scores.find(form.score)

    def _blocks(self, places):
        blocks = [self.pairs[place] for place in places]
        tokens_NL = torch.stack([block["input_ids"] for block in blocks])
        return tokens_NL, torch.stack([block["attention_mask"] == 0 for block in blocks])

    def _places(self, count):
        size = len(self.pairs)
        return [n * size // count if count <= size else n % size for n in range(count)]

    def given(self, count: int) -> tuple[Tensor, Tensor]:
        return self._blocks(self._places(count))

    def written(self, tokens_NL: Tensor) -> list[Tensor]:
        """Completions, without the EOS or padding that ends them and what follows it."""
        return self._completions(tokens_NL, self.given(len(tokens_NL))[1])

    @functools.cached_property
    def blocks(self) -> list[Tensor]:
        return self._completions(self.tokens_NL, self._given_NL)

    def _completions(self, tokens_NL, given_NL):
        return [self._cut(x_L[~own_L]) for x_L, own_L in zip(tokens_NL, given_NL, strict=True)]

    def _cut(self, tokens):
        ends = torch.tensor([self.tokenizer.eos_token_id, padding_of(self.tokenizer)])
        found = torch.isin(tokens, ends)
        return tokens[: int(found.int().argmax()) if found.any() else len(tokens)]

    def right(self, texts: list[str]) -> list[bool] | None:
        if self._right is None:
            return None
        lines = [int(self.pairs.rows[place][0]) for place in self._places(len(texts))]
        known = sorted(set(lines))
        answers = dict(zip(known, self.pairs.source.answers(known), strict=True))
        return self._right(texts, [answers[line] for line in lines])


def of(
    data: torch.utils.data.Dataset,
    batches: Iterable[dict],
    tokenizer: Tokenizer,
    vocab_size: int,
    prompt_length: int = 0,
) -> HeldOut:
    """That of a data set, which ``batches`` go through; of whole texts ``prompt_length`` tokens are
    given."""
    if isinstance(data, Pairs):
        return HeldOutPairs(data, tokenizer, vocab_size)
    blocks_NL = metrics.first_blocks(batch["input_ids"] for batch in batches)
    return HeldOut(blocks_NL, tokenizer, vocab_size, prompt_length)


def accuracy(right: list[bool]) -> dict[str, float]:
    """The share of right answers, with its 95 % interval (Wilson's)."""
    n, p, z = len(right), float(np.mean(right)), 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return {"accuracy": p, "accuracy_low": middle - half, "accuracy_high": middle + half}
