"""A user's own texts: the tokenizer, the lines of a folder's files, their tokens, kept on disk."""

import hashlib
import io
import json
import os
import posixpath
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeAlias

import numpy

from duo_ext import Refused, files
from duo_ext.files import is_url, write_whole

Tokenizer: TypeAlias = object  # of transformers, which is imported late

# Parts of a fast tokenizer's rules that a call leaves behind and no id depends on.
PASSING = ("padding", "truncation")


def tokenizer(name: str, key: str, wanted: str = "a tokenizer's folder or hub name") -> Tokenizer:
    """The tokenizer that transformers' AutoTokenizer finds at ``name``, a folder or a hub name.

    ``key`` is the setting that named it, ``wanted`` says what that must be. Raises Refused if there
    is none, and if it has no vocabulary: where transformers finds a model's config.json and no
    tokenizer, it makes one of a few special tokens.
    """
    import transformers

    try:
        found = transformers.AutoTokenizer.from_pretrained(name)
    except Exception as error:  # transformers, tokenizers and what they import raise each their own
        raise Refused(f"{key} is '{name}'; it must be {wanted} ({reason(error)})") from error
    if len(ordinary(found)) < 2:
        raise Refused(f"{key} is '{name}'; it must be {wanted}, but its vocabulary is empty")
    return found


def reason(error: Exception) -> str:
    """An error as a part of a sentence: its type and the first line of what it says."""
    text = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {text}"


def ordinary(tokenizer: Tokenizer) -> list[int]:
    """The ids, ascending, of all tokens that are not special."""
    special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    special.update(tokenizer.all_special_tokens)
    return sorted(id for token, id in tokenizer.get_vocab().items() if token not in special)


def require_ids(tokenizer: Tokenizer, size: int, key: str, besides: Collection[str] = ()) -> None:
    """Raise Refused unless each id of the tokenizer is less than ``size``.

    Tokens in ``besides`` are left out; ``key`` is the setting that named the tokenizer.
    """
    ids = {token: id for token, id in tokenizer.get_vocab().items() if token not in besides}
    token, last = max(ids.items(), key=lambda item: item[1])
    if last >= size:
        raise Refused(
            f"{key} is '{tokenizer.name_or_path}': its token {token!r} has the id {last}; "
            f"there are {size} tokens, whose ids must be 0 to {size - 1}"
        )


def fingerprint(tokenizer: Tokenizer) -> str:
    """A hash of all that decides which ids a tokenizer gives; the same in every process.

    A fast tokenizer is hashed by its tokenizer.json; one in Python by its class, its vocabulary and
    its settings, without the paths that it was read from.
    """
    known = {
        "class": type(tokenizer).__name__,
        "special": sorted((k, str(v)) for k, v in tokenizer.special_tokens_map.items()),
        "added": sorted((n, repr(token)) for n, token in tokenizer.added_tokens_decoder.items()),
    }
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        known["rules"] = {k: v for k, v in rules.items() if k not in PASSING}
    else:
        settings = {k: v for k, v in tokenizer.init_kwargs.items() if not _is_path(k)}
        known["vocabulary"] = sorted(tokenizer.get_vocab().items())
        known["settings"] = sorted((k, repr(v)) for k, v in settings.items())
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _is_path(setting):
    return setting == "name_or_path" or setting.endswith("_file")


def save(tokenizer: object, folder: str | Path, **special: str) -> None:
    """Write a tokenizer of the package tokenizers as a folder that AutoTokenizer loads.

    ``special`` are its special tokens. Merges are written as "a b": tokenizers before 0.20 (Duo
    pins one) read no other form.
    """
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(1e30),
        **special,
    }
    content = json.loads(tokenizer.to_str())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    for name, value in {"tokenizer.json": content, "tokenizer_config.json": config}.items():
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        write_whole(f"{folder}/{name}", text.encode())


def encode(tokenizer: Tokenizer, lines: list[str], key: str) -> list[list[int]]:
    """The token ids of each line, with nothing added.

    Raises Refused, with a word that it cannot encode, where a tokenizer without [UNK] would need
    one.
    """
    try:
        return _encode(tokenizer, lines)
    except Exception as error:  # tokenizers raises no class of its own
        piece = _unknown(tokenizer, lines)
        if piece is None:
            raise
        raise Refused(
            f"{key} is '{tokenizer.name_or_path}': it cannot encode {piece!r}, which is in the "
            f"text, and has no token for what it does not know ({reason(error)})"
        ) from error


