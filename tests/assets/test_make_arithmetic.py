"""assets.make_arithmetic: the answers are right, and the test's numbers and wordings are new."""

import collections
import json
import re

from duo_ext.assets import make_arithmetic
from duo_ext.measuring import answers

NUMBER = re.compile(r"\d+")


def made(folder, **options):
    words = [f"--{key}={value}" for key, value in options.items()]
    make_arithmetic.main([str(folder), *words])
    read = lambda name: [json.loads(x) for x in (folder / f"{name}.jsonl").open()]  # noqa: E731
    return read("train"), read("test")


def kind(row):
    """The expression of an answer, and its numbers."""
    return NUMBER.sub("#", row["answer"]), tuple(NUMBER.findall(row["answer"]))


def wording(row):
    """Which wording of its expression a question is."""
    found = []
    for expression, wordings in make_arithmetic.PROBLEMS.items():
        for number, text in enumerate(wordings):
            pattern = re.sub(r"\\\{[abc]\\\}", r"\\d+", re.escape(text))
            pattern = re.sub(r"\\\{[nt]\\\}", r"[a-z]+", pattern)
            shape = re.sub(r"\{[abc]\}", "#", expression)
            if shape == kind(row)[0] and re.fullmatch(pattern, row["question"]):
                found.append(number)
    [number] = found
    return number


def test_train_and_test(tmp_path):
    train, test = made(tmp_path, train=3000, test=200, seed=4)
    assert (len(train), len(test)) == (3000, 200)
    assert len({row["question"] for row in train + test}) == 3200
    assert answers.values(row["answer"] for row in test) == [row["value"] for row in test]
    assert all(row["value"] >= 1 for row in train + test)
    numbers = collections.defaultdict(set)
    for row in train:
        shape, of = kind(row)
        numbers[shape].add(of)
    assert not any(kind(row)[1] in numbers[kind(row)[0]] for row in test)
    assert {(row["split"], wording(row) == 3) for row in test} == {
        ("numbers", False),
        ("wording", True),
    }
    assert not any(wording(row) == 3 for row in train)
    assert collections.Counter(row["split"] for row in test) == {"numbers": 100, "wording": 100}


def test_a_seed_makes_the_same_text(tmp_path):
    one, two = (made(tmp_path / name, train=50, test=10, seed=2) for name in ("a", "b"))
    assert one == two != made(tmp_path / "c", train=50, test=10, seed=3)
