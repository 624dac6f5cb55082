"""What is counted of the operators that run on the fake device.

Traffic, of the tensors over the vocabulary or of those of the body's tokens. An operator reads
each such operand once and writes such a result once, in the bytes of its dtype; what is broadcast
counts as often as it lies in memory. Views and ``empty`` move nothing. One that picks rows moves
the picked rows, one that picks or adds single entries of a row nothing. ``masked_fill`` copies
first, as torch's does. Matrix products are counted apart, attention with them. It is a lower bound:
a softmax or a top-k of rows that no cache holds reads them more than once.

Kernels. Operators that are no views: one each, though some are several; attention is one forward
and one backward.

Products. Floating point operations, in forward passes of tokens through the body (blocks) and
through the head (D x V): products with V among their dimensions are the head's.
"""

import collections
import math

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.rehearsal.fakecuda import Attention

PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "mv", "attention"}
LOGARITHMS = ("log", "exp", "softmax")  # in an operator's name
NOTHING = {"detach", "alias", "_unsafe_view", "_reshape_alias", "lift_fresh", "set_"}
MADE = ("zeros", "ones", "full", "rand", "arange", "new_zeros", "new_full", "new_ones")
OVERWRITING = {"copy_", "fill_", "zero_", "normal_", "uniform_", "random_", "bernoulli_"}
TAKING = {"index", "index_select", "gather", "embedding"}
# gather's and index's backward passes add in place; that of a tensor subclass makes a copy first
PUTTING = {"scatter_", "scatter_add", "scatter_add_", "index_put", "index_put_", "_index_put_impl_"}


def name(function):
    return getattr(getattr(function, "overloadpacket", None), "__name__", "attention")


def moves_nothing(function):
    return (
        getattr(function, "is_view", False)
        or name(function) in NOTHING
        or "empty" in name(function)
    )


def tensors(x):
    return [leaf for leaf in tree_leaves(x) if isinstance(leaf, torch.Tensor)]


def distinct(x):
    """Elements that lie in memory."""
    sizes = zip(x.shape, x.stride(), strict=True)
    return math.prod(size for size, stride in sizes if stride)


def over_vocabulary(V, D):
    """Whether a tensor is one of R > 1 rows of V entries, in any shape; not one of (V, D), as
    embedding, head and their gradients are."""

    def over(x):
        if tuple(x.shape) in {(V, D), (D, V)} or distinct(x) <= V:
            return False
        ends = range(len(x.shape) + 1)
        return any(math.prod(x.shape[a:b]) == V for b in ends for a in range(b))

    return over


def of_tokens(tokens):
    """Whether a tensor holds something of each token; their number is a prime that divides no size
    of a parameter."""
    return lambda x: distinct(x) % tokens == 0


class Traffic:
    """Bytes of the tensors ``over``: ``elementwise`` and ``products``, {operator: bytes}."""

    def __init__(self, over):
        self.over = over
        self.elementwise, self.products = collections.Counter(), collections.Counter()

    def __call__(self, function, args, kwargs, result):
        if moves_nothing(function):
            return
        operator = name(function)
        if operator in PRODUCTS:
            self.products[operator] += self._size((args, kwargs, result))
        elif moved := self._moved(operator, args, kwargs, result):
            self.elementwise[operator] += moved

    def _moved(self, operator, args, kwargs, result):
        size = self._size
        if operator in TAKING:
            return 2 * size(result)
        if operator in PUTTING:
            return 2 * size((args[1:], kwargs))
        if operator.startswith(MADE):
            return size(result)
        read = size((args[operator in OVERWRITING :], kwargs))
        return read + (3 if operator == "masked_fill" else 1) * size(result)

    def _size(self, values):
        return sum(distinct(x) * x.element_size() for x in tensors(values) if self.over(x))


class Kernels:
    def __init__(self):
        self.count = 0

    def __call__(self, function, args, kwargs, result):
        self.count += not moves_nothing(function)


class Dtypes:
    """Of products and logarithms, {dtype: how many}; of modules, {name: dtypes} (``hook``)."""

    def __init__(self):
        self.products, self.logarithms = collections.Counter(), collections.Counter()
        self.modules = collections.defaultdict(set)

    def __call__(self, function, args, kwargs, result):
        operator, found = name(function), tensors(args)
        if operator in PRODUCTS:
            self.products[_word(found[-1])] += 1
        elif any(word in operator for word in LOGARITHMS) and operator != "expand":
            self.logarithms[_word(found[0])] += 1

    def hook(self, network, *names):
        """Note the outputs of modules, and the head's input."""

        def note(key):
            return lambda module, inputs, output: self.modules[key].add(_word(output))

        for key in names:
            network.get_submodule(key).register_forward_hook(note(key))
        network.output_layer.linear.register_forward_pre_hook(
            lambda module, inputs: self.modules["input of the head"].add(_word(inputs[0]))
        )


def _word(x):
    return str(x.dtype).removeprefix("torch.")


class Products:
    """Floating point operations of products, {(part, dtype): how many}."""

    def __init__(self, V):
        self.V, self.flops = V, collections.Counter()

    def __call__(self, function, args, kwargs, result):
        if name(function) not in PRODUCTS:
            return
        found = tensors(args)
        of_head = any(self.V in x.shape for x in [*found, *tensors(result)])
        part = "head" if of_head else "body"
        self.flops[part, _word(found[-1])] += self._flops(function, args, kwargs, result)

    def _flops(self, function, args, kwargs, result):
        if function in (Attention.forward, Attention.backward):
            B, H, L, K = args[0].shape
            return (4 if function is Attention.forward else 8) * B * H * L * L * K
        if name(function) == "addmm_":
            (M, K), (_, N) = args[1].shape, args[2].shape
            return 2 * M * K * N
        return flop_registry[function.overloadpacket](*args, **kwargs, out_val=result)

    def passes(self, part, one):
        """{dtype: forward passes} of a part, of which one takes so many operations."""
        return {dtype: n / one for (of, dtype), n in self.flops.items() if of == part}
