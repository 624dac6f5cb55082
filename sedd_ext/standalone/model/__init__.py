"""The network, its average and its score function."""

from .transformer import SEDD

__all__ = ["SEDD"]
