"""Statistics of words, which need no judge: what a drift of the samples shows first.

A word is a run of letters; the first and the last of a sample, which may be cut, do not count. What
a student gains in GenPPL while its words become shorter is no better text.
"""

import posixpath
import re

import numpy as np

from duo_ext import files
from duo_ext.data import texts

WORD = re.compile(r"[^\W\d_]+")
LONG = 4  # letters
BLOCKS = 1024  # of a held-out text


def of(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return WORD.findall(text.lower())


def length(samples: list[str]) -> float | None:
    """The mean number of letters of the samples' words; None where they have none."""
    counts = [len(word) for text in samples for word in of(text)[1:-1]]
    return float(np.mean(counts)) if counts else None


def known_of(folder: str) -> set[str] | None:
    """The words of a training text, ``folder``/train.txt; None where data.train is no such folder,
    as for a data set of the hub."""
    if not files.exists(posixpath.join(folder, "train.txt")):
        return None
    return {word for line in texts.lines(folder, "train") for word in of(line)}


def measure(samples: list[str], known: set[str] | None) -> dict[str, float | None]:
    """``word_length``; ``known_words``, the share of the samples' words that the training text has,
    and ``known_long_words``, that of the words of ``LONG`` letters and more."""
    words = [word for text in samples for word in of(text)[1:-1]]
    long = [word for word in words if len(word) >= LONG]
    return {
        "word_length": length(samples),
        "known_words": _share(words, known),
        "known_long_words": _share(long, known),
    }


def _share(words: list[str], known: set[str] | None) -> float | None:
    return float(np.mean([word in known for word in words])) if known and words else None
