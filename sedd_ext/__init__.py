"""IDLM for SEDD: python -m sedd_ext, standalone or in a SEDD checkout; a student from Python."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duo_ext.commands.student import Student


def load_student(
    path: str | Path,
    *overrides: str,
    host: str | None = None,
    device: str | None = None,
    trust_checkpoint: bool = False,
) -> "Student":
    """A trained model of SEDD's, student or teacher, that writes texts.

    ``duo_ext.commands.student`` has its methods.

    path: a run folder, one of its checkpoint files, a folder of the hub's layout, or a hub id.
    overrides: SEDD's settings as words, for a checkpoint that carries none. host: the SEDD tree to
    run in, found as by --host. device: "cpu", "cuda"; by default a GPU if there is one.

    >>> student = load_student("runs/student/checkpoints/best.pth")
    >>> texts = student.sample(4, steps=8)
    """
    from duo_ext.commands.student import Student
    from sedd_ext import evaluate

    return Student(evaluate.SIDE, path, overrides, host, device, trust_checkpoint)
