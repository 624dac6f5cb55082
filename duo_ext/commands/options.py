"""The command line of ``evaluate``, Duo's and SEDD's: options, and between them the host's
settings."""

import argparse
import itertools
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from duo_ext import Refused
from duo_ext.core import samplers
from duo_ext.core.samplers import grids
from duo_ext.measuring.subject import Setting, Subject, grid_of
from duo_ext.values import SEEDS
from duo_ext.weights.pretrained import FILE_ENDINGS

if TYPE_CHECKING:
    from duo_ext.commands.evaluation import Side  # which imports this module

SHIPPED_JUDGE = "${idlm_asset:judge}"
OVERRIDE = re.compile(r"\+{0,2}[A-Za-z_][\w.@/-]*=|~[A-Za-z_]")
EVERY_HOST = (
    "every model here is drawn by its host's sampler, which has a grid of its own; --sampler names "
    "one of ours"
)
OF_SAMPLING = re.compile(r"\+{0,2}(seed|sampling\.(?!psi\.)[\w.]+)=")


def parse(side: "Side", arguments: list[str]) -> argparse.Namespace:
    """The options of a command line of ``side``; ``overrides`` are the host's settings in it.

    Raises Refused for values that cannot work.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {side.module}",
        usage="%(prog)s [options] [key=value ...]",
        description="Sample checkpoints with their EMA weights, measure the samples, compare.",
        epilog=f"key=value: {side.host}'s settings, for checkpoints that carry none. A word of "
        "that look is no setting where it is the one value of an option, stands behind --names, or "
        "behind --teacher or --student is the first, exists, or ends as checkpoints do "
        f"({' '.join(FILE_ENDINGS)}).",
        allow_abbrev=False,
    )
    paths = {"nargs": "+", "default": [], "metavar": "CKPT"}
    parser.add_argument("--teacher", help="checkpoints to compare with", **paths)
    parser.add_argument("--student", help="checkpoints to judge", **paths)
    parser.add_argument("--names", nargs="+", help="what to call them, instead of their algo")
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument(
        "--sampler",
        nargs="+",
        help=f"host: the host's own; or one of ours: {samplers.WANTED}. By default a student's as "
        "its checkpoint says, and for a teacher the host's and its students'",
    )
    parser.add_argument(
        "--grid",
        nargs="+",
        help=f"times of our samplers: {grids.WANTED}; or auto: found for the checkpoint and kept "
        "beside it. By default a student's as its checkpoint says, and the host's",
    )
    parser.add_argument("--temperature", nargs="+", type=float, default=[1.0])
    side.add_options(parser)
    parser.add_argument("--trust-checkpoint", action="store_true", help="load any types")
    parser.add_argument("--samples", type=int, default=1024, help="samples a row")
    parser.add_argument(
        "--batch-size", type=int, help="samples at a time; by default as many as fit, at most 64"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--precision", choices=("float64", "float32"), default="float64")
    parser.add_argument("--judge", default=SHIPPED_JUDGE, help="a causal LM's folder or hub name")
    parser.add_argument("--ceiling", action="store_true", help="the judge's own samples too")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--host", metavar="PATH", help=f"the {side.host} tree to sample in")
    words, overrides = divided(arguments, parser)
    options = parser.parse_args(words, argparse.Namespace(overrides=overrides))
    options.command = shlex.join(["python", "-m", side.module, *arguments])
    _check(options)
    return options


def divided(arguments: list[str], parser: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """(the words of options, the host's settings) of a command line; see the help's last lines."""
    actions = parser._option_string_actions
    words, overrides, option, place = [], [], None, 0
    model = any(not action.option_strings for action in parser._actions)  # comes as a free word
    for word in arguments:
        name, equals, _ = word.partition("=")
        if name in actions:
            option, place = None if equals else actions[name], 0
        elif OVERRIDE.match(word) and model and option is None and os.path.exists(word):
            model = False
        elif OVERRIDE.match(word) and not _is_value(word, option, place):
            overrides.append(word)
            continue
        else:
            place += 1
        words.append(word)
    return words, overrides


def _is_value(word, option, place):
    """Whether a word that looks like a setting is the value of an option, at this place of it."""
    if option is None or option.dest == "names":
        return option is not None
    if option.dest in ("teacher", "student"):
        return place == 0 or os.path.exists(word) or word.endswith(FILE_ENDINGS)
    return option.nargs is None and place == 0


def _check(options):
    given = options.teacher + options.student
    if not given:
        raise Refused("nothing to evaluate: give --teacher or --student checkpoints")
    if options.names and len(options.names) != len(given):
        raise Refused(f"--names has {len(options.names)} names for {len(given)} checkpoints")
    require_numbers(options, steps=1, samples=1, batch_size=1)
    require_own(options)
    given = list(settings(options, options.sampler or (), options.grid))
    if given:
        require_grid(given, options, "--sampler host has a grid of its own: host")
    for setting in given:
        setting.require(options.precision)


def require_grid(given: Iterable[Setting], options: argparse.Namespace, reason: str) -> None:
    """Raise Refused, with the reason, for a grid of ours where the hosts' samplers alone draw."""
    if options.grid not in (None, ["host"]) and all(setting.by_host for setting in given):
        raise Refused(f"--grid is {' '.join(options.grid)}; {reason}")


def require_own(options: argparse.Namespace) -> None:
    """Raise Refused for a seed that random numbers have not, and for settings of the host that have
    no part in a command whose options say how it samples."""
    if not 0 <= options.seed < SEEDS:
        raise Refused(f"--seed is {options.seed}; it must be from 0 to {SEEDS - 1}")
    for word in options.overrides:
        if OF_SAMPLING.match(word):
            raise Refused(f"'{word}' has no effect here; --help says by which options to sample")


def require_numbers(options: argparse.Namespace, **least: int) -> None:
    """Raise Refused for a number below its least one, and for a temperature or a nucleus that is
    none. An option may have one value, several or none."""
    for name, bound in least.items():
        for value in _values(options, name):
            if value < bound:
                raise Refused(f"--{name.replace('_', '-')} is {value}; at least {bound}")
    for name in ("temperature", "nucleus"):
        for value in _values(options, name):
            if not value > 0 or (name == "nucleus" and value > 1):
                raise Refused(f"--{name} is {value}; above 0{', at most 1' * (name == 'nucleus')}")


def _values(options, name):
    found = getattr(options, name, None)
    return found if isinstance(found, list) else [] if found is None else [found]


def settings(
    options: argparse.Namespace, samplers: Iterable[str], grids: Iterable[str] | None
) -> Iterator[Setting]:
    """Each ``Setting`` that the options ask for, with these samplers and, of our own, these grids;
    None: each sampler's own."""
    others = options.noise_removal, options.temperature, options.nucleus
    for steps, sampler in itertools.product(options.steps, samplers):
        times = [grid_of(sampler)] if sampler == "host" or grids is None else grids
        predictors = options.predictor or [options.predictor_of(sampler)]
        for way in itertools.product(times, predictors, *others):
            yield Setting(steps, sampler, *way)


def of_subject(
    subject: Subject, subjects: list[Subject], options: argparse.Namespace
) -> list[Setting]:
    """The ways to sample a checkpoint: as the options say; where they name no sampler, a student as
    it was trained for, a teacher by the host's sampler and by the students'."""
    if options.sampler:
        return list(settings(options, options.sampler, options.grid))
    own = [subject.ways]
    if subject.role == "teacher":
        ways = [s.ways for s in subjects if s.role == "student"]
        own = dict.fromkeys([subject.plain, *(way for way in ways if subject.takes(way[0]))])
    return [
        setting
        for sampler, grid in own
        for setting in settings(options, [sampler], options.grid or [grid])
    ]
