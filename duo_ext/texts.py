"""Texts of a user's own: a tokenizer by its folder or name, and the lines of a folder's files."""

import io
import posixpath

import transformers

from duo_ext import Refused, files


def tokenizer(name, key):
    """AutoTokenizer's; ``key`` is the setting that named it. Raises Refused if there is none."""
    try:
        found = transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise Refused(
            f"{key} is '{name}'; it must be a tokenizer's folder or hub name "
            f"({str(error).splitlines()[0]})"
        ) from error
    if len(found) < 2:
        raise Refused(f"{key} is '{name}': its vocabulary is empty")
    return found


def lines(folder, mode):
    """The lines of folder/mode.txt that hold text; ``mode`` is train or validation.

    Raises Refused if the file is missing or holds none.
    """
    path = posixpath.join(folder, f"{mode}.txt")
    try:
        with files.opened(path) as file, io.TextIOWrapper(file, encoding="utf-8") as text:
            found = [line.rstrip("\n") for line in text]
    except FileNotFoundError as error:
        raise Refused(
            f"data: '{path}' is missing; data.train and data.valid are folders with train.txt and "
            "validation.txt"
        ) from error
    found = [line for line in found if line.strip()]
    if not found:
        raise Refused(f"data: '{path}' holds no text")
    return found
