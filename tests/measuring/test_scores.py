"""measuring.scores: what is a right answer, and the program that is cut out of a text."""

import pytest

from duo_ext import Refused
from duo_ext.measuring import scores

PROGRAM = """def simple_math_problem() -> int:
    apples = 3
    return apples * 2
"""


def test_the_same_text():
    assert scores.find("exact")([" 12 ", "1"], ["12", "12"]) == [True, False]


def test_the_value_of_an_expression():
    right = scores.find("expression")
    found = ["3*4", "4*3 ", "13", "3*", "1/3", "__import__('os')"]
    assert right(found, ["12", "#### 12", "12", "12", "0.3333", "1"]) == [
        *(True, True, False, False),
        *(True, False),
    ]


def test_the_value_of_a_program():
    right = scores.find("program:simple_math_problem")
    cut = PROGRAM.rstrip() + "\n    return 'unfin"
    texts = [
        PROGRAM,
        f"So:\n```python\n{PROGRAM}```\nand so on",
        cut,
        "6",
        f"{PROGRAM}then 6 (left",
    ]
    answers = ["She has #### 6", "6", "6", "6", "6.0"]
    assert right(texts, answers) == [True, True, True, False, True]


def test_what_is_cut_out():
    assert scores.code("nothing here") == ""
    assert scores.code(f"answer: {PROGRAM}??") == PROGRAM.rstrip()


def test_an_answer_may_be_a_program_itself():
    """As held-out lines of TinyGSM have it, which say no number."""
    right = scores.find("program:simple_math_problem")
    assert right([PROGRAM, PROGRAM.replace("2", "3")], [PROGRAM] * 2) == [True, False]
    assert scores.find("expression")(["4*3", "11"], ["2*6", "2*6"]) == [True, False]
    with pytest.raises(Refused, match=r"'def f\(:' neither is a number nor gives one"):
        right([PROGRAM], ["def f(:"])


def test_the_number_of_an_answer():
    assert [scores.number(text) for text in ("a #### 1,234", "-2.50", " 7 ")] == [1234, -2.5, 7]
    assert [scores.number(text) for text in ("none", "#### ", "inf")] == [None] * 3


@pytest.mark.parametrize("name", ["", "exactly", "program", "program:", "program:a b"])
def test_a_score_that_is_none(name):
    with pytest.raises(Refused, match=f"data.pairs.score is '{name}'; it must be exact"):
        scores.find(name)
