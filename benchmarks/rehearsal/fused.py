"""Bytes that a formula moves on a GPU as torch.compile fuses it.

inductor gets tensors that claim to be on an H100 and hold nothing, and writes its kernels, which
are not built. Each load and store that it writes is noted. In one loop of a kernel a buffer counts
once as read and once as written; the next loop over the same rows counts again, for the caches do
not keep the rows of all loops that run at once. What stays in registers is in no load or store. An
input that is overwritten counts as read and as written.
"""

import contextlib
import ctypes
import functools
import math
import multiprocessing
import types
from concurrent.futures import ProcessPoolExecutor
from unittest import mock

import torch
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import config, scheduler
from torch._inductor.codegen.triton import TritonKernel
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _triton

from benchmarks.rehearsal import guard
from duo_ext.core.compiling import compiled

ROWS, VOCABULARY = 640, 50258  # of a piece on a GPU (rows.PIECE), at the published size
H100 = types.SimpleNamespace(
    **{"name": "H100", "type": "cuda", "index": 0, "major": 9, "minor": 0, "warp_size": 32},
    **{"multi_processor_count": 132, "regs_per_multiprocessor": 2**16},
    **{"max_threads_per_block": 1024, "max_threads_per_multi_processor": 2048},
    **{"shared_memory_per_block_optin": 232448, "L2_cache_size": 50 * 2**20},
)
ANSWERS = [  # to what inductor asks
    (torch.cuda, "get_device_properties", H100),
    (torch.cuda, "get_device_capability", (9, 0)),
    (torch.cuda, "current_device", 0),
    (CudaInterface, "get_device_properties", H100),
    (CudaInterface, "current_device", 0),
    (CudaInterface, "is_bf16_supported", True),
    (CudaInterface.Worker, "get_device_properties", H100),
    (scheduler, "has_triton", True),
    (_triton, "triton_hash_with_backend", "none"),
]

# a cache keeps no kernels that are not built; folding computes with tensors of the device
SETTINGS = {"fx_graph_cache": False, "joint_graph_constant_folding": False}


def of_each(*calls):
    """``moved`` of each (formula, kinds), in a process that the fake device may have."""
    device = (ctypes.CDLL, (str(guard.build()), ctypes.RTLD_GLOBAL))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), *device) as pool:
        return list(pool.map(_moved, calls))


def _moved(call):
    return moved(*call)


@functools.cache
def moved(formula, *kinds):
    """Bytes of tensors over the vocabulary, for each row and entry of it, as ``compiling.compiled``
    makes a formula of inputs of these kinds. The library of ``guard.build`` must be loaded."""
    compiled.cache_clear()
    torch.compiler.reset()
    noted = set()
    with _claimed(), _noting(noted), contextlib.suppress(_Written), FakeTensorMode():
        compiled(formula)(*map(_input, kinds))
    if not noted:
        raise AssertionError(f"torch.compile wrote no kernel of {formula}")
    sizes = [elements * size for *_, elements, size in noted if elements > VOCABULARY]
    return sum(sizes) / (ROWS * VOCABULARY)


def kind(x):
    """What ``moved`` wants to know of an input: dtype and dimensions, or a number itself."""
    return (x.dtype, x.ndim) if isinstance(x, torch.Tensor) else x


def _input(kind):
    if not isinstance(kind, tuple):
        return kind
    dtype, dimensions = kind
    return torch.empty((ROWS, VOCABULARY)[:dimensions], dtype=dtype, device="cuda")


@contextlib.contextmanager
def _claimed():
    """inductor finds an H100, and Triton to build kernels with."""
    with contextlib.ExitStack() as patches:
        for place, name, answer in ANSWERS:
            patches.enter_context(mock.patch.object(place, name, mock.Mock(return_value=answer)))
        patches.enter_context(config.patch(SETTINGS))
        yield


class _Written(BaseException):
    """All kernels are written."""


@contextlib.contextmanager
def _noting(noted):
    """Put (kernel, loop, "load" or "store", buffer, elements, bytes of one) into a set."""
    loops, accesses = {}, set()

    def note(what):
        original = getattr(TritonKernel, what)

        def access(kernel, name, index, *others, **named):
            loop = loops.get(id(kernel), 0)
            accesses.add((id(kernel), loop, what, name, *_extent(kernel, name, index)))
            return original(kernel, name, index, *others, **named)

        return mock.patch.object(TritonKernel, what, access)

    def end_loop(kernel, original=TritonKernel.codegen_body):
        loops[id(kernel)] = loops.get(id(kernel), 0) + 1
        return original(kernel)

    def end(code):
        noted.update(access for access in accesses if access[3] not in V.graph.removed_buffers)
        raise _Written

    with (
        note("load"),
        note("store"),
        mock.patch.object(TritonKernel, "codegen_body", end_loop),
        mock.patch.object(GraphLowering, "save_output_code", staticmethod(end)),
    ):
        yield


def _extent(kernel, name, index):
    """Elements of a buffer that an access reaches, and the bytes of one."""
    ranges = [kernel.range_tree_nodes.get(symbol) for symbol in index.free_symbols]
    elements = math.prod(V.graph.sizevars.optimization_hint(r.length) for r in ranges if r)
    return elements, V.graph.get_dtype(name).itemsize
