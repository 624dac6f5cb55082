"""How a run is saved: each state once, with no copy of it in memory, and the last two are kept."""

from collections.abc import Callable
from pathlib import Path

import torch

from duo_ext import files

# Beside the last checkpoint, in Duo's runs and in SEDD's: the one before it, for when that is lost.
PREVIOUS = {"last.ckpt": "previous.ckpt", "checkpoint.pth": "previous.pth"}


def previous(path: str | Path) -> str | None:
    """Where the checkpoint before that at ``path`` is kept; None if it is not."""
    folder, _, name = str(path).rpartition("/")
    return f"{folder}/{PREVIOUS[name]}" if name in PREVIOUS else None


def spared(path: str | Path) -> str:
    """What to say of a checkpoint that is damaged: where the one before it is, if there is one."""
    before = previous(path)
    return f"; '{before}' is the one before it" if before and files.exists(before) else ""


def write(path: str | Path, checkpoint: dict) -> None:
    """Write a checkpoint, one tensor after the other, whole or not at all."""
    files.write_whole(path, lambda file: _stream(checkpoint, file), previous(path))


def _stream(checkpoint, file):
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch hides why a file could not be written
            raise error.__context__ from None
        raise


class Saves:
    """What a run has come to is written once, however many ask for it.

    ``state`` tells one state of the run from another. What was saved of it under one path is linked
    to the others.
    """

    def __init__(self, state: object = None, path: str | Path | None = None):
        """``path`` is where ``state`` is saved already."""
        self.state, self.paths = state, [path]

    def save(
        self, state: object, path: str | Path, write: Callable[[], None], links: bool = True
    ) -> None:
        """Call ``write()`` for a state that is not yet saved. Of several processes that write
        together the one with ``links`` makes the links."""
        if state != self.state:
            write()
            self.state, self.paths = state, [path]
        elif path not in self.paths:
            if links:
                files.twin(self.paths[0], path, previous(path))
            self.paths.append(path)
