"""``python -m duo_ext [--host PATH] [--check] key=value ...``: Duo's command line, extended."""

import argparse
import contextlib
import os
import sys

import hydra
import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from duo_ext import ALGORITHMS, Refused, compat, host

TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


@contextlib.contextmanager
def one_sentence(about_files=""):
    """What a user can mend is one line and exit code 1; HYDRA_FULL_ERROR=1 shows where it arose.

    That is ``Refused``, what the operating system says of a file, and what Hydra says of the
    settings. So is the end of another process of the run, which those that are left meet in a
    collective. Any other exception is a fault of ours, with its traceback.
    """
    os.environ["MPLBACKEND"] = "agg"  # a notebook's may not be there, and no figure is shown
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
    """Whether a collective failed or a worker was killed: not all of these have a type."""
    if isinstance(error, torch.distributed.DistError):
        return True
    told = ("gloo/transport", "DataLoader worker")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in told)


def run(config):
    """Run the configured mode in the host, with a registered class where the name is ours."""
    os.environ["HYDRA_FULL_ERROR"] = str(int(TRACEBACK))  # for the other processes of a DDP run
    name = config.algo.name
    with one_sentence():
        algorithm = hydra.utils.get_class(ALGORITHMS[name]) if name in ALGORITHMS else None
        host.active().run(config, algorithm)


def own_arguments(arguments):
    """(what is ours, what is Duo's): --host and --check go before Hydra sees the rest."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--host", metavar="PATH")
    parser.add_argument("--check", action="store_true")
    return parser.parse_known_args(arguments)


def report(tree):
    """What --check prints: the host and each remedy with what became of it."""
    print(f"host: {tree}")
    for remedy in (*compat.BEFORE, *compat.AFTER):
        state = "applied" if remedy in tree.remedies else "not needed"
        print(f"{state:>10}  {remedy.name}: {remedy.cause}")


def main():
    """Find the host, compose the configuration, make the run folder and run."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and the sentence is made here
    with one_sentence(about_files="hydra.run.dir must be a folder that can be made and written: "):
        own, sys.argv[1:] = own_arguments(sys.argv[1:])
        tree = host.find(own.host).activate()
        if own.check:
            return report(tree)
        os.environ["DUO_ROOT"] = str(tree.root)  # for the other processes of a DDP run
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"host: {tree}", flush=True)
        hydra.main(version_base=None, config_path=str(tree.configs), config_name="config")(run)()


if __name__ == "__main__":
    main()
