"""Files on any file system that fsspec opens, written whole or not at all."""

import re
import uuid

import fsspec


def write_whole(path, content):
    """Write bytes to a new name beside ``path``, then move it there: no reader sees half a file.

    Raises OSError, with what lay at ``path`` untouched, if that cannot be done.
    """
    files, path = fsspec.core.url_to_fs(str(path))
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
    files, folder = fsspec.core.url_to_fs(str(folder))
    if files.isdir(folder):
        for path in files.ls(folder, detail=False):
            if re.search(r"\.[0-9a-f]{32}\.tmp$", path):
                files.rm(path)


def exists(path):
    files, path = fsspec.core.url_to_fs(str(path))
    return files.exists(path)
