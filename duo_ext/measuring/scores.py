"""The score of a completion: whether it is the right answer."""

import ast
import functools
import math
from collections.abc import Callable

from duo_ext import Refused
from duo_ext.measuring import answers

WANTED = "exact, expression or program:FUNCTION"
FENCE = "```"


def find(name: str) -> Callable[[list[str], list[str]], list[bool]]:
    """right(completions, answers) of a score's name, which says of each completion whether it is
    its answer.

    exact: the same text. expression: an expression with the answer's value. program:FUNCTION: a
    program whose function, called without arguments, gives the answer's value. The answer may be a
    number, or itself an expression or a program. Raises Refused for another name.
    """
    kind, _, function = name.partition(":")
    if name == "exact":
        return exact
    if name == "expression":
        return valued
    if kind == "program" and function.isidentifier():
        return functools.partial(valued, function=function)
    raise Refused(f"data.pairs.score is '{name}'; it must be {WANTED}")


def exact(completions: list[str], wanted: list[str]) -> list[bool]:
    """Whether each text is the wanted one."""
    pairs = zip(completions, wanted, strict=True)
    return [found.strip() == answer.strip() for found, answer in pairs]


def valued(completions: list[str], wanted: list[str], function: str | None = None) -> list[bool]:
    """Whether the value of each expression, or program, is the wanted number."""
    numbers = [number(answer) for answer in wanted]
    unsaid = [place for place, found in enumerate(numbers) if found is None]
    for place, found in zip(unsaid, _values([wanted[n] for n in unsaid], function), strict=True):
        if found is None:
            raise Refused(
                f"data.pairs.answer: '{wanted[place]}' neither is a number nor gives one, which "
                "the score needs"
            )
        numbers[place] = found
    values = _values(completions, function)
    return [answers.right(*pair) for pair in zip(values, numbers, strict=True)]


def _values(texts, function):
    return answers.values([code(text) for text in texts] if function else texts, function)


def number(answer: str) -> int | float | None:
    """The number that an answer says: all of it, or what stands behind its last ####; None for an
    answer that says none."""
    text = answer.rpartition("####")[2].strip().replace(",", "")
    try:
        found = float(text)
    except ValueError:
        return None
    if not math.isfinite(found):
        return None
    return int(found) if found.is_integer() else found


def code(text: str) -> str:
    """The program in a text: what stands in a fence of three backticks if there is one, from the
    first line that begins with ``def `` on, as many lines as parse."""
    if FENCE in text:
        text = text.split(FENCE)[1].removeprefix("python")
    lines = text[max(0, text.find("def ")) :].splitlines()
    while lines and not _parses("\n".join(lines)):
        lines.pop()
    return "\n".join(lines)


def _parses(program):
    try:
        ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
