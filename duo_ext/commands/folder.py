"""A run's folder belongs to one run at a time.

Two runs in one folder overwrite each other's checkpoints and configuration. So a command claims its
folder before anything is written there, and a folder that Hydra names by the time alone gets a
number where jobs that start in the same second would share it.
"""

import errno
import fcntl
import itertools
import logging
import os
import socket
from collections.abc import Iterable

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from duo_ext import Refused
from duo_ext.commands.line import one_sentence

LOCK = ".idlm.lock"
TORCHRUN = ("RANK",)
LIGHTNING = (*TORCHRUN, "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")  # its launcher's, srun's too
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

_claimed = {}  # {path: (process, open file)}: a lock lasts as long as its file is open


def is_first_process(ranks: Iterable[str] = LIGHTNING) -> bool:
    """Whether this process is the first of its run, the one that writes.

    ``ranks`` are the environment variables that number the processes.
    """
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def claim(folder: str) -> None:
    """Keep a local folder for this process until it ends. To claim it again changes nothing.

    The claim is the operating system's lock of a file in the folder. A lock ends with its process:
    neither the file of a killed process nor a data worker that outlives its process holds anybody
    up. Raises Refused if another process has the folder.
    """
    path = os.path.join(os.path.realpath(folder), LOCK)
    if path in _claimed and _claimed[path][0] == os.getpid():
        return
    os.makedirs(folder, exist_ok=True)
    file = open(path, "a+")  # noqa: SIM115
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            file.seek(0)
            raise Refused(
                f"hydra.run.dir is '{folder}'; {file.read() or 'another process'} is at work "
                "there, so another folder is needed"
            ) from error
        logging.getLogger("duo_ext").warning(
            "the file system of '%s' has no locks: nothing keeps two runs from one folder", folder
        )
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    _claimed[path] = os.getpid(), file


def unused(folder: str) -> str:
    """Make a new folder: ``folder``, or the first of folder-2, folder-3, ... that is not there.

    Gives its name.
    """
    for name in itertools.chain([folder], (f"{folder}-{n}" for n in itertools.count(2))):
        try:
            os.makedirs(name)
        except FileExistsError:
            continue
        return name


class Claim(Callback):
    """Hydra's callback that claims a run's folder before Hydra itself writes there."""

    def on_run_start(self, config: DictConfig, **_) -> None:
        """Claim hydra.run.dir; where it is named by the time, a folder that no run has."""
        named_by_time = "${now:" in OmegaConf.to_container(config.hydra.run, resolve=False)["dir"]
        self._claim(config.hydra.run, unused if named_by_time else str)

    def on_multirun_start(self, config: DictConfig, **_) -> None:
        """Claim hydra.sweep.dir."""
        self._claim(config.hydra.sweep, str)

    def _claim(self, section, place):
        with one_sentence(ABOUT_FILES):  # Hydra makes a warning of what is no SystemExit
            section.dir = place(section.dir)
            claim(section.dir)


ABOUT_FILES = "hydra.run.dir must be a folder that can be made and written: "


CALLBACK = f"++hydra.callbacks.idlm._target_={Claim.__module__}.{Claim.__qualname__}"


def guarded(overrides: list[str], ranks: Iterable[str] = LIGHTNING) -> list[str]:
    """A command line's overrides, with one more.

    It makes the run's first process claim the folder, and the other processes leave Hydra's files
    alone. Lightning starts the other processes with the words of the first.
    """
    own = [word for word in overrides if word != CALLBACK]
    return [*own, CALLBACK if is_first_process(ranks) else "hydra.output_subdir=null"]
