"""Files on any file system that fsspec opens, written whole or not at all."""

import contextlib
import os
import re
import uuid

import fsspec

from duo_ext import Refused

URL = re.compile(r"(\w[\w+.-]*::)*\w[\w+.-]*://")


def is_url(path):
    """Whether a path is a URL, or a chain of them such as ``zip://inner::file:///outer.zip``. Any
    other is the name of a local file, whatever characters it has."""
    return URL.match(str(path)) is not None


def located(path):
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
def opened(path):
    """The file at ``path``, open to be read as bytes for the length of a with block."""
    files, path = located(path)
    with files.open(path, "rb") as file:
        yield file


def write_whole(path, content):
    """Write bytes to a new name beside ``path``, then move it there: no reader sees half a file.

    Raises OSError, with what lay at ``path`` untouched, if that cannot be done.
    """
    files, path = located(path)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        files.makedirs(path.rpartition("/")[0], exist_ok=True)
        files.pipe_file(temporary, content)
        files.mv(temporary, path)
    except BaseException as error:
        if files.exists(temporary):
            files.rm(temporary)
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or error
        raise OSError(f"{path} cannot be written: {reason}; what was there is kept") from error


def sweep(folder):
    """Remove the unfinished files that a ``write_whole`` which was killed has left in a folder."""
    files, folder = located(folder)
    if files.isdir(folder):
        for path in files.ls(folder, detail=False):
            if re.search(r"\.[0-9a-f]{32}\.tmp$", path):
                files.rm(path)


def exists(path):
    files, path = located(path)
    return files.exists(path)
