"""Files on any file system that fsspec opens, written whole or not at all."""

import contextlib
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from duo_ext import Refused

URL = re.compile(r"(\w[\w+.-]*::)*\w[\w+.-]*://")


def is_url(path: str | Path) -> bool:
    """Whether a path is a URL, or a chain of them such as ``zip://inner::file:///outer.zip``. Any
    other is the name of a local file, whatever characters it has."""
    return URL.match(str(path)) is not None


def located(path: str | Path) -> tuple[fsspec.AbstractFileSystem, str]:
    """(fsspec's file system, the path there). A local name, or what follows file://, is taken
    letter by letter, except that a leading "~" is the home folder.

    Raises Refused if there is no file system for a URL.
    """
    path = str(path)
    if path.startswith("file://") or not is_url(path):
        local = os.path.expanduser(path.removeprefix("file://"))
        return fsspec.filesystem("file"), os.path.abspath(local)
    try:
        return fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:  # no such protocol, or its package is not installed
        raise Refused(f"'{path}' cannot be opened: {error}") from error


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """The file at ``path``, open to be read as bytes for the length of a with block."""
    files, path = located(path)
    with files.open(path, "rb") as file:
        yield file


def write_whole(
    path: str | Path,
    content: bytes | Callable[[BinaryIO], None],
    previous: str | Path | None = None,
) -> None:
    """Write a new file beside ``path``, then move it there: no reader sees half a file.

    ``content`` is bytes, or a function that writes to the open file it is given, so that no second
    copy of what it writes is in memory. ``previous`` is another path, of the same file system,
    where what lay at ``path`` is kept. Raises OSError, with what lay at ``path`` untouched, if
    that cannot be done.
    """
    write = (lambda file: file.write(content)) if isinstance(content, bytes) else content
    with _replacing(path, previous) as (files, temporary), files.open(temporary, "wb") as file:
        write(file)
        if isinstance(files, LocalFileSystem):  # after a crash the new name has all of it
            file.flush()
            os.fsync(file.fileno())


def twin(source: str | Path, path: str | Path, previous: str | Path | None = None) -> None:
    """Let ``path`` hold what ``source`` does: one file of two names where that can be, else a copy.

    Both are on the same file system. ``previous`` and what is raised are as in ``write_whole``.
    """
    with _replacing(path, previous) as (files, temporary):
        _link(files, located(source)[1], temporary)


@contextlib.contextmanager
def _replacing(path, previous):
    """(file system, a new name on it); at the end of the with block ``path`` is what lies there."""
    files, path = located(path)
    try:
        if files.isdir(path):  # fsspec would move the file into it
            raise IsADirectoryError("it is a folder")
        with _moved(files, path) as temporary:
            yield files, temporary
            if previous and files.exists(path):
                with _moved(files, located(previous)[1]) as kept:
                    _link(files, path, kept)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{path} cannot be written: {reason}; what was there is kept") from error


@contextlib.contextmanager
def _moved(files, path):
    """A new name beside ``path``: what a with block writes there is moved to ``path`` at its end,
    or removed."""
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        files.makedirs(path.rpartition("/")[0], exist_ok=True)
        yield temporary
        files.mv(temporary, path)
    finally:  # a move changes nothing where both are names of one file
        if files.exists(temporary):
            files.rm(temporary)


def _link(files, source, target):
    """Give a file a second name, or a copy where it can have one alone."""
    if isinstance(files, LocalFileSystem):
        with contextlib.suppress(OSError):
            return os.link(source, target)
    files.cp_file(source, target)


def made_once(target: Path, make: Callable[[Path], None]) -> None:
    """Have the local folder ``target``, made by ``make(a new folder beside it)`` on the first call.

    It is there whole or not at all; of processes that make it at once the first to end keeps its
    own. Raises OSError if it cannot be written.
    """
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        made.mkdir()
        make(made)
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first
                raise


def sweep(folder: str | Path) -> None:
    """Remove what a ``write_whole``, or another write which was killed, has left unfinished in a
    folder: files, and folders of an export."""
    files, folder = located(folder)
    if files.isdir(folder):
        for path in files.ls(folder, detail=False):
            if re.search(r"\.[0-9a-f]{32}\.tmp$", path):
                files.rm(path, recursive=True)


def exists(path: str | Path) -> bool:
    """Whether there is a file or a folder at ``path``."""
    files, path = located(path)
    return files.exists(path)
