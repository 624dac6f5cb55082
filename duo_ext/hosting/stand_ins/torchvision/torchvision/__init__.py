"""torchvision by name only, for machines without it: Duo imports it for images."""

from . import transforms as transforms


def __getattr__(name):
    raise AttributeError(f"torchvision.{name}: images need torchvision: pip install torchvision")
