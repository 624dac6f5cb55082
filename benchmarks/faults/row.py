"""What came of a fault, as a row of the table.

A row: program, fault, tried, held (how often the promise was kept), seen, lost.
"""

import pickle
from dataclasses import dataclass

NONE = "nothing"


@dataclass
class Row:
    program: str
    fault: str
    tried: int
    held: int
    seen: str
    lost: str


def is_whole(run):
    try:
        run.tensors()
    except (RuntimeError, EOFError, OSError, KeyError, pickle.UnpicklingError):
        return False
    return True


def short(errors, tiny):
    """The first sentence, without this machine's folders."""
    return errors[0].replace(f"{tiny.folder}/", "") if errors else "no sentence"
