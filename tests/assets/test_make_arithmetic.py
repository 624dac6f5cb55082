"""assets.make_arithmetic: the answers are right, and the test's numbers and wordings are new."""

import collections
import json
import re
from pathlib import Path

import transformers

from duo_ext.assets import make_arithmetic
from duo_ext.data import arithmetic
from duo_ext.measuring import answers

SPLITS = ("train", "validation", "test")


def made(folder, **options):
    words = [f"--{key}={value}" for key, value in options.items()]
    make_arithmetic.main([str(folder), *words])
    return [[json.loads(x) for x in (folder / f"{name}.jsonl").open()] for name in SPLITS]


def kind(row):
    """(the expressions of a question's problem, the number of its wording, its numbers)."""
    found = []
    for expressions, wordings in arithmetic.PROBLEMS.items():
        for number, text in enumerate(wordings):
            pattern = re.sub(r"\\\{([abc])\\\}", r"(?P<\1>\\d+)", re.escape(text))
            pattern = re.sub(r"\\\{[nt]\\\}", r"[a-z]+", pattern)
            if match := re.fullmatch(pattern, row["question"]):
                found.append((expressions, number, match.groupdict()))
    [found] = found
    return found


def test_train_validation_and_test(tmp_path):
    parts = dict(zip(SPLITS, made(tmp_path, train=3000, validation=90, test=200), strict=True))
    assert [len(rows) for rows in parts.values()] == [3000, 90, 200]
    everything = [row for rows in parts.values() for row in rows]
    assert len({row["question"] for row in everything}) == 3290
    used = {split: collections.defaultdict(set) for split in SPLITS}
    forms = collections.Counter()
    for split, rows in parts.items():
        found = answers.values(row["answer"] for row in rows)
        assert found == [row["value"] for row in rows] and min(found) >= 1
        for row in rows:
            expressions, wording, numbers = kind(row)
            written = [e for e in expressions if e.format(**numbers) == row["answer"]]
            forms.update(written)
            used[split][expressions].add(tuple(sorted(numbers.items())))
            assert written and row["split"] == ("wording" if wording == 3 else "numbers")
    assert set(forms) == {e for expressions in arithmetic.PROBLEMS for e in expressions}
    for problem in arithmetic.PROBLEMS:
        train, validation, test = (used[split][problem] for split in SPLITS)
        assert not train & validation and not test & (train | validation)
    halves = collections.Counter(row["split"] for row in parts["test"])
    assert halves == {"numbers": 100, "wording": 100}
    assert {row["split"] for row in parts["train"] + parts["validation"]} == {"numbers"}


def test_the_tokenizer_gives_every_digit_a_token_and_the_text_back(tmp_path):
    train, _, test = made(tmp_path, train=300, validation=1, test=50)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for row in train + test:
        text = f"{row['question']}\n{row['answer']}"
        tokens = tokenizer(text).input_ids
        assert tokenizer.decode(tokens) == text
        assert not any(re.search(r"\d.", t) for t in tokenizer.convert_ids_to_tokens(tokens))
    assert tokenizer.pad_token_id != tokenizer.eos_token_id == tokenizer.bos_token_id


def test_a_seed_makes_the_same_text(tmp_path):
    sizes = {"train": 50, "validation": 5, "test": 10}
    one, two = (made(tmp_path / name, **sizes, seed=2) for name in ("a", "b"))
    assert one == two != made(tmp_path / "c", **sizes, seed=3)


def test_the_shipped_problems_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(arithmetic, "write", lambda folder: Path(folder, "made").touch())
    folder = arithmetic.kept(tmp_path)
    monkeypatch.setattr(arithmetic, "write", None)
    assert arithmetic.kept(tmp_path) == folder
