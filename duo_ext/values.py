"""What the value of a key may be. Refused names the key, what was given and what is wanted."""

import math
from collections.abc import Iterable, Mapping
from typing import TypeVar

import omegaconf
from omegaconf import DictConfig

from duo_ext import Refused

T = TypeVar("T")

SEEDS = 2**32  # so many does numpy know


def require(key: str, name: object, options: Iterable) -> None:
    """Raise Refused, with a list of ``options``, if ``name``, the value of ``key``, is none."""
    if name not in options:
        raise Refused(f"{key} is '{name}'; it must be one of {', '.join(map(str, options))}")


def choose(key: str, name: str, options: Mapping[str, T]) -> T:
    """options[name]; Refused, as ``require`` raises it, if there is none."""
    require(key, name, options)
    return options[name]


def make_whole(config: DictConfig, keys: Iterable[str]) -> None:
    """Make the values of ``keys`` whole numbers where they are written as 4.0 or 4e3.

    A list is taken entry by entry. Raises Refused for 4.5.
    """
    for key in keys:
        value = omegaconf.OmegaConf.select(config, key)
        if omegaconf.OmegaConf.is_list(value):
            omegaconf.OmegaConf.update(config, key, [_whole(key, part) for part in value])
        elif isinstance(value, float):
            omegaconf.OmegaConf.update(config, key, _whole(key, value))


def _whole(key, value):
    if isinstance(value, float) and not value.is_integer():
        raise Refused(f"{key} is {value}; it must be a whole number")
    return int(value) if isinstance(value, float) else value


def make_texts(config: DictConfig, keys: Iterable[str]) -> None:
    """Make the values of ``keys`` texts where they are written as whole numbers, as 1990.

    Raises Refused for other values that are no texts; null stays.
    """
    for key in keys:
        value = omegaconf.OmegaConf.select(config, key)
        if type(value) is int:
            omegaconf.OmegaConf.update(config, key, str(value))
        elif not isinstance(value, str | None):
            raise Refused(f"{key} is {value}; it must be a text, as \"{key}='...'\"")


def require_booleans(config: DictConfig, keys: Iterable[str]) -> None:
    """Raise Refused that names the first of the keys whose value is neither true nor false.

    Any other word would count as true. Keys that are not there, or null, are the host's.
    """
    for key in keys:
        value = omegaconf.OmegaConf.select(config, key)
        if value is not None and not isinstance(value, bool):
            raise Refused(f"{key} is {value}; it must be true or false")


def require_positive(config: DictConfig, keys: Iterable[str]) -> None:
    """Raise Refused that names the first of the keys whose value is no positive number."""
    for key in keys:
        value = omegaconf.OmegaConf.select(config, key)
        if not isinstance(value, int | float) or not value > 0:
            raise Refused(f"{key} is {value}; it must be a positive number")


def require_number(
    key: str, value: object, least: float = 0, most: float = math.inf, whole: bool = False
) -> None:
    """Raise Refused if ``value``, that of ``key``, is no number from ``least`` to ``most``, or no
    whole one where that is asked for."""
    kind = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
        wanted = f"a {'whole ' * whole}number"
        wanted += f", at least {least}" * math.isfinite(least)
        wanted += f", at most {most}" * math.isfinite(most)
        raise Refused(f"{key} is {value}; it must be {wanted}")


def require_counts(key: str, value: object) -> None:
    """Raise Refused if ``value``, that of ``key``, is no list of whole numbers above 0."""
    listed = omegaconf.OmegaConf.is_list(value) and len(value) > 0
    if not listed or not all(type(part) is int and part >= 1 for part in value):
        raise Refused(f"{key} is {value}; it must be a list of whole numbers above 0, as [4,8]")


def require_positive_or_null(key: str, value: object, null: str) -> None:
    """Raise Refused for any other value; ``null`` is what it stands for then."""
    if value is not None and not (isinstance(value, int | float) and value > 0):
        raise Refused(f"{key} is {value}; it must be a positive number, or null for {null}")
