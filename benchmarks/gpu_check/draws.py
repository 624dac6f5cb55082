"""The same random numbers on every device: they are drawn on the CPU and moved, for as many rows at
a time as on a CPU."""

import contextlib
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

from duo_ext.core import rows

FRESH = {torch.rand, torch.randn, torch.randint, torch.randperm}
LIKE = {torch.rand_like, torch.randn_like, torch.randint_like}


@contextlib.contextmanager
def same_everywhere():
    with FromCPU(), contextlib.ExitStack() as stack:
        for sizes in (rows.CHUNK, rows.PIECE):
            stack.enter_context(mock.patch.dict(sizes, cuda=sizes["cpu"]))
        yield


class FromCPU(TorchFunctionMode):
    def __torch_function__(self, function, types, arguments=(), settings=None):
        settings = settings or {}
        if function in FRESH and settings.get("device") is not None:
            return function(*arguments, **settings | {"device": "cpu"}).to(settings["device"])
        if function in LIKE:
            like, *others = arguments
            drawn = function(torch.empty_like(like, device="cpu"), *others, **settings)
            return drawn.to(like.device)
        return function(*arguments, **settings)
