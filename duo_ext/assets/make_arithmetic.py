"""Word problems whose answers are expressions: python -m duo_ext.assets.make_arithmetic FOLDER

Writes train.jsonl and test.jsonl, lines {"question", "answer", "value", "split"}. A question is one
of some wordings of an expression, with numbers, a name and a thing; the answer is the expression.
No numbers of a test question are in the training questions of its expression. In half of the test,
split "wording", its wording is in none of them either; in the other half, split "numbers", it is.
"""

import argparse
import json
import random
from collections.abc import Iterator

from duo_ext.commands.line import one_sentence
from duo_ext.files import write_whole

NAMES = ("tom", "ann", "ben", "sue", "max", "eva", "joe", "kim", "lea", "sam", "ida", "leo", "mia")
THINGS = ("apples", "books", "coins", "cards", "eggs", "pens", "keys", "cups", "shells", "stamps")
# {answer: wordings}; the last wording of each is for the test alone
PROBLEMS = {
    "{a}+{b}": (
        "{n} has {a} {t} and gets {b} more. how many {t} does {n} have?",
        "there are {a} {t} in a box and {b} in a bag. how many {t} are there?",
        "{n} finds {a} {t} today and found {b} before. how many are that?",
        "to {a} {t} {n} adds {b}. how many {t} are there now?",
    ),
    "{a}-{b}": (
        "{n} has {a} {t} and loses {b}. how many {t} are left?",
        "of {a} {t} {n} sells {b}. how many {t} does {n} keep?",
        "a box holds {a} {t}. {n} takes {b} away. how many remain?",
        "{n} had {a} {t} and gave {b} to a friend. how many has {n}?",
    ),
    "{a}*{b}": (
        "{n} has {a} boxes with {b} {t} in each. how many {t} are that?",
        "each of {a} friends brings {b} {t}. how many {t} are there?",
        "{n} buys {b} {t} on each of {a} days. how many {t} are that?",
        "{a} bags hold {b} {t} each. how many {t} has {n}?",
    ),
    "{a}*{b}+{c}": (
        "{n} has {a} boxes of {b} {t} and {c} more. how many {t} are that?",
        "{a} friends bring {b} {t} each and {n} brings {c}. how many are there?",
        "{n} buys {b} {t} on each of {a} days and finds {c}. how many {t} has {n}?",
        "there are {a} bags of {b} {t}, and {c} loose ones. how many {t} are there?",
    ),
    "{a}*{b}-{c}": (
        "{n} has {a} boxes of {b} {t} and loses {c}. how many {t} are left?",
        "{a} friends bring {b} {t} each and eat {c}. how many remain?",
        "of {a} bags of {b} {t} {n} sells {c} {t}. how many {t} does {n} keep?",
        "{n} gets {b} {t} on each of {a} days and gives {c} away. how many has {n}?",
    ),
    "({a}+{b})*{c}": (
        "{n} has {a} red and {b} blue {t} in each of {c} boxes. how many {t} are that?",
        "on each of {c} days {n} gets {a} {t} and then {b}. how many {t} are that?",
        "each of {c} friends has {a} {t} and buys {b}. how many {t} have they?",
        "{c} bags hold {a} old and {b} new {t} each. how many {t} are there?",
    ),
    "{a}-{b}-{c}": (
        "{n} has {a} {t}, loses {b} and sells {c}. how many {t} are left?",
        "of {a} {t} {n} gives {b} to one friend and {c} to another. how many remain?",
        "a box holds {a} {t}. {b} are old and {c} are red. how many are neither?",
        "from {a} {t} {n} takes {b}, then {c}. how many {t} are left?",
    ),
}


def problem(draw: random.Random, answer: str, wording: str) -> tuple[tuple[int, ...], str, str]:
    """(numbers, question, answer) of a wording, the value of the answer at least 1."""
    while True:
        numbers = {"a": draw.randint(2, 99), "b": draw.randint(2, 99), "c": draw.randint(2, 60)}
        if "*" in answer:
            numbers |= {
                "a": draw.randint(2, 12),
                "b": draw.randint(2, 20),
                "c": draw.randint(2, 12),
            }
        used = tuple(numbers[slot] for slot in "abc" if f"{{{slot}}}" in answer)
        if value(answer.format(**numbers)) >= 1:
            break
    words = {"n": draw.choice(NAMES), "t": draw.choice(THINGS)}
    return used, wording.format(**numbers, **words), answer.format(**numbers)


def value(answer: str) -> int:
    """The value of an answer made here."""
    return eval(answer, {"__builtins__": {}})


def is_of_test(numbers: tuple[int, ...]) -> bool:
    """Whether questions with these numbers are for the test; about a fifth of all are."""
    return random.Random(repr(numbers)).random() < 0.2


def rows(split: str, count: int, seed: int) -> Iterator[dict]:
    """``count`` different lines of "train" or "test"."""
    draw, seen = random.Random(f"{split} {seed}"), set()
    while len(seen) < count:
        answer = draw.choice(list(PROBLEMS))
        new = split == "test" and len(seen) % 2 == 1
        wording = PROBLEMS[answer][-1] if new else draw.choice(PROBLEMS[answer][:-1])
        numbers, question, found = problem(draw, answer, wording)
        if is_of_test(numbers) != (split == "test") or question in seen:
            continue
        seen.add(question)
        kind = "train" if split == "train" else "wording" if new else "numbers"
        yield {"question": question, "answer": found, "value": value(found), "split": kind}


def main(arguments: list[str] | None = None) -> None:
    """The command, with the words of the command line unless others are given."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[2])
    parser.add_argument("folder")
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with one_sentence():
        for split in ("train", "test"):
            found = rows(split, getattr(options, split), options.seed)
            text = "".join(json.dumps(row) + "\n" for row in found)
            write_whole(f"{options.folder}/{split}.jsonl", text.encode())
            print(f"written: {options.folder}/{split}.jsonl")


if __name__ == "__main__":
    main()
