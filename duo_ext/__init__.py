"""IDLM for Duo: the registry of algorithms, how a user is refused, a student from Python.

Importing it imports nothing else.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duo_ext.commands.student import Student

ALGORITHMS = {
    "idlm": "duo_ext.algorithms.IDLM",
    "idlm_mdlm": "duo_ext.algorithms.IDLMMDLM",
    "idlm_dcd": "duo_ext.algorithms.IDLMDCD",
}


class Refused(ValueError):
    """What a user asked for cannot be done. The message is one sentence: the key, what was given,
    what is wanted.

    The command lines print the message alone. Every other exception is a fault of the program and
    keeps its traceback.
    """


def load_student(
    path: str | Path,
    *overrides: str,
    host: str | None = None,
    device: str | None = None,
    trust_checkpoint: bool = False,
) -> "Student":
    """A trained model of Duo's, student or teacher, that writes texts (``commands.student``).

    path: a checkpoint, a folder of the hub's layout, or a hub id. overrides: Duo's settings as
    words, for a checkpoint that carries none. host: the Duo tree to run in, found as by --host.
    device: "cpu", "cuda"; by default a GPU if there is one.

    >>> student = load_student("runs/student/checkpoints/best.ckpt")
    >>> texts = student.sample(4, steps=8)
    """
    from duo_ext import evaluate
    from duo_ext.commands.student import Student

    return Student(evaluate.SIDE, path, overrides, host, device, trust_checkpoint)
