"""The data-parallel processes of a run: torchrun's, with gloo or nccl, or this one alone."""

from duo_ext import ranks
from duo_ext.core.distiller import World
from duo_ext.training.average import average


def join(device_name):
    """(device, World) of this process; under torchrun it joins the others."""
    device, found = ranks.join(device_name)
    return device, World(found.rank, found.world, average)
