"""Data of pairs: a prompt, which is given, and its completion, which a model writes.

``data.train`` and ``data.valid`` are files of JSON lines, and the section ``data.pairs`` says how a
line becomes a text. A text is BOS (where the host's texts have it), the prompt, a separator, the
completion, EOS and padding. Padding is written too: a model learns where its text ends.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy
import torch
import tqdm
from omegaconf import DictConfig

from duo_ext import Refused, files
from duo_ext.data import texts
from duo_ext.data.texts import Tokenizer

AT_A_TIME = 1000  # lines


@dataclass(frozen=True)
class Form:
    """How a line of JSON becomes a text: the section ``data.pairs`` of a configuration."""

    prompt: str  # the field of a line that is given
    completion: str  # the field that is written
    template: str = "{prompt}"  # what is given; {prompt} stands for the field
    separator: str = ""  # between the two, given as well
    end: bool = True  # whether EOS follows the completion
    score: str | None = None  # how answers are scored (measuring.scores)
    answer: str | None = None  # the field with the right answer; the completion's where it is None

    @classmethod
    def configured(cls, data: DictConfig) -> "Form | None":
        """That of the section ``data``; None for data of whole texts.

        null stands for a key's default. Raises Refused for a key that is none, a value of another
        type, and a template without its prompt.
        """
        settings = data.get("pairs")
        if settings is None:
            return None
        names = cls.__dataclass_fields__
        if unknown := [key for key in settings if key not in names]:
            raise Refused(f"data.pairs.{unknown[0]} is no key; they are {', '.join(names)}")
        given = {"prompt": None, "completion": None}
        given |= {key: value for key, value in settings.items() if value is not None}
        for key, value in given.items():
            kind, wanted = (bool, "true or false") if key == "end" else (str, "a text")
            if type(value) is not kind:
                raise Refused(f"data.pairs.{key} is {value}; it must be {wanted}")
        form = cls(**given)
        if "{prompt}" not in form.template:
            raise Refused(f"data.pairs.template is '{form.template}'; it must have {{prompt}}")
        return form

    def given(self, prompt: str) -> str:
        """What is given of a text with this prompt."""
        return self.template.replace("{prompt}", prompt.strip()) + self.separator


@dataclass(frozen=True)
class Source:
    """A file of JSON lines and the ``Form`` of its texts."""

    path: str
    form: Form

    def lines(self, places: Iterable[int] | None = None) -> Iterator[tuple[int, dict]]:
        """(number, fields) of the lines that hold text, or of those numbered ``places`` alone.

        Raises Refused where the file is missing, or a line is no JSON object.
        """
        wanted = None if places is None else set(places)
        for number, line in enumerate(self._opened()):
            if line.strip() and (wanted is None or number in wanted):
                yield number, self._fields(number, line)

    def field(self, number: int, fields: dict, key: str) -> str:
        """A field of a line as text; Refused unless it is a text or a number."""
        if not isinstance(found := fields.get(key), str | int | float):
            raise Refused(f"data: line {number + 1} of '{self.path}' has no text '{key}'")
        return str(found)

    def completion(self, number: int, fields: dict) -> str:
        """The completion of a line; empty where a line has its answer alone, as tests may."""
        answered = self.form.answer in fields and self.form.completion not in fields
        return "" if answered else self.field(number, fields, self.form.completion)

    def answers(self, places: Iterable[int]) -> list[str]:
        """The right answers of lines, in ascending order of their numbers: the field for them, or
        the completion of a line that lacks it."""
        found, key = self.lines(places), self.form.answer
        return [
            self.field(*line, key if key in line[1] else self.form.completion) for line in found
        ]

    def read_through(self) -> tuple[str, int]:
        """(a hash of the file's content, how many lines hold text)."""
        found, lines = hashlib.sha256(), 0
        for line in self._opened():
            found.update(line)
            lines += bool(line.strip())
        return found.hexdigest(), lines

    def _opened(self):
        try:
            with files.opened(self.path) as file:
                yield from file
        except OSError as error:
            raise Refused(
                f"data: '{self.path}' cannot be read ({texts.reason(error)}); with data=pairs, "
                "data.train and data.valid are files of JSON lines"
            ) from error

    def _fields(self, number, line):
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise Refused(
                f"data: line {number + 1} of '{self.path}' is no JSON ({error})"
            ) from error
        if not isinstance(fields, dict):
            raise Refused(f"data: line {number + 1} of '{self.path}' is no JSON object")
        return fields


class Pairs(torch.utils.data.Dataset):
    """Texts of a ``Source`` as blocks of L tokens.

    An item is {"input_ids": tokens (L,), "attention_mask": 0 where a token is given, 1 where it is
    written}. Texts of more than L tokens are left out, and it is said how many.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: Tokenizer,
        length: int,
        cache_dir: str,
        key: str,
        before: tuple[int, ...] = (),
    ):
        """``before`` are the tokens (BOS) of every text's start, ``key`` is the setting that named
        the tokenizer. Blocks are kept in ``cache_dir``, by the content of all that they are made
        of."""
        self.source, self.length, self.before = source, length, before
        content, lines = source.read_through()
        known = (content, source.form, length, before, texts.fingerprint(tokenizer))
        name = hashlib.sha256(repr(known).encode()).hexdigest()[:16]
        path = texts.in_cache(cache_dir, f"pairs-{name}.int32")
        if not files.exists(path):
            files.write_whole(path, lambda file: self._make(file, tokenizer, key))
        # the number of the line, how many tokens are given, the tokens
        self.rows = numpy.memmap(path, numpy.int32, "r").reshape(-1, 2 + length)
        if len(self) < lines:
            tqdm.tqdm.write(
                f"{source.path}: {lines - len(self)} of {lines} pairs have more than {length} "
                "tokens and are left out",
                file=sys.stderr,
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        _, given, *tokens = self.rows[index].tolist()
        mask_L = (torch.arange(self.length) >= given).long()
        return {"input_ids": torch.tensor(tokens), "attention_mask": mask_L}

    def _make(self, file, tokenizer, key):
        made = 0
        padding = padding_of(tokenizer)
        bar = tqdm.tqdm(self.source.lines(), f"tokens of {self.source.path}", unit=" pairs")
        for part in _parts(bar, AT_A_TIME):
            rows = [row for row in self._rows(part, tokenizer, key) if len(row) <= 2 + self.length]
            for row in rows:
                row.extend([padding] * (2 + self.length - len(row)))
            file.write(numpy.array(rows, numpy.int32).tobytes())
            made += len(rows)
        if made == 0:
            raise Refused(
                f"data: '{self.source.path}' has no pair of at most model.length={self.length} "
                "tokens"
            )

    def _rows(self, part, tokenizer, key):
        """The rows of some lines, without padding."""
        source, form = self.source, self.source.form
        prompts = [form.given(source.field(*line, form.prompt)) for line in part]
        completions = [source.completion(*line).strip() for line in part]
        given, written = (texts.encode(tokenizer, own, key) for own in (prompts, completions))
        end = [tokenizer.eos_token_id] if form.end else []
        for (number, _), own, rest in zip(part, given, written, strict=True):
            own = [*self.before, *own]
            yield [number, len(own), *own, *rest, *end]


def padding_of(tokenizer: Tokenizer) -> int:
    """The token behind a text's end: its own padding, or EOS. A padding that was added to the
    vocabulary, as the hosts add one, has the id that MDLM gives to its mask."""
    padding = tokenizer.pad_token_id
    own = padding is not None and padding < tokenizer.vocab_size
    return padding if own else tokenizer.eos_token_id


def _parts(items, size):
    part = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
