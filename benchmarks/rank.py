"""``FAULT="duo_ext 1 3" python -m benchmarks.rank ...``: a program in which one loss is not finite.

The words of FAULT are the program, the rank whose loss is replaced by nan, and the update.
"""

import importlib
import os

import torch

from duo_ext.core import distiller


def main():
    program, rank, update = os.environ["FAULT"].split()
    losses = distiller.Distiller._losses

    def broken(self, *given):
        struck = self.world.rank == int(rank) and self.updates == int(update)
        return [loss * (torch.nan if struck else 1) for loss in losses(self, *given)]

    distiller.Distiller._losses = broken
    importlib.import_module(f"{program}.__main__").main()


if __name__ == "__main__":
    main()
