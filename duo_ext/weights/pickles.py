"""Files of torch.save, read without running the code that one may hold."""

import contextlib
import re
import typing
from collections.abc import Callable, Iterator
from typing import BinaryIO

import omegaconf
import torch

from duo_ext import Refused, files
from duo_ext.weights import saves


class Tokenizer:
    """Stands for the tokenizers in Duo's checkpoints: nobody needs them, so they are not made."""

    def __init__(self, *_):
        pass

    def __setstate__(self, state: object) -> None:
        """Keep nothing of it."""


def plain_dict(*_) -> dict:
    """Instead of OmegaConf's defaultdict, which torch.load would make and leave empty."""
    return {}


# What Duo's checkpoints hold besides tensors and plain values.
CONFIG_TYPES = {
    "omegaconf.dictconfig.DictConfig": omegaconf.DictConfig,
    "omegaconf.listconfig.ListConfig": omegaconf.ListConfig,
    "omegaconf.base.ContainerMetadata": omegaconf.base.ContainerMetadata,
    "omegaconf.base.Metadata": omegaconf.base.Metadata,
    "omegaconf.nodes.AnyNode": omegaconf.AnyNode,
    "typing.Any": typing.Any,
    "collections.defaultdict": plain_dict,
    "builtins.dict": dict,
    "builtins.list": list,
    "builtins.int": int,
}
TOKENIZER_TYPES = re.compile(r"(transformers|tokenizers|dataloader)\..*")


def known_types(file: BinaryIO) -> list[tuple[type, str]]:
    """[(type, its name in the file)] of the types beyond torch's own that a file of Duo's names."""
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except Exception:  # torch.load will say what is wrong with the file
        names = []
    file.seek(0)
    known = [(CONFIG_TYPES[name], name) for name in names if name in CONFIG_TYPES]
    return known + [(Tokenizer, name) for name in names if TOKENIZER_TYPES.fullmatch(name)]


def content(
    path: str, key: str, types: Callable[[BinaryIO], list], rule: str, trust: bool = False
) -> object:
    """What a file of torch.save holds, on the CPU.

    ``types(file)`` lists the types beyond torch's own that may be made, as
    ``torch.serialization.safe_globals`` takes them; with ``trust`` any type may be made. ``rule``
    is what a user is told whose file holds others. ``key`` is the setting that named the file.
    Raises Refused where the file cannot be read.
    """
    with opened(path, key) as file:
        try:
            with torch.serialization.safe_globals(types(file)):
                return torch.load(file, map_location="cpu", weights_only=trust is not True)
        except Exception as error:  # what torch.load raises depends on the bytes that it meets
            raise Refused(f"{key} is '{path}'; {_refusal(error, rule, path)}") from error


@contextlib.contextmanager
def opened(path: str, key: str) -> Iterator[BinaryIO]:
    """The file at ``path``, open to be read for the length of a with block.

    Raises Refused, which names ``key``, where it cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(files.opened(path))
        except Exception as error:  # fsspec's file systems each raise their own
            reason = getattr(error, "strerror", None) or error
            raise Refused(f"{key} is '{path}'; it cannot be opened: {reason}") from error
        yield file


def _refusal(error, rule, path):
    """Why torch.load refused a file, without torch's advice to load it all the same."""
    unknown = re.search(r"GLOBAL (\S+)", str(error))
    if isinstance(error, ImportError | AttributeError):  # of types that are trusted
        return f"what it holds cannot be made here: {error}"
    if not unknown:
        return f"it is damaged, or no file of torch.save{saves.spared(path)}"
    return f"it holds '{unknown[1]}', which could run code: {rule}"
