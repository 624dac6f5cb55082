"""What ``--check`` prints: the same on Duo's side and on SEDD's."""

from collections.abc import Iterable

from duo_ext import machine
from duo_ext.hosting.remedies import BEFORE, Remedy
from duo_ext.hosting.trees import Tree


def report(tree: Tree, after: Iterable[Remedy]) -> None:
    """Print the tree, each remedy with what became of it, and what the CPU is worth.

    ``after`` are the remedies on the imported modules of the tree's kind.
    """
    print(f"host: {tree}")
    for remedy in (*BEFORE, *after):
        state = "applied" if remedy in tree.remedies else "not needed"
        print(f"{state:>10}  {remedy.name}: {remedy.cause}")
    print(machine.cpu())
