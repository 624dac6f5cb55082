"""Word problems whose answers are expressions, made here: a task with answers that a CPU learns.

A question is one of some wordings of a problem, with numbers, a name and a thing. Its answer is one
of the expressions of its problem, drawn at random: a model that writes several tokens at once must
choose the same expression for all of them. Questions for training, validation and test have
different numbers. Half of the test, "split": "wording", has wordings that nothing else has; the
other half, "numbers", has those of training and validation.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

from duo_ext.data import texts
from duo_ext.files import made_once, write_whole

END, PADDING = "<|endoftext|>", "[PAD]"
VOCABULARY = 400
NAMES = ("tom", "ann", "ben", "sue", "max", "eva", "joe", "kim", "lea", "sam", "ida", "leo", "mia")
THINGS = ("apples", "books", "coins", "cards", "eggs", "pens", "keys", "cups", "shells", "stamps")
# {expressions: wordings}; the last wording of each is for the test alone
PROBLEMS = {
    ("{a}+{b}", "{b}+{a}"): (
        "{n} has {a} {t} and gets {b} more. how many {t} does {n} have?",
        "there are {a} {t} in a box and {b} in a bag. how many {t} are there?",
        "{n} finds {a} {t} today and found {b} before. how many are that?",
        "to {a} {t} {n} adds {b}. how many {t} are there now?",
    ),
    ("{a}-{b}", "-{b}+{a}"): (
        "{n} has {a} {t} and loses {b}. how many {t} are left?",
        "of {a} {t} {n} sells {b}. how many {t} does {n} keep?",
        "a box holds {a} {t}. {n} takes {b} away. how many remain?",
        "{n} had {a} {t} and gave {b} to a friend. how many has {n}?",
    ),
    ("{a}*{b}", "{b}*{a}"): (
        "{n} has {a} boxes with {b} {t} in each. how many {t} are that?",
        "each of {a} friends brings {b} {t}. how many {t} are there?",
        "{n} buys {b} {t} on each of {a} days. how many {t} are that?",
        "{a} bags hold {b} {t} each. how many {t} has {n}?",
    ),
    ("{a}*{b}+{c}", "{c}+{a}*{b}", "{b}*{a}+{c}", "{c}+{b}*{a}"): (
        "{n} has {a} boxes of {b} {t} and {c} more. how many {t} are that?",
        "{a} friends bring {b} {t} each and {n} brings {c}. how many are there?",
        "{n} buys {b} {t} on each of {a} days and finds {c}. how many {t} has {n}?",
        "there are {a} bags of {b} {t}, and {c} loose ones. how many {t} are there?",
    ),
    ("{a}*{b}-{c}", "-{c}+{a}*{b}", "{b}*{a}-{c}"): (
        "{n} has {a} boxes of {b} {t} and loses {c}. how many {t} are left?",
        "{a} friends bring {b} {t} each and eat {c}. how many remain?",
        "of {a} bags of {b} {t} {n} sells {c} {t}. how many {t} does {n} keep?",
        "{n} gets {b} {t} on each of {a} days and gives {c} away. how many has {n}?",
    ),
    ("({a}+{b})*{c}", "{c}*({a}+{b})", "{a}*{c}+{b}*{c}", "{c}*{a}+{c}*{b}"): (
        "{n} has {a} red and {b} blue {t} in each of {c} boxes. how many {t} are that?",
        "on each of {c} days {n} gets {a} {t} and then {b}. how many {t} are that?",
        "each of {c} friends has {a} {t} and buys {b}. how many {t} have they?",
        "{c} bags hold {a} old and {b} new {t} each. how many {t} are there?",
    ),
    ("{a}-{b}-{c}", "{a}-({b}+{c})", "{a}-{c}-{b}"): (
        "{n} has {a} {t}, loses {b} and sells {c}. how many {t} are left?",
        "of {a} {t} {n} gives {b} to one friend and {c} to another. how many remain?",
        "a box holds {a} {t}. {b} are old and {c} are red. how many are neither?",
        "from {a} {t} {n} takes {b}, then {c}. how many {t} are left?",
    ),
}


def problem(
    draw: random.Random, expressions: tuple[str, ...], wording: str
) -> tuple[tuple[int, ...], str, str]:
    """(numbers, question, answer) of a wording, the value of the answer at least 1."""
    answer = draw.choice(expressions)
    while True:
        numbers = {"a": draw.randint(2, 99), "b": draw.randint(2, 99), "c": draw.randint(2, 60)}
        if "*" in answer:
            factors = {"a": 12, "b": 20, "c": 12}
            numbers = {slot: draw.randint(2, most) for slot, most in factors.items()}
        used = tuple(numbers[slot] for slot in "abc" if f"{{{slot}}}" in answer)
        if value(answer.format(**numbers)) >= 1:
            break
    words = {"n": draw.choice(NAMES), "t": draw.choice(THINGS)}
    return used, wording.format(**numbers, **words), answer.format(**numbers)


def value(answer: str) -> int:
    """The value of an answer made here."""
    return eval(answer, {"__builtins__": {}})


def split_of(numbers: tuple[int, ...]) -> str:
    """What questions with these numbers are for: about a fifth of all for the test, a tenth for
    validation."""
    place = random.Random(repr(numbers)).random()
    return "test" if place < 0.2 else "validation" if place < 0.3 else "train"


def rows(split: str, count: int, seed: int) -> Iterator[dict]:
    """``count`` different lines of "train", "validation" or "test"."""
    draw, seen = random.Random(f"{split} {seed}"), set()
    while len(seen) < count:
        expressions = draw.choice(list(PROBLEMS))
        new = split == "test" and len(seen) % 2 == 1
        wordings = PROBLEMS[expressions]
        wording = wordings[-1] if new else draw.choice(wordings[:-1])
        numbers, question, answer = problem(draw, expressions, wording)
        if split_of(numbers) != split or question in seen:
            continue
        seen.add(question)
        kind = "wording" if new else "numbers"
        yield {"question": question, "answer": answer, "value": value(answer), "split": kind}


def write(
    folder: str, seed: int = 1, train: int = 20_000, validation: int = 500, test: int = 1000
) -> None:
    """Write ``folder``/train.jsonl, validation.jsonl and test.jsonl, lines {"question", "answer",
    "value", "split"}, and a tokenizer of their words and digits in ``folder``/tokenizer."""
    sizes = {"train": train, "validation": validation, "test": test}
    made = {split: list(rows(split, count, seed)) for split, count in sizes.items()}
    for split, found in made.items():
        text = "".join(json.dumps(row) + "\n" for row in found)
        write_whole(f"{folder}/{split}.jsonl", text.encode())
    lines = (f"{row['question']}\n{row['answer']}" for row in made["train"])
    _write_tokenizer(f"{folder}/tokenizer", lines)


def _write_tokenizer(folder, lines):
    """Byte-level BPE, a digit always a token of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END, PADDING], show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    names = ("bos_token", "eos_token", "unk_token")
    texts.save(tokenizer, folder, **dict.fromkeys(names, END), pad_token=PADDING)


def kept(cache: Path) -> str:
    """The folder of ``write`` with its defaults, made in ``cache`` on the first call."""
    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    target = cache.absolute() / f"arithmetic-{source[:12]}"
    made_once(target, lambda folder: write(str(folder)))
    return str(target)
