"""Gradients of student and fake in a precision, and how those of two ways to compute them differ.

g are the gradients of the reference, h those of the other way on the same micro-batches, e = h - g.
What is asked for is whether e averages out: its mean over all micro-batches is a bias, what is left
of it noise beside that of g. Sums are kept, not gradients: |E e|^2 is the mean of <e_i, e_j> over
pairs i != j, which has no share of the noise in it and may come out below 0 where there is no bias.
"""

import contextlib
import math
import statistics
from unittest import mock

import torch

from benchmarks.rounding import Stopped
from duo_ext.core import rows


@contextlib.contextmanager
def same_draws():
    """Whatever the precision of the networks: one x_s, drawn once, and noise in float32."""
    draw, drawn = rows.sample, []

    def sample(*arguments):
        if not drawn:
            drawn.append(draw(*arguments))
        return drawn[0]

    def noise(x):
        return torch.randn(x.shape).to(x.dtype)

    with mock.patch.object(rows, "sample", sample), mock.patch.object(torch, "randn_like", noise):
        yield


def student_gradient(process, networks, batch, seed, precision):
    """The gradient (10) of the student's parameters in a precision."""
    student, fake, teacher = precision.networks(*networks)
    fake.backbone.requires_grad_(False)
    torch.manual_seed(seed)
    loss = process.student_loss(student, fake, teacher, *batch)
    with precision.backward():
        loss.backward()
    fake.backbone.requires_grad_(True)
    return flat(student.backbone)


def fake_gradient(process, networks, batch, seed, precision):
    """The gradient (9) of the fake's parameters in a precision."""
    student, fake, _ = precision.networks(*networks)
    torch.manual_seed(seed)
    loss = process.fake_loss(student, fake, *batch)
    with precision.backward():
        loss.backward()
    return flat(fake.backbone)


def feature_gradient(process, networks, batch, seed, precision):
    """The gradient of the input of the student's last layer: no backward pass of a network, unless
    the process has one through teacher and fake."""
    student, fake, teacher = precision.networks(*networks)
    student = Stopped(student.backbone, student.time_conditioning, precision)
    for network in (student, fake):
        network.backbone.requires_grad_(False)
    torch.manual_seed(seed)
    process.student_loss(student, fake, teacher, *batch).backward()
    for network in (student, fake):
        network.backbone.requires_grad_(True)
    return student.kept.grad.flatten()


def flat(network):
    """The gradient of all parameters of a network as one vector, which is then dropped."""
    found = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    for parameter in network.parameters():
        parameter.grad = None
    return torch.cat(found)


def dot(a, b):
    """<a, b> in float64, without a copy of either in it."""
    pairs = zip(a.split(2**22), b.split(2**22), strict=True)
    return sum(torch.dot(x.double(), y.double()).item() for x, y in pairs)


def cosine(a, b):
    """<a, b> / |a| |b|; 1 if both are 0, 0 if one is."""
    norms = math.sqrt(dot(a, a) * dot(b, b))
    if norms == 0:
        return float(not a.any() and not b.any())
    return dot(a, b) / norms


class Comparison:
    """Takes in pairs (g, h) of flat gradients."""

    def __init__(self):
        self.cosines, self.ratios = [], []
        self.sums, self.products = {}, {}

    def add(self, g, h):
        self.cosines.append(cosine(g, h))
        for name, value in {"g": g, "h": h}.items():
            self.sums[name] = self.sums[name].add_(value) if name in self.sums else value.clone()
        now = {"gg": dot(g, g), "hh": dot(h, h), "gh": dot(g, h)}
        self.ratios.append(math.sqrt(now["hh"] / now["gg"]) if now["gg"] else 1.0)
        self.products = {ab: self.products.get(ab, 0.0) + value for ab, value in now.items()}

    def _products(self):
        """(mean of <a_i, b_i>, mean of <a_i, b_j> over i != j: <E a, E b>), {ab: ...} each."""
        K = len(self.cosines)
        own = {ab: value / K for ab, value in self.products.items()}
        apart = {
            (a + b): (dot(self.sums[a], self.sums[b]) - self.products[a + b]) / (K * (K - 1))
            for a, b in own
        }
        for found in own, apart:
            found["ee"] = found["hh"] - 2 * found["gh"] + found["gg"]
        return own, apart

    def summary(self):
        """
        norm: of g, the root of its mean square;
        cosine, norm_ratio: of a micro-batch's h to its g, mean (and lowest, highest cosine);
        averaged: the cosine of their averages over all micro-batches;
        between: the cosine that two micro-batches' g have, the noise of the descent itself;
        noise: Var e / Var g; bias: |E e| / |E g|; limit: the cosine of E h to E g.
        """
        found = {
            "micro_batches": len(self.cosines),
            "norm": math.sqrt(self.products["gg"] / len(self.cosines)),
            "cosine": statistics.fmean(self.cosines),
            "cosine_low": min(self.cosines),
            "cosine_high": max(self.cosines),
            "norm_ratio": statistics.fmean(self.ratios),
            "averaged": cosine(self.sums["g"], self.sums["h"]),
        }
        if len(self.cosines) > 1 and self.products["gg"] > 0:
            own, apart = self._products()
            gg, hh, ee = apart["gg"], apart["hh"], apart["ee"]
            found |= {
                "between": gg / own["gg"],
                "noise": (own["ee"] - ee) / (own["gg"] - gg),
                "bias": math.copysign(math.sqrt(abs(ee / gg)), ee) if gg > 0 else None,
                "limit": apart["gh"] / math.sqrt(gg * hh) if gg > 0 and hh > 0 else None,
            }
        return found


# what a table says of a comparison
COLUMNS = {
    "cosine": lambda r: f"{r['cosine']:.3f} ({r['cosine_low']:.3f}, {r['cosine_high']:.3f})",
    "norm ratio": lambda r: f"{r['norm_ratio']:.2f}",
    "of averages": lambda r: f"{r['averaged']:.3f}",
    "between two": lambda r: number(r, "between"),
    "Var e / Var g": lambda r: number(r, "noise"),
    "bias": lambda r: number(r, "bias"),
}
LEGEND = (
    "cosine: of a micro-batch's gradient to the reference's, mean (lowest, highest); of averages: "
    "that of the averages over the micro-batches; between two: that which two micro-batches of the "
    "reference have; e the error, g the reference; bias: abs(E e) / abs(E g), less than 0 where it "
    "is lost in the noise."
)


def number(row, key):
    value = row.get(key)
    return "" if value is None else f"{value:.3g}"
