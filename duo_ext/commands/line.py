"""What all our command lines share: how an error ends them, which warnings are left out, which
words are ours, where overrides are put in."""

import argparse
import contextlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator

import omegaconf
import torch
from hydra._internal.utils import get_args
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from duo_ext import Refused

TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


@contextlib.contextmanager
def one_sentence(about_files: str = "") -> Iterator[None]:
    """Inside a with block: an error that a user can mend becomes one line and exit code 1.

    HYDRA_FULL_ERROR=1 shows where it arose. It is ``Refused``, what the operating system says of a
    file (``about_files`` comes before it), or what Hydra says of the settings. One line is also
    said when another process of the run has ended. Any other exception is a fault of ours and keeps
    its traceback.
    """
    os.environ["MPLBACKEND"] = "agg"  # a notebook's may not be there, and no figure is shown
    if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook's is none
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack a character
    try:
        yield
        sys.stdout.flush()  # here and not at the very end, where an error has no sentence
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit("error: what reads this program's output has ended")
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except Exception as error:
        sentence = _sentence(error, about_files)
        if TRACEBACK or sentence is None:
            raise
        sys.exit(" ".join(f"error: {sentence}".split()))


def _sentence(error, about_files):
    """What the user is told of an error; None for a fault of ours."""
    if about_files and type(error) is ValueError and isinstance(error.__cause__, OSError):
        error = error.__cause__  # of Hydra's log file, which logging's ValueError hides
    if isinstance(error, Refused | HydraException | OmegaConfBaseException):
        return str(error).partition("Config search path:")[0]
    if isinstance(error, OSError):
        return f"{about_files}{error}"
    if _lost_process(error):
        return "another process of this run has ended; the last checkpoint is kept"
    return None


def _lost_process(error):
    """Whether a collective failed or a worker was killed; not every such error has its own type."""
    if isinstance(error, torch.distributed.DistError):
        return True
    told = ("gloo/transport", "DataLoader worker")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in told)


# Warnings of libraries of which a user can do nothing: how each begins, as a regular expression.
HUSHED = (
    "`precision=bf16` is supported for historical reasons",
    ".*`tensorboardX` has been removed",
    r".*isinstance\(treespec, LeafSpec\)",
    "CUDA is not available or torch_xla",
    r"`torch\.cuda\.amp\.(autocast|GradScaler)",
    "'pin_memory' argument is set as true but no accelerator",
    r"The lr scheduler dict contains the key",
    "Be aware that when using `ckpt_path`",
    ".*ModelCheckpoint.*manual optimization",
)


def hush() -> None:
    """Leave out the warnings of HUSHED, unless the user chose warnings by PYTHONWARNINGS or -W.

    To be called after Lightning's import, whose own filters come before.
    """
    if not sys.warnoptions:
        for message in HUSHED:
            warnings.filterwarnings("ignore", message=message)


def own_arguments(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """(our options, the other words): --host and --check are taken out before Hydra sees the
    rest."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--host", metavar="PATH")
    parser.add_argument("--check", action="store_true")
    return parser.parse_known_args(arguments)


def with_overrides(arguments: list[str], change: Callable[[list[str]], list[str]]) -> list[str]:
    """The words of a command line with its overrides as ``change(overrides)`` makes them.

    They stay in one row, as Hydra's parser wants them, and Hydra's own flags where they are.
    """
    overrides = get_args(arguments).overrides
    count = len(overrides)
    start = next(i for i in range(len(arguments) + 1) if arguments[i : i + count] == overrides)
    return [*arguments[:start], *change(overrides), *arguments[start + count :]]


def resolve(text: str) -> str:
    """A path as the command lines take it: ``${idlm_asset:...}`` and the like are resolved."""
    return omegaconf.OmegaConf.create({"path": text}).path


def groups(overrides: Iterable[str]) -> set[str]:
    """The keys that a command line's overrides set, without signs: {"algo"} for algo=mdlm or
    +algo=mdlm."""
    return {word.lstrip("+~").partition("=")[0] for word in overrides}


def as_trained(
    config: DictConfig, saved: dict, sections: Iterable[str], overrides: list[str]
) -> None:
    """Put what a checkpoint says of its model and its data into a composed configuration.

    ``saved`` is the checkpoint's own configuration, ``sections`` are the keys that are taken from
    it. ``overrides`` win: a section that they choose as a whole stays, dotted ones are set again.
    """
    chosen = groups(overrides)
    for section in sections:
        if section in saved and section not in chosen:
            theirs, nested = saved[section], isinstance(saved[section], dict)
            config[section] = (
                omegaconf.OmegaConf.merge(config[section], theirs) if nested else theirs
            )
    override(config, overrides)


def override(config: DictConfig, overrides: list[str]) -> None:
    """Set the dotted keys of a command line's overrides in ``config``, over what a checkpoint
    says."""
    for told in OverridesParser.create().parse_overrides(overrides):
        if "." in told.key_or_group and not told.is_delete():
            omegaconf.OmegaConf.update(config, told.key_or_group, told.value(), force_add=True)
