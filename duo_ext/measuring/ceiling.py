"""The judge's own samples: the lowest GenPPL at which samples still have its diversity."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from duo_ext import Refused
from duo_ext.data import texts
from duo_ext.measuring.draws import Draw
from duo_ext.measuring.held_out import HeldOut
from duo_ext.measuring.judge import Judge
from duo_ext.measuring.subject import Setting, Subject


@dataclass
class Ceiling(Subject):
    """A judge that is sampled token by token, after its BOS."""

    judge: Judge
    like: Subject  # a model to compare with, whose vocabulary, text length and data it takes over

    @classmethod
    def of(cls, judge: Judge, given: str, like: Subject) -> "Ceiling":
        """The ceiling under the judge at the path ``given``.

        Raises Refused where the judge has another vocabulary than ``like``, or cannot be sampled
        token by token.
        """
        padding = like.tokenizer.pad_token  # Duo adds one
        own, wanted = (
            {token: id for token, id in tokenizer.get_vocab().items() if token != padding}
            for tokenizer in (judge.tokenizer, like.tokenizer)
        )
        if own != wanted:
            raise Refused(
                f"--ceiling: the judge {judge.name} has not the vocabulary of '{like.path}'"
            )
        config, tokens = judge.model.config, range(judge.vocab_size)
        if config.bos_token_id not in tokens or config.eos_token_id not in tokens:
            raise Refused(
                f"--ceiling: the judge {judge.name} has bos_token_id {config.bos_token_id} and "
                f"eos_token_id {config.eos_token_id}; both must be among its {len(tokens)} tokens"
            )
        shared = {key: getattr(like, key) for key in ("tokenizer", "vocab_size", "length", "data")}
        found = cls("judge", given, "ar", "", **shared, judge=judge, like=like)
        try:
            with judge.on_device():
                replace(found, length=3)._draw(1, 1.0, torch.float64, [])
        except Exception as error:  # what a model raises depends on its architecture
            raise Refused(
                f"--ceiling: the judge {judge.name} cannot be sampled token by token with a cache "
                f"({texts.reason(error)})"
            ) from error
        return found

    def seed(self, seed: int) -> None:
        """Seed torch."""
        torch.manual_seed(seed)

    @contextlib.contextmanager
    def sampler(self, setting: Setting, precision: str) -> Iterator[tuple[Draw, list]]:
        """(draw, calls), as ``subject.Subject`` says. Of ``setting`` the temperature alone counts.

        The tokens are drawn in ``precision``.
        """
        calls = []

        def draw(size):
            return self._draw(size, setting.temperature, getattr(torch, precision), calls)

        with self.judge.on_device():
            yield draw, calls

    def _draw(self, size, temperature, dtype, calls):
        """Tokens (size, L); behind the judge's context stands its EOS."""
        config, model = self.judge.model.config, self.judge.model
        x = torch.full((size, 1), config.bos_token_id, device=self.judge.device)
        past, last = None, x
        while x.shape[1] < min(self.length, self.judge.context):
            found = model(input_ids=last, past_key_values=past, use_cache=True)
            calls.append(1)
            logits = found.logits[:, -1, : self.judge.vocab_size].to(dtype) / temperature
            past = found.past_key_values
            last = torch.multinomial(logits.softmax(-1), 1)
            x = torch.cat([x, last], 1)
        return torch.nn.functional.pad(x, (0, self.length - x.shape[1]), value=config.eos_token_id)

    def held_out(self) -> HeldOut:
        """The validation data of ``like``."""
        return self.like.held_out()
