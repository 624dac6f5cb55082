"""Texts of which a part is given: what a text begins with, or what stands around its holes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from duo_ext import Refused
from duo_ext.data import texts
from duo_ext.data.pairs import Form, padding_of
from duo_ext.data.texts import Tokenizer

HOLE = "___"


@dataclass(frozen=True)
class Frame:
    """What a model's texts are: ``length`` tokens out of ``vocab_size``, the first ones ``before``
    (BOS) and the last ones ``after`` (EOS), where its data has them. ``form`` is that of pairs,
    whose texts end with their first EOS."""

    tokenizer: Tokenizer
    length: int
    vocab_size: int
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    form: Form | None = None

    def prompt(self, text: str, key: str = "prompt") -> tuple[Tensor, Tensor]:
        """(tokens (L,), which of them are given (L,)) of a text that begins with ``text``, or of a
        pair that has it as its prompt.

        ``key`` is how a sentence names it. Raises Refused for what the model has no tokens for, and
        for a prompt that leaves nothing to write.
        """
        given = self.form.given(text) if self.form else text
        return self._given([[*self.before, *self.ids(given, key)], []], key)

    def infill(self, text: str, key: str = "infill") -> tuple[Tensor, Tensor]:
        """The same for a text with holes, ``HOLE``, which share alike what is left of the length.

        What stands before and behind a hole, spaces too, is kept. Raises Refused without a hole.
        """
        if self.form:
            raise Refused(f"{key} is '{text}'; the model writes answers, and takes a prompt")
        parts = text.split(HOLE)
        if len(parts) == 1:
            raise Refused(f"{key} is '{text}'; it must have a hole, written {HOLE}")
        ids = [self.ids(part, key) for part in parts]
        return self._given([[*self.before, *ids[0]], *ids[1:-1], [*ids[-1], *self.after]], key)

    def decode(self, tokens_NL: Tensor) -> list[str]:
        """Texts without BOS and EOS at their ends."""
        return [self.tokenizer.decode(row[self.inner(row)]) for row in tokens_NL.tolist()]

    def inner(self, tokens: list[int]) -> slice:
        """The positions of a text that are neither BOS nor EOS at its ends, nor behind its end."""
        start, end = len(self.before), len(tokens) - len(self.after)
        starts, ends = tuple(tokens[:start]) == self.before, tuple(tokens[end:]) == self.after
        start = start if starts else 0
        if self.form:
            found = (n for n in range(start, len(tokens)) if tokens[n] in self._closing)
            return slice(start, next(found, len(tokens)))
        return slice(start, end if ends else len(tokens))

    @property
    def _closing(self):
        """The tokens that end a pair."""
        return {self.tokenizer.eos_token_id, padding_of(self.tokenizer)}

    def ids(self, text: str, key: str) -> list[int]:
        """The tokens of a text; Refused, with the text named ``key``, where the model has none."""
        if not text:
            return []
        [ids] = texts.encode(self.tokenizer, [text], key)
        if texts.unread(self.tokenizer, text, ids) or max(ids, default=-1) >= self.vocab_size:
            raise Refused(
                f"{key} is '{text}'; the model's vocabulary has no token for a part of it"
            )
        if self.form and not self._closing.isdisjoint(ids):
            raise Refused(f"{key} is '{text}'; a token in it ends a text of this model")
        return ids

    def _given(self, parts, key):
        """Parts in order, with the holes between them."""
        taken, holes = sum(map(len, parts)), len(parts) - 1
        free = self.length - taken
        if free < holes:
            raise Refused(
                f"{key} takes {taken} tokens of a text, BOS and EOS among them; the model writes "
                f"{self.length}, of which a hole needs one"
            )
        tokens_L = torch.zeros(self.length, dtype=torch.long)
        given_L = torch.zeros(self.length, dtype=torch.bool)
        place = 0
        for number, part in enumerate(parts):
            tokens_L[place : place + len(part)] = torch.tensor(part, dtype=torch.long)
            given_L[place : place + len(part)] = True
            place += len(part) + free // holes + (number < free % holes)
        return tokens_L, given_L
