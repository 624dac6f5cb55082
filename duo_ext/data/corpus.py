"""The shipped corpus: State of the Union addresses, 1790 to 2021, and where their files lie.

Two texts are made from it: `sotu32`, folded to 32 symbols for small character-level models, and
`sotu`, the text as published with its whitespace tidied. A line of either is one paragraph. The
published addresses carry no paragraph breaks, so that in both a line is one whole address.
"""

import contextlib
import hashlib
import importlib.resources
import json
import lzma
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from duo_ext import Refused
from duo_ext.data import arithmetic
from duo_ext.files import made_once

# The four marks are the most frequent ones of the corpus. The order is the order of the token ids.
ALPHABET = "\n ,.-'abcdefghijklmnopqrstuvwxyz"

# ASCII mark -> the typographic characters that it stands for, once NFKD has been applied.
TYPOGRAPHY = {
    "-": "\u2010\u2011\u2012\u2013\u2014\u2015\u2212",
    "'": "\u2018\u2019\u201a\u201b\u2032",
    '"': "\u201c\u201d\u201e\u201f\u2033",
}

ADDRESSES = "sotu/addresses.jsonl.xz"
HELD_OUT_EVERY = 12

_TO_ASCII = str.maketrans({char: mark for mark, chars in TYPOGRAPHY.items() for char in chars})
_NUMBER = re.compile(r"[0-9](?:[0-9.,]*[0-9])?(?:-|(?:st|nd|rd|d|th|'?s)\b)?")
_FOREIGN = re.compile(f"[^{re.escape(ALPHABET)}]")
_SPACE_BEFORE_MARK = re.compile(r" +(?=[,.])")
_REPEATED_MARK = re.compile(r"([,.'-])(?: *\1)+")


class Address(NamedTuple):
    """One address: its name, as in "1790_george_washington_n" (the year first), and its text."""

    name: str
    text: str


def addresses() -> list[Address]:
    """The shipped addresses, as published, sorted by name and so by year."""
    with lzma.open(asset(ADDRESSES), "rt", encoding="utf-8") as lines:
        return [Address(**json.loads(line)) for line in lines]


def split(addresses: Iterable[Address]) -> tuple[list[Address], list[Address]]:
    """Training and held-out addresses: by name, the middle one of every twelve is held out."""
    ordered = sorted(addresses)
    held_out = ordered[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]
    return [address for address in ordered if address not in held_out], held_out


def tidy(text: str) -> str:
    """One non-empty line for each non-empty line of `text`, its runs of whitespace one space."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def fold(text: str) -> str:
    """`text` in the 32 symbols of `ALPHABET`; folding twice is folding once.

    Accents go, typographic marks become ASCII and letters lower-case; a number (with the points and
    commas inside it and its ending, as in "20th" or "10-mile") and any other character become a
    space. Then runs of spaces, and of one mark, become one, a comma or point follows its word
    without a space, and lines are tidied.
    """
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    text = "\n".join(text.translate(_TO_ASCII).lower().splitlines())
    text = _FOREIGN.sub(" ", _NUMBER.sub(" ", text))
    return tidy(_REPEATED_MARK.sub(r"\1", _SPACE_BEFORE_MARK.sub("", text)))


TEXTS = {"sotu": tidy, "sotu32": fold}


def text_dir(name: str, cache: str | os.PathLike | None = None) -> Path:
    """A directory with `train.txt` and `validation.txt` of the text `name`, UTF-8, one paragraph a
    line, written on the first call and found there by later ones.

    Args:
        name: "sotu32" (folded, see `fold`) or "sotu" (as published, see `tidy`).
        cache: the directory it is made in; $IDLM_CACHE by default, else $XDG_CACHE_HOME/idlm, else
            ~/.cache/idlm. A hash of the corpus and of this module is part of the name made there.

    Raises:
        Refused: `name` is no text of the corpus, or the directory cannot be written.
    """
    if name not in TEXTS:
        raise Refused(f"corpus text: got {name!r}, want one of {', '.join(sorted(TEXTS))}")
    source = Path(asset(ADDRESSES)).read_bytes() + Path(__file__).read_bytes()
    root = Path(cache) if cache is not None else _cache()
    target = root.absolute() / f"{name}-{hashlib.sha256(source).hexdigest()[:12]}"
    with _writable(root):
        made_once(target, lambda folder: _write(TEXTS[name], folder))
    return target


def _write(normal, folder):
    """Both parts of a text, its addresses made `normal`."""
    for part, members in zip(("train", "validation"), split(addresses()), strict=True):
        text = "".join(f"{normal(address.text)}\n" for address in members)
        (folder / f"{part}.txt").write_text(text, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def _writable(root: Path):
    """Refused, which says how another one is chosen, where the cache cannot be written."""
    try:
        yield
    except OSError as error:
        raise Refused(
            f"the cache {root} cannot be written ({error.strerror or error}); set IDLM_CACHE to a "
            "folder that can"
        ) from error


def asset(relative: str) -> str:
    """The absolute path of a shipped file or folder, such as "tokenizers/sotu32".

    Raises:
        Refused: there is no such path under `duo_ext/assets`.
    """
    root = Path(str(importlib.resources.files("duo_ext") / "assets")).resolve()
    path = (root / relative).resolve()
    if not (path.is_relative_to(root) and path.exists()):
        raise Refused(f"asset: got {relative!r}, want a file or folder under duo_ext/assets")
    return str(path)


def register_resolvers() -> None:
    """Let config files say `${idlm_text:sotu32}` or `${idlm_text:arithmetic}`,
    `${idlm_asset:tokenizers/sotu32}` and `${idlm_integral:32}`."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("idlm_text", _text, replace=True)
    OmegaConf.register_new_resolver("idlm_asset", asset, replace=True)
    OmegaConf.register_new_resolver("idlm_integral", _integral, replace=True)


def _integral(vocab_size) -> str:
    from duo_ext.data import integral  # imports torch

    root = _cache()
    with _writable(root):
        return str(integral.path(root, vocab_size).absolute())


def _text(name) -> str:
    """The folder of a text, or of the word problems."""
    if name != "arithmetic":
        return str(text_dir(name))
    root = _cache()
    with _writable(root):
        return arithmetic.kept(root)


def _cache() -> Path:
    if os.environ.get("IDLM_CACHE"):
        return Path(os.environ["IDLM_CACHE"])
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "idlm"
    try:
        return Path.home() / ".cache" / "idlm"
    except RuntimeError as error:
        raise Refused(
            "there is no home folder for the cache; set IDLM_CACHE to a folder that can be written"
        ) from error
