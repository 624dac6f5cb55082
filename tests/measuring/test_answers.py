"""measuring.answers: numbers of programs, and what a hostile program does not do."""

import time

import pytest

from duo_ext.measuring import answers

FUNCTION = """
def simple_math_problem():
    total = sum(price for price in (3, 4.5))
    return round(total * 2, 2)
"""


def test_expressions_and_functions():
    found = answers.values(["3 * (4 + 5) - 1", " 7 / 2 ", "max(2, 5) // 2", "-(-3)"])
    assert found == [26, 3.5, 2, 3]
    assert answers.values([FUNCTION, "x = 1"], call="simple_math_problem") == [15.0, None]


@pytest.mark.parametrize(
    "program",
    [
        "",
        "1 +",
        "'4'",
        "True",
        "[1]",
        "1 / 0",
        "float('inf')",
        "10 ** 400",
        "9 ** 9 ** 9 ** 9",
        "'a' * 10 ** 12",
        "[0] * 10 ** 10",
        "(lambda f: f(f))(lambda f: f(f))",
        "open('/etc/passwd')",
        "__import__('os').getpid()",
        "().__class__.__base__.__subclasses__()",
        "'{0.__class__}'.format(1)",
        "(lambda g: g.gi_frame.f_builtins['len'])(x for x in [])('ab')",
        "len(f'{(1).__class__}')",
        "exec('1')",
        "print(1)",
        "(" * 5000 + ")" * 5000,
        "1" * 20_000,
    ],
)
def test_what_is_no_number_is_none(program):
    start = time.perf_counter()
    assert answers.values([program, "2 + 2"], seconds=2) == [None, 4]
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "import os; return os.getpid()",
        "from os import fork; return fork()",
        "return open('made', 'w').write('x')",
        "return len(f.__globals__)",
        "match 1:\n        case int(__class__=c): return len(c.mro())",
        "x = []\n    while True: x.append('a' * 10**7)",
        "return f()",
        "raise SystemExit(3)",
    ],
)
def test_functions_that_mean_harm(body, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = f"def f():\n    {body}\n"
    fine = "def f():\n    return 5\n"
    assert answers.values([program, fine], call="f", seconds=2) == [None, 5]
    assert not list(tmp_path.iterdir())


def test_which_answers_are_right():
    assert answers.right(4, 4) and answers.right(4.0, 4) and answers.right(3.3333, 10 / 3)
    assert (
        not answers.right(None, 0) and not answers.right(4, 5) and not answers.right(3.34, 10 / 3)
    )
    assert not answers.right(1e12 + 1, 1e12)
