"""Tensors that say they are on cuda and compute on the CPU.

Everything above a kernel is torch's own and as on a GPU: dispatch, autocast, autograd. So it can be
counted here what would be mixed devices, what the host would wait for, and which dtypes meet which
operators. Times are not those of a GPU, and its kernels' rounding is the CPU's.
"""

import collections
import contextlib
import sys
from pathlib import Path

import torch
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    return_and_correct_aliasing,
)
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
CUDA = torch.device("cuda:0")
PICKING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
PICKING += (aten._index_put_impl_.default,)
COPYING = (aten.copy_.default, aten._to_copy.default)  # they take two devices, as picking does
WAITING = {
    *(aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default),
    *(aten.nonzero.default, aten.masked_select.default, aten.bincount.default),
    *(aten._unique2.default, aten.unique_dim.default, aten.repeat_interleave.Tensor),
}
_device = None  # the active Device


class Fake(torch.Tensor):
    """``inner`` is the tensor on the CPU."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=CUDA,
        )

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"Fake({tuple(self.shape)}, {self.dtype})"

    def tolist(self):
        _wait("tolist")
        return self.inner.tolist()

    def new_tensor(self, data, **settings):
        _wait("new_tensor")
        return Fake(self.inner.new_tensor(data, **settings))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})


def real(x):
    return x.inner if isinstance(x, Fake) else x


def moved(network):
    """The network, its parameters and buffers on the fake device."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = Fake(parameter.detach().clone())
                module._parameters[name] = torch.nn.Parameter(fake, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Fake(buffer.detach().clone())
    return network


class Device(TorchDispatchMode):
    """While it is active, tensors can be made on cuda, and it is noted what happens there.

    mixed, waits: how often {(operator, lines below ``roots`` that called it, the innermost first)}
    got tensors of two devices, or makes the host wait for the device. ``watchers`` are called with
    (operator, arguments, keywords, result) of all that ran on the device.
    """

    def __init__(self, roots=(), watchers=()):
        super().__init__()
        self.roots, self.watchers = [Path(root).resolve() for root in roots], watchers
        self.mixed, self.waits = collections.Counter(), collections.Counter()

    def __enter__(self):
        global _device
        _device = self
        return super().__enter__()

    def __exit__(self, *error):
        global _device
        _device = None
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        fakes = [x for x in tensors if isinstance(x, Fake)]
        if fakes:
            others = [x for x in tensors if not isinstance(x, Fake) and x.ndim > 0]
            if others and function not in (*COPYING, *PICKING):
                self.mixed[(str(function), self.place())] += 1
        if reason := _waits(function, args, kwargs, bool(fakes)):
            self.waits[(reason, self.place())] += 1
        result = _compute(function, args, kwargs)
        if fakes or any(isinstance(x, Fake) for x in tree_leaves(result)):
            self.tell(function, args, kwargs, result)
        return result

    def tell(self, *call):
        for watcher in self.watchers:
            watcher(*call)

    def place(self):
        found, frame = [], sys._getframe(1)
        while frame and len(found) < 3:
            path = Path(frame.f_code.co_filename).resolve()
            root = next((root for root in self.roots if path.is_relative_to(root)), None)
            if root:
                found.append(f"{path.relative_to(root.parent)}:{frame.f_lineno}")
            frame = frame.f_back
        return " < ".join(found)


def _wait(reason):
    if _device:
        _device.waits[(reason, _device.place())] += 1


def _waits(function, args, kwargs, on_device):
    """Why the host waits for the device at an operator, or None."""
    if function is aten._to_copy.default:
        to = kwargs.get("device")
        crosses = to is not None and (torch.device(to).type == "cuda") != on_device
        return "copy between devices" if crosses and not kwargs.get("non_blocking") else None
    if function is aten.copy_.default:
        into, source = args[:2]
        crosses = isinstance(into, Fake) != isinstance(source, Fake)
        asynchronous = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
        return "copy between devices" if crosses and not asynchronous else None
    if on_device and function in PICKING:
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            return f"{function} by booleans"
        return None if all(isinstance(i, Fake) for i in indices) else f"{function} from the CPU"
    return str(function) if on_device and function in WAITING else None


def _compute(function, args, kwargs):
    """An operator on the CPU, its result on the device where it would be there."""
    on_device = any(isinstance(x, Fake) for x in tree_leaves((args, kwargs)))
    to = kwargs.get("device")
    if to is not None:
        on_device_after = torch.device(to).type == "cuda"
        kwargs = {k: v for k, v in kwargs.items() if k != "pin_memory"}
        kwargs["device"] = torch.device("cpu")
    elif function in (aten.copy_.default, aten.set_.source_Tensor):
        on_device_after = isinstance(args[0], Fake)
    else:
        on_device_after = on_device
    result = function(*tree_map(real, args), **tree_map(real, kwargs))
    if not on_device_after:
        return result
    result = tree_map(_wrapped, result)
    return return_and_correct_aliasing(function, args, kwargs, result) if on_device else result


def _wrapped(x):
    return Fake(x) if isinstance(x, torch.Tensor) and not isinstance(x, Fake) else x


class Attention(torch.autograd.Function):
    """One operator forward and one backward, keeping queries, keys, values and result, as the
    fused kernels of a GPU do."""

    @staticmethod
    def forward(ctx, q, k, v, settings):
        with _disable_current_modes():
            result = Fake(plain_attention(*map(real, (q, k, v)), **settings).contiguous())
        ctx.save_for_backward(q, k, v, result)
        ctx.settings = settings
        _device.tell(Attention.forward, (q, k, v), {}, result)
        return result

    @staticmethod
    def backward(ctx, gradient):
        *inputs, result = ctx.saved_tensors
        with _disable_current_modes(), torch.enable_grad():
            leaves = [real(x).detach().requires_grad_() for x in inputs]
            value = plain_attention(*leaves, **ctx.settings)
            found = tuple(map(Fake, torch.autograd.grad(value, leaves, real(gradient))))
        _device.tell(Attention.backward, (*inputs, result, gradient), {}, found)
        return *found, None


plain_attention = torch.nn.functional.scaled_dot_product_attention


def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None):
    """torch's, with a kernel for the fake device."""
    if not isinstance(query, Fake):
        return plain_attention(
            query, key, value, attn_mask, dropout_p, is_causal=is_causal, scale=scale
        )
    if attn_mask is not None or dropout_p:
        raise NotImplementedError("the fake device has attention without mask and dropout alone")
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        query, key, value = (x.to(dtype) for x in (query, key, value))
    return Attention.apply(query, key, value, {"is_causal": is_causal, "scale": scale})


@contextlib.contextmanager
def fork_rng(devices=None, enabled=True, **others):
    """Random numbers of the fake device are the CPU's."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def pretend():
    """Let this process have the fake device, for good: it serves for nothing else afterwards.

    The library of ``guard.build`` must have been loaded before torch; networks come after this.
    """
    torch.autograd.set_multithreading_enabled(False)
    torch.set_num_threads(1)
    torch.cuda._lazy_init = lambda: None
    torch.cuda.is_available = lambda: False  # no seeds, no memory of it
    torch.cuda.is_bf16_supported = lambda *settings, **others: True
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.random.fork_rng = fork_rng
    torch.nn.functional.scaled_dot_product_attention = attention
