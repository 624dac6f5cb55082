"""The data-parallel workers of a run: torchrun's, with gloo or nccl, or this process alone."""

import torch

from duo_ext import ranks
from duo_ext.core.distiller import World
from duo_ext.training.average import average


def join(device_name: str) -> tuple[torch.device, World]:
    """(the device, the ``World``) of this worker; under torchrun it joins the others.

    ``device_name`` is the key ``device``: auto, cuda, cpu. Raises Refused where torch cannot use
    it.
    """
    device, found = ranks.join(device_name)
    return device, World(found.rank, found.world, average)
