"""How a run is saved: each state is written once, without a copy in memory; two are kept."""

from collections.abc import Callable
from pathlib import Path

import torch

from duo_ext import files

# {name of the last checkpoint, in Duo's runs and in SEDD's: name of the one before it}. The second
# is for when the first is damaged.
PREVIOUS = {"last.ckpt": "previous.ckpt", "checkpoint.pth": "previous.pth"}


def previous(path: str | Path) -> str | None:
    """Where the checkpoint before the one at ``path`` is kept; None if it is not kept."""
    name = str(path).rpartition("/")[2]
    return str(path).removesuffix(name) + PREVIOUS[name] if name in PREVIOUS else None


def spared(path: str | Path) -> str:
    """What to add to a sentence on a damaged checkpoint: where the one before it is, or ""."""
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
    """The saves of a run. A state that is to be saved under several paths is written once, and
    linked to the other paths.

    ``state`` is any value that tells one state of the run from another; ``path`` is where it is
    saved already.
    """

    def __init__(self, state: object = None, path: str | Path | None = None):
        self.state, self.paths = state, [path]

    def save(
        self, state: object, path: str | Path, write: Callable[[], None], links: bool = True
    ) -> None:
        """Have ``state`` at ``path``: by ``write()``, or by a link if it is saved already.

        Several processes may write together; the one with ``links`` makes the links.
        """
        if state != self.state:
            write()
            self.state, self.paths = state, [path]
        elif path not in self.paths:
            if links:
                files.twin(self.paths[0], path, previous(path))
            self.paths.append(path)
