"""A pair as pair_cost.py measures it: its size, forms of its losses, networks and optimizers."""

import dataclasses
import itertools

import torch

from benchmarks import dense, published
from benchmarks.meters import Clock, allocations, gpu_peak, most_tensors, peak
from duo_ext import host
from duo_ext.core import adapters, distiller, gaussian, schedules
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.compiling import compile_blocks
from duo_ext.core.networks import Denoiser
from duo_ext.core.score import ScoreProcess
from duo_ext.core.uniform import UniformProcess


@dataclasses.dataclass(frozen=True)
class Size:
    vocab: int = 50258
    length: int = 128
    batch: int = 4
    blocks: int = 4
    width: int = 256

    @property
    def tokens(self):
        return self.batch * self.length


def _gaussian(cls, **settings):
    def make(vocab):
        gammas = schedules.DUO_GAMMA if vocab == schedules.DUO_VOCAB else (None, None)
        return cls(vocab, schedules.GaussianSchedule.configured(vocab, *gammas), **settings)

    return make


FORMS = CORE, SHARED, TEXTBOOK, ADAPTED, HALVED = (
    *("core", "core, shared forward", "textbook", "core, adapters", "core, adapters on bf16"),
)
# forms with adapters: how weights under them are held
FROZEN = {ADAPTED: "float32", HALVED: "bf16"}
ADAPTER = {"rank": 16, "alpha": None, "whole": []}
ADAPTER |= {"targets": ["blocks.*", "sigma_map.*", "*.adaLN_modulation"]}  # the default
COMPILED = "core, compiled"  # with algo.compile; of gpu_check alone


def _masked(cls):
    return lambda V: cls(V, V - 1)


def _forms(core, textbook):
    return dict.fromkeys((CORE, COMPILED, SHARED, *FROZEN), core) | {TEXTBOOK: textbook}


# name: {form: process made of a vocabulary}; a mask is its last token
CASES = {
    "mdlm": _forms(_masked(AbsorbingProcess), _masked(dense.Absorbing)),
    "sedd": _forms(_masked(ScoreProcess), _masked(dense.Score)),
    "categorical": _forms(UniformProcess, dense.Uniform),
    "gaussian": {
        CORE: _gaussian(gaussian.GaussianUniformProcess),
        COMPILED: _gaussian(gaussian.GaussianUniformProcess),
        TEXTBOOK: _gaussian(dense.Gaussian, mixtures=False),
        **dict.fromkeys(FROZEN, _gaussian(gaussian.GaussianUniformProcess)),
    },
}


class Timed(distiller.Distiller):
    """Notes how long the last update took beyond its loss and gradient."""

    def _update(self, phase):
        start = self.clock()
        done = super()._update(phase)
        self.optimizing = self.clock.since(start)
        return done


class Pair:
    """Networks, optimizers and EMA of one form of a case."""

    def __init__(self, case, form, size, device):
        torch.manual_seed(0)
        self.size, self.device, self.plain = size, device, form == TEXTBOOK
        networks = _networks(size, device, FROZEN.get(form))
        if form == COMPILED:
            for network in networks:
                compile_blocks(network)
        self.student, self.teacher = networks[0], networks[2]
        optimizers = [torch.optim.AdamW(adapters.trained(n), lr=1e-6) for n in networks[:2]]
        scheduled = [(o, torch.optim.lr_scheduler.ConstantLR(o, 1.0)) for o in optimizers]
        student, fake, teacher = (Denoiser(n, True) for n in networks)
        self.machine = Timed(
            CASES[case][form](size.vocab),
            (student, *scheduled[0]),
            (fake, *scheduled[1]),
            teacher,
            distiller.Recipe(shared_forward=form == SHARED, compile=form == COMPILED),
        )
        self.machine.clock = self.clock = Clock(device)
        if self.plain:
            for group in itertools.chain(*(o.param_groups for o in optimizers)):
                group["fused"] = None
        average = host.active().module("models.ema").ExponentialMovingAverage
        self.ema = average(self.student.parameters(), decay=0.9999)
        self.x0_BL = torch.randint(size.vocab - 1, (size.batch, size.length), device=device)
        self.given_BL = torch.zeros_like(self.x0_BL, dtype=torch.bool)

    def run(self):
        """Seconds (wall, CPU) of each part of one pair."""
        parts = {}
        shared = self.machine.recipe.shared_forward
        for part in ("shared step",) if shared else ("fake step", "student step"):
            start = self.clock()
            with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
                self.machine.step(self.x0_BL, self.given_BL)
            whole = self.clock.since(start)
            parts[part] = _minus(whole, self.machine.optimizing)
            parts[f"{part}, optimizer"] = self.machine.optimizing
        start = self.clock()
        self._average()
        parts["EMA"] = self.clock.since(start)
        return parts

    @torch.no_grad()
    def _average(self):
        if not self.plain:
            self.ema.update(self.student.parameters())
            return
        for shadow, p in zip(self.ema.shadow_params, self.student.parameters(), strict=True):
            shadow.sub_((1 - self.ema.decay) * (shadow - p))

    @torch.no_grad()
    def forward(self):
        """Seconds (wall, CPU) of F."""
        sigma_B = torch.full((self.size.batch,), 0.7, device=self.device)
        start = self.clock()
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            self.teacher(self.x0_BL, sigma_B)
        return self.clock.since(start)

    def state(self):
        """Bytes a parameter of one network: all that lasts from pair to pair, and gradients."""
        backbones = [n.backbone for n in (*self.machine.networks.values(), self.machine.teacher)]
        parameters = [p for network in backbones for p in network.parameters()]
        moments = [m for o in self.machine.optimizers.values() for m in o.state.values()]
        tensors = [*parameters, *(p.grad for p in parameters), *self.ema.shadow_params]
        tensors += [value for moment in moments for value in moment.values()]
        sizes = {t.data_ptr(): t.nbytes for t in tensors if isinstance(t, torch.Tensor)}
        return sum(sizes.values()) / sum(p.numel() for p in self.teacher.parameters())

    def clear(self):
        """Drop the gradients, which an update would only drop when the next one begins."""
        for optimizer in self.machine.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def memory(self):
        """(bytes a pair takes at most over what is there before, tensors of (B, L, V) at once)."""
        self.clear()
        if self.device.type == "cuda":
            return gpu_peak(self.run), None
        changes = allocations(self.run)
        whole = 4 * self.size.tokens * self.size.vocab
        parameters = {4 * p.numel() for p in self.student.parameters()}
        return peak(changes), most_tensors(changes, whole, parameters)


def _networks(size, device, frozen):
    """Student, fake and teacher; full networks without a dtype of frozen weights."""
    if frozen is None:
        return [_network(size, device) for _ in range(3)]
    student = _network(size, device)
    teacher = adapters.adapt(student, ADAPTER | {"frozen": frozen}, seed=0)
    return [student, adapters.twin(student), teacher]


def _network(size, device):
    heads = max(1, size.width // 64)
    shape = published.Shape(size.width, 128, size.length, size.blocks, heads)
    network = published.dit(shape, size.vocab)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return network.to(device)


def _minus(a, b):
    return tuple(x - y for x, y in zip(a, b, strict=True))
