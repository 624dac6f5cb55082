"""Memory on the fake device: what a block keeps for its backward pass, what a parameter takes."""

import contextlib
import itertools

import torch

from benchmarks.meters import allocations, peak
from benchmarks.rehearsal import counts, networks
from benchmarks.rehearsal.fakecuda import Device, moved, real

# one prime number of tokens, which divides no size of a parameter
BLOCKS = {"length": 251, "batch": 1, "width": 256, "heads": 4, "conditioning": 32, "vocab": 64}
STATE = {"length": 2, "batch": 1, "width": 256, "heads": 4, "blocks": 4, "vocab": 1024}


def blocks(job, scenario):
    """A row of each precision and dropout: bytes a token, block and unit of width.

    kept: activations for the backward pass; forward, backward: moved by elementwise operations
    (``counts``). bf16 is the host's own autocast; float32 are networks whose autocasts do nothing.
    The difference of three blocks and one, so that embedding and head are not in it.
    """
    for precision, dropout in itertools.product(("float32", "bf16"), (0.0, 0.1)):
        way = contextlib.nullcontext() if precision == "bf16" else no_autocast()
        with way:
            one, three = (_passes(job, dropout, count) for count in (1, 3))
        yield {"precision": precision, "dropout": dropout} | {
            key: (three[key] - one[key]) / 2 for key in one
        }


def _passes(job, dropout, count):
    size = networks.Size(**BLOCKS, dropout=dropout, blocks=count)
    torch.manual_seed(0)
    network = moved(networks.dit(job["host"], job["root"], "sedd", size)).train()
    traffic, kernels = counts.Traffic(counts.of_tokens(size.tokens)), counts.Kernels()
    kept, found = {}, {}

    def keep(x):
        storage = real(x).untyped_storage()
        if storage.nbytes() % size.tokens == 0:
            kept[storage.data_ptr()] = storage  # alive, so that no other gets its address
        return x

    def note(phase):
        found[phase] = traffic.elementwise.total() / (size.tokens * size.width)
        found[f"{phase}_kernels"] = kernels.count
        traffic.elementwise.clear()
        kernels.count = 0

    with Device((), (traffic, kernels)):
        x_BL = torch.randint(size.vocab - 1, (size.batch, size.length), device="cuda")
        sigma_B = torch.full((size.batch,), 0.5, device="cuda")
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            logits = network(x_BL, sigma_B)
        note("forward")
        logits.float().sum().backward()
        note("backward")
    total = sum(storage.nbytes() for storage in kept.values())
    return found | {"kept": total / (size.tokens * size.width)}


@contextlib.contextmanager
def no_autocast():
    """Autocasts that are opened here do nothing."""
    original = torch.autocast.__init__

    def disabled(self, *settings, **others):
        original(self, *settings, **others)
        self._enabled = False

    torch.autocast.__init__ = disabled
    try:
        yield
    finally:
        torch.autocast.__init__ = original


def state(job, scenario):
    """A row of each precision: bytes a parameter that lie there after a look at the student's
    average, and that an update takes at most over these (activations of two tokens among them)."""
    for precision in networks.precisions():
        size = networks.Size(**STATE)
        network = networks.dit(job["host"], job["root"], "mdlm", size)
        machine = networks.pair(network, "mdlm", size, precision, {"clip": 1.0})
        average = networks.average(job["root"])(network.parameters(), decay=0.9999)
        for method in (average.store, average.copy_to, average.restore):
            method(network.parameters())
        parameters = sum(p.numel() for p in network.parameters())
        with Device():
            x0_BL = torch.randint(size.vocab - 1, (size.batch, size.length), device="cuda")
            batch = (x0_BL, torch.zeros_like(x0_BL, dtype=torch.bool))
            for _ in range(4):
                _step(machine, batch)
            peaks = {}
            for phase in machine.recipe.phase(0), machine.recipe.phase(1):
                for optimizer in machine.optimizers.values():
                    optimizer.zero_grad(set_to_none=True)
                peaks[phase[-1]] = _peak(machine, batch) / parameters
        yield {
            "precision": precision,
            "networks": _bytes(_weights(machine)) / parameters,
            "moments": _bytes(_moments(machine)) / parameters,
            "average": _bytes(average.shadow_params) / parameters,
            "left_of_a_look": _bytes(average.collected_params) / parameters,
            "update": peaks,
            "parameters": parameters,
        }


def _peak(machine, batch):
    return peak(allocations(lambda: _step(machine, batch)))


def _step(machine, batch):
    with torch.autocast("cuda", torch.bfloat16):
        machine.step(*batch)


def _weights(machine):
    networks = [*machine.networks.values(), machine.teacher]
    return [p for network in networks for p in network.backbone.parameters()]


def _moments(machine):
    states = [state for o in machine.optimizers.values() for state in o.state.values()]
    return [x for state in states for x in state.values()]


def _bytes(tensors):
    return sum(x.numel() * x.element_size() for x in tensors)
