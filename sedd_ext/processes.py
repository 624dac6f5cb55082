"""The data-parallel processes of a run: torchrun's, with gloo or nccl, or this one alone."""

import torch

from duo_ext import ranks
from duo_ext.core.distiller import Processes


def join(device_name):
    """(device, Processes) of this process; under torchrun it joins the others."""
    device, found = ranks.join(device_name)
    return device, Processes(found.rank, found.world, average if found.world > 1 else _nothing)


def _nothing(tensors):
    """One process is its own mean."""


def average(tensors):
    """Make tensors their mean over the processes, in one message."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
