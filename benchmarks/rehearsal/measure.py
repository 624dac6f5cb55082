"""What is measured of a host's DIT in a checkout, on the fake device (see ``child``)."""

import collections
import contextlib

import torch

from benchmarks.rehearsal import counts, fused, memory, networks
from benchmarks.rehearsal.fakecuda import Device
from duo_ext.core.networks import Tempered
from duo_ext.core.samplers import ancestral, blank, grids

ACCUMULATE, WARM = 2, 1  # micro-batches of an update, pairs before those that are counted
OPTIONS = {"fake_warmup": 0, "shared_forward": True}
MODULES = ("sigma_map", "vocab_embed", "blocks.0.norm1", "blocks.0.attn_qkv", "blocks.0")
MODULES += ("output_layer.norm_final", "output_layer.linear")


def autocast(host, process):
    """What the trainer puts around a step: Duo's configurations bf16, SEDD's nothing."""
    of_sedd = host == "sedd" or (host == "standalone" and process == "sedd")
    return contextlib.nullcontext() if of_sedd else torch.autocast("cuda", torch.bfloat16)


def roots(job):
    """Where lines of code are named."""
    return [f"{job['tree']}/duo_ext", f"{job['tree']}/sedd_ext", job["root"]]


def pairs(job, scenario):
    """A row of each precision: warm pairs of a process."""
    for precision in networks.precisions():
        if job["precision"] in (None, precision):
            yield {"precision": precision, **_pair(job, scenario, precision)}


def _pair(job, scenario, precision):
    host, process, options = job["host"], scenario["process"], scenario["options"]
    size = networks.Size()
    networks.share_chunks(size)
    torch.manual_seed(0)
    network = networks.dit(host, job["root"], process, size)
    recipe = {"accumulate": ACCUMULATE, "clip": 1.0}
    recipe |= OPTIONS if options and process != "gaussian" else {}
    on_policy = 0.5 if options and process != "gaussian" else 0.0
    machine = networks.pair(network, process, size, precision, recipe, on_policy)
    watch = Watch(size)
    machine.process._form = watch.form
    for denoiser in (*machine.networks.values(), machine.teacher):
        watch.dtypes.hook(denoiser.backbone, *MODULES)
    with Device(roots(job)) as device:
        x0_BL = torch.randint(size.vocab - 1, (size.batch, size.length), device="cuda")
        given_BL = torch.zeros_like(x0_BL, dtype=torch.bool)
        given_BL[:, : 3 if options else 0] = True
        steps = ACCUMULATE * machine.recipe.cycle
        for _ in range(WARM * steps):
            watch.step(device, machine, x0_BL, given_BL, autocast(host, process))
        watch.begin(device)
        for _ in range(job["pairs"] * steps):
            watch.step(device, machine, x0_BL, given_BL, autocast(host, process))
        device.watchers, sampled = (), {}
        if options:
            sampled = watch.sample(device, machine, process, precision, size)
    return watch.row(device, job["pairs"]) | sampled


class Watch:
    """What is noted of pairs, and the row of results that it makes."""

    def __init__(self, size):
        self.size = size
        self.traffic = counts.Traffic(counts.over_vocabulary(size.vocab, size.width))
        self.kernels, self.products = counts.Kernels(), counts.Products(size.vocab)
        self.dtypes = counts.Dtypes()
        self.waits = {}
        self.forms = collections.Counter()  # {(closed form, its inputs): rows}
        self.in_forms = 0  # bytes

    def begin(self, device):
        """From here on is counted."""
        self.waits.clear()
        self.forms.clear()
        self.dtypes.modules.clear()
        device.watchers = (self.traffic, self.kernels, self.products, self.dtypes)

    def form(self, loss):
        """A closed form as it is, its calls noted."""

        def noted(*values):
            before = self.traffic.elementwise.total()
            result = loss(*values)
            self.forms[(loss, *map(fused.kind, values))] += len(values[0])
            self.in_forms += self.traffic.elementwise.total() - before
            return result

        return noted

    def compiled(self):
        """Bytes over the vocabulary where the closed forms are compiled."""
        forms = sum(rows * fused.moved(*form) for form, rows in self.forms.items())
        return self.traffic.elementwise.total() - self.in_forms + forms * self.size.vocab

    def step(self, device, machine, x0_BL, given_BL, around):
        """One micro-batch; what its update waits for is what the last one waits for beyond it."""
        phase, before = " and ".join(machine.phase), device.waits.copy()
        with around:
            update = machine.step(x0_BL, given_BL)
        found = device.waits - before
        if update is None:
            self.waits.setdefault(f"{phase}, micro-batch", found)
        else:
            rest = found - self.waits[f"{phase}, micro-batch"]
            self.waits.setdefault(f"{phase}, update", rest)

    def sample(self, device, machine, process, precision, size):
        """What two steps of the core's sampler wait for, and the dtypes in them."""
        before, student = device.waits.copy(), machine.networks["student"].backbone.eval()
        distilling = _sorted(self.dtypes.modules)
        self.dtypes.modules.clear()
        own, _ = networks.precisions()[precision]
        tempered = networks.denoiser(Tempered, student, process, own)
        start = blank(tempered, (2, size.length))
        ancestral.sample(machine.process, tempered, *start, grids.times("host", 2))
        self.waits["sampling of 2 steps"] = device.waits - before
        return {"modules": distilling, "sampling_modules": _sorted(self.dtypes.modules)}

    def row(self, device, pairs):
        V, blocks, L, D = (getattr(self.size, k) for k in ("vocab", "blocks", "length", "width"))
        tokens = pairs * ACCUMULATE * self.size.tokens
        moved = self.traffic.elementwise, self.traffic.products
        by_operator = sum(moved, collections.Counter())
        return {
            "mixed": _lines(device.mixed),
            "waits": {key: found.total() for key, found in self.waits.items()},
            "waits_at": {key: _lines(found) for key, found in self.waits.items()},
            "modules": _sorted(self.dtypes.modules),
            "products": dict(self.dtypes.products),
            "logarithms": dict(self.dtypes.logarithms),
            "elementwise_bytes": moved[0].total() / (tokens * V),
            "compiled_bytes": self.compiled() / (tokens * V) if self.forms else None,
            "product_bytes": moved[1].total() / (tokens * V),
            "bytes_by_operator": {k: n / (tokens * V) for k, n in by_operator.most_common()},
            "kernels": self.kernels.count / pairs,
            "bodies": self.products.passes("body", tokens * blocks * (24 * D**2 + 4 * L * D)),
            "heads": self.products.passes("head", tokens * 2 * V * D),
            "size": vars(self.size),
        }


def _sorted(modules):
    return {key: sorted(found) for key, found in modules.items()}


def _lines(counter):
    return [[times, what, place] for (what, place), times in counter.most_common()]


MEASUREMENTS = {"pair": pairs, "blocks": memory.blocks, "state": memory.state}
