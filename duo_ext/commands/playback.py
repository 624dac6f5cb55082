"""The steps of one text: in the terminal as they happen, and as a column of the page."""

import shutil
import sys
from collections.abc import Callable

from torch import Tensor

from duo_ext.commands.student import Student
from duo_ext.measuring import draws

BLANK = "░"  # a position that is still masked
NEWLINE = "↵"
NEW, OLD = "\x1b[1;36m", "\x1b[0m"  # a terminal's bold cyan, and its plain text


def states(
    student: Student, number: int, told: dict, see: Callable[[Tensor], None] = lambda z_BL: None
) -> list[list[int]]:
    """The tokens of text ``number`` of a run before each evaluation of the network, and at last.

    ``told`` is what ``Student.batches`` takes, ``see`` is called as there.
    """
    found = []

    def look(z_BL):
        found.append(z_BL[0].tolist())
        see(z_BL)

    own = told | {"seed": told["seed"] + draws.STRIDE * number}  # ``draws.of_texts``
    [tokens_BL] = student.batches(1, see=look, **own)
    return [*found, tokens_BL[0].tolist()]


def pieces(student: Student, tokens: list[int]) -> dict[int, str]:
    """{token: its text} of different tokens, a mask's a blank."""
    mask, different = student.mask, sorted(set(tokens))
    found = student.tokenizer.batch_decode([[token] for token in different])
    return {
        token: BLANK if token == mask else text
        for token, text in zip(different, found, strict=True)
    }


def watched(
    student: Student, number: int, told: dict, see: Callable[[Tensor], None] = lambda z_BL: None
) -> str:
    """Show each state of a text in the terminal as it is reached; the text."""
    screen = Screen(student)

    def look(z_BL):
        screen.show(z_BL[0].tolist())
        see(z_BL)

    *_, last = states(student, number, told, look)
    screen.show(last)
    print(flush=True)
    return student.tokenizer.decode(last[student.frame.inner(last)])


class Screen:
    """One text in the terminal: a state takes the place of the one before. Where the output is no
    terminal, states stand under each other."""

    def __init__(self, student: Student):
        self.student, self.before, self.height, self.count = student, None, 0, 0
        self.terminal = sys.stdout.isatty()

    def show(self, tokens: list[int]) -> None:
        """Show a state, with what has changed in it."""
        if self.terminal and self.height:
            print(f"\x1b[{self.height}F\x1b[J", end="")
        print(f"-- after {self.count} evaluation{'s' * (self.count != 1)}")
        lines = self._lines(tokens)
        print("\n".join(lines), flush=True)
        self.before, self.height, self.count = tokens, len(lines) + 1, self.count + 1

    def _lines(self, tokens):
        """The state in lines as wide as the terminal."""
        text, width = pieces(self.student, tokens), shutil.get_terminal_size().columns
        lines, taken = [""], 0
        for place, token in enumerate(tokens):
            piece = text[token].replace("\n", NEWLINE)
            if taken + len(piece) > width:
                lines, taken = [*lines, ""], 0
            taken += len(piece)
            new = self.terminal and self.before and self.before[place] != token
            lines[-1] += f"{NEW}{piece}{OLD}" if new else piece
        return lines


def column(student: Student, name: str, told: dict) -> dict:
    """The steps of the first text as ``report.page`` shows them."""
    found = states(student, 0, told)
    inner = student.frame.inner(found[-1])
    frames = [tokens[inner] for tokens in found]
    return {
        "title": f"{name}: {told['steps']} steps, {len(found) - 1} network evaluations",
        "frames": frames,
        "pieces": pieces(student, [token for tokens in frames for token in tokens]),
    }