def unread(tokenizer: Tokenizer, text: str, ids: list[int]) -> int:
    """How many of a text's tokens stand for what the tokenizer does not know; the token that does
    may be an ordinary one besides."""
    word = tokenizer.unk_token
    return 0 if word is None else max(0, ids.count(tokenizer.unk_token_id) - text.count(word))


def _encode(tokenizer, lines):
    if not lines:
        return []
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    ids = tokenizer(lines, **options)["input_ids"]
    if any(None in row for row in ids):  # a tokenizer in Python
        raise ValueError("no id")
    return ids


def _unknown(tokenizer, lines):
    """A word, or a character that is one of few, that cannot be encoded; None if all can."""

    def fails(text):
        try:
            _encode(tokenizer, [text])
        except Exception:  # tokenizers raises no class of its own
            return True
        return False

    line = next(filter(fails, lines), None)
    word = next(filter(fails, (line or "").split()), line)
    failing = [character for character in word or "" if fails(character)]
    return failing[0] if word and 0 < len(failing) < len(word) / 2 else word


def explain(folder: str, mode: str, tokenizer: Tokenizer, key: str) -> None:
    """Raise Refused where ``folder`` is a local folder of texts that cannot be read or encoded.

    Called when a host's own reader has failed: its error says less. ``mode`` is train or
    validation, ``key`` the setting that named the tokenizer.
    """
    if os.path.isdir(folder):
        encode(tokenizer, lines(folder, mode), key)


def in_cache(cache_dir: str | None, name: str) -> str:
    """The path of a file in data.cache_dir; Refused unless that is a local folder, from which
    blocks are read a page at a time."""
    if cache_dir is None or is_url(cache_dir):
        raise Refused(f"data.cache_dir is {cache_dir}; it must be a local folder")
    return os.path.join(cache_dir, name)


def kept(
    cache_dir: str,
    mode: str,
    source: object,
    tokenizer: Tokenizer,
    make: Callable[[], numpy.ndarray],
) -> numpy.ndarray:
    """The token blocks (N, L) that ``make()`` makes, kept as a file in the folder ``cache_dir``.

    The file's name is a hash of the tokenizer's fingerprint and of the repr of ``source``, which
    holds all else that the blocks are made from. A damaged file is made anew.
    """
    known = repr((fingerprint(tokenizer), source))
    name = f"{mode}-{hashlib.sha256(known.encode()).hexdigest()[:16]}.npy"
    path = in_cache(cache_dir, name)
    if (found := _load(path)) is not None:
        return found
    blocks_NL, content = make(), io.BytesIO()
    small = blocks_NL.max() < 2**16
    numpy.save(content, blocks_NL.astype(numpy.uint16 if small else numpy.int32))
    write_whole(path, content.getvalue())
    return numpy.load(path, mmap_mode="r")


def _load(path):
    """The array in a file; None if the file is not there, or not whole."""
    try:
        return numpy.load(path, mmap_mode="r")
    except (FileNotFoundError, EOFError, ValueError):
        return None


def lines(folder: str, mode: str) -> list[str]:
    """The lines of folder/mode.txt that hold text; ``mode`` is train or validation.

    Raises Refused if the file is missing, cannot be read as text in UTF-8, or holds none.
    """
    path = posixpath.join(folder, f"{mode}.txt")
    try:
        with files.opened(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig") as text:
            found = [line.rstrip("\n") for line in text]
    except FileNotFoundError as error:
        raise Refused(
            f"data: '{path}' is missing; data.train and data.valid are folders with train.txt and "
            "validation.txt"
        ) from error
    except (OSError, ImportError, ValueError) as error:
        raise Refused(
            f"data: '{path}' cannot be read; it must be a text file in UTF-8 ({reason(error)})"
        ) from error
    if any("\0" in line for line in found):
        raise Refused(f"data: '{path}' holds NUL characters; it must be a text file in UTF-8")
    found = [line for line in found if line.strip()]
    if not found:
        raise Refused(f"data: '{path}' holds no text")
    return found
