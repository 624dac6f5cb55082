"""Networks in a precision that is decided here: hosts open an autocast of their own on a GPU."""

import contextlib

import torch
from torch.amp.autocast_mode import autocast

PRODUCTS = {"float32": "highest", "tf32": "high", "bf16": "highest"}


@contextlib.contextmanager
def networks_in(precision, device):
    """float32, tf32 (products of float32 matrices) or bf16 (autocast), for the length of a with
    block."""
    inside = torch.autocast(device, torch.bfloat16) if precision == "bf16" else _no_autocast()
    with products(precision), inside:
        yield


@contextlib.contextmanager
def products(precision):
    """Products of float32 matrices as in ``networks_in``, whatever the autocast."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(PRODUCTS[precision])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def _no_autocast():
    """No autocast does anything, whoever opens it."""
    make = autocast.__init__

    def off(self, *arguments, **settings):
        make(self, *arguments, **(settings | {"enabled": False}))

    autocast.__init__ = off
    try:
        yield
    finally:
        autocast.__init__ = make
