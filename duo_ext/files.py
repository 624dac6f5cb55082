"""Files on any file system that fsspec opens, written whole or not at all."""

import uuid

import fsspec


def write_whole(path, content):
    """Write bytes to a new name beside ``path``, then move it there: no reader sees half a file."""
    files, path = fsspec.core.url_to_fs(str(path))
    files.makedirs(path.rpartition("/")[0], exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        files.pipe_file(temporary, content)
        files.mv(temporary, path)
    except BaseException:
        if files.exists(temporary):
            files.rm(temporary)
        raise


def exists(path):
    files, path = fsspec.core.url_to_fs(str(path))
    return files.exists(path)
