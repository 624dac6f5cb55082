"""The data-parallel processes of a run: torchrun's, with gloo or nccl, or this one alone."""

import os
import signal
import sys

import torch

from duo_ext import Refused
from duo_ext.core.distiller import Processes


def join(device_name):
    """(device, Processes) of this process; under torchrun it joins the others."""
    world, rank = (int(os.environ.get(key, default)) for key, default in SIZES)
    device = _device(device_name)
    if world > 1:
        _require_torchrun(world)
        signal.signal(signal.SIGTERM, _ended)
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend)
    return device, Processes(rank, world, average if world > 1 else _nothing)


def _require_torchrun(world):
    missing = [name for name in TORCHRUN if name not in os.environ]
    if missing:
        raise Refused(
            f"WORLD_SIZE is {world}, but {', '.join(missing)} is not set: several processes are "
            "started by torchrun; unset WORLD_SIZE for one"
        )


def agree(value):
    """The first process's value, in all of them."""
    if not torch.distributed.is_initialized():
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def _ended(*_):
    """torchrun sends it to those that are left when one dies, maybe before they meet that in a
    collective."""
    sys.exit(
        "error: ended by SIGTERM, as when another process of this run has ended; the last "
        "checkpoint is kept"
    )


SIZES = (("WORLD_SIZE", "1"), ("RANK", "0"))
TORCHRUN = ("RANK", "MASTER_ADDR", "MASTER_PORT")


def _device(name):
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch lacks CUDA
        raise Refused(f"device is '{name}'; torch cannot use it here") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _nothing(tensors):
    """One process is its own mean."""


def average(tensors):
    """Make tensors their mean over the processes, in one message."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
