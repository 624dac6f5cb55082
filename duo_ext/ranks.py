"""What the processes of a run tell each other besides gradients, on Duo's side and on SEDD's."""

import atexit
import datetime
import os
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch

from duo_ext import Refused

S, T = TypeVar("S"), TypeVar("T")
SIZES = (("WORLD_SIZE", "1"), ("RANK", "0"))
TORCHRUN = ("RANK", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = datetime.timedelta(days=1)  # the first process may tokenise a corpus for hours


@dataclass(frozen=True)
class Ranks:
    """The place of this process among the processes of a run.

    Each method is called by all processes, in the same order. Values are of any type that can be
    pickled.
    """

    rank: int = 0  # its number
    world: int = 1  # how many there are

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in all of them."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def agree(self, make: Callable[[], T]) -> T:
        """``make()`` of the first process, in all of them."""
        if self.world == 1:
            return make()
        values = [make() if self.first else None]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def shared(self, items: Iterable[S], do: Callable[[S], T]) -> list[T]:
        """``[do(item) for item in items]``, each done by one process and known to all."""
        items = list(items)
        parts = self.gather([do(item) for item in items[self.rank :: self.world]])
        return [parts[n % self.world][n // self.world] for n in range(len(items))]

    def in_turn(self, make: Callable[[], T]) -> T:
        """``make()``, by the first process and only then by the others: they find what the first
        has put into a cache."""
        found = make() if self.first else None
        self.gather(None)
        return found if self.first else make()


ALONE = Ranks()


def join(device_name: str, key: str = "device") -> tuple[torch.device, Ranks]:
    """(device, Ranks) of this process; under torchrun it joins the others, by gloo or nccl.

    ``key`` is the setting that named the device: auto, cuda (torchrun's number of it) or another.
    """
    world, rank = (int(os.environ.get(name, default)) for name, default in SIZES)
    device = device_of(device_name, key)
    if world > 1:
        _require_torchrun(world)
        signal.signal(signal.SIGTERM, _ended)
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, timeout=PATIENCE)
        atexit.register(leave)
    return device, Ranks(rank, world)


def leave() -> None:
    """Leave the other processes, where this one has joined them; to be done before Python ends.

    A thread of gloo's that hands back its last message while Python ends aborts the process.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _require_torchrun(world):
    missing = [name for name in TORCHRUN if name not in os.environ]
    if missing:
        raise Refused(
            f"WORLD_SIZE is {world}, but {', '.join(missing)} is not set: several processes are "
            "started by torchrun; unset WORLD_SIZE for one"
        )


def _ended(*_):
    """Handles SIGTERM: torchrun sends it to the other processes when one dies, maybe before a
    collective has told them."""
    sys.exit(
        "error: ended by SIGTERM, as when another process of this run has ended; the last "
        "checkpoint is kept"
    )


def device_of(name: str, key: str = "device") -> torch.device:
    """The device of a name, the value of ``key``; Refused if torch cannot use it."""
    given = name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # an AssertionError where torch lacks CUDA
        raise Refused(f"{key} is '{given}'; torch cannot use it here") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
