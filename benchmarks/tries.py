"""Variants of IDLM that were tried and left out: python -m benchmarks.tries VARIANT [arguments]

Trains as ``python -m duo_ext`` with the same arguments, with one change of the process:

    grid    the times t of the student's inputs are those of a 4-step sampler: 1, 3/4, 1/2, 1/4
    times   each student output is renoised at 4 times s, and both losses are means over these
    anchor  the student's loss plus 0.1 KL(teacher(z_t) || student(z_t)) at the positions predicted;
            not with algo.shared_forward
    late    on-policy inputs stop after j of K steps with probability proportional to j + 1

It takes algo.noising=categorical, and one process or torchrun's. The checkpoints are ordinary ones;
only the same variant goes on from them.
"""

import argparse
import sys
from dataclasses import dataclass, replace

import torch

import duo_ext.__main__
from duo_ext import ALGORITHMS, Refused
from duo_ext.core import rows
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.process import sample_times
from duo_ext.core.uniform import Sample, UniformProcess
from duo_ext.families import FAMILIES
from duo_ext.values import require

GRID = 4  # steps of the sampler


def grid_times(n, eps, device):
    """n times of 1/4, 1/2, 3/4, 1, each as often as the others; float64 (n,)."""
    return torch.ceil(GRID * sample_times(n, 0.0, device)).clamp(min=1) / GRID


def late_stops(steps, n, device):
    """n numbers of steps before a stop: j < steps with probability proportional to j + 1; (n,)."""
    weights = torch.arange(1, steps + 1, dtype=torch.float64, device=device)
    return rows.sample_tokens(weights.expand(n, steps), rows.uniforms((n,), device))


class Student:
    """A student of which a variant changes or watches ``features``."""

    def __init__(self, network):
        self.network = network

    def __getattr__(self, name):
        return getattr(self.network, name)


class Repeated(Student):
    """Its input is a batch ``draws`` times over, which it looks at once."""

    def __init__(self, network, draws):
        super().__init__(network)
        self.draws = draws

    def features(self, z_BL, alpha_B):
        B = len(z_BL) // self.draws
        return self.network.features(z_BL[:B], alpha_B[:B]).repeat(self.draws, 1, 1)


@dataclass
class AbsorbingTimes(AbsorbingProcess):
    """Both losses are means over ``draws`` x_s of one student output."""

    draws: int = 4

    def _draw(self, student, x0_BL, given_BL):
        z_BL, alpha_t, *first = super()._draw(student.network, x0_BL, given_BL)
        plain = AbsorbingProcess(self.vocab_size, self.mask_index, self.schedule, eps=self.eps)
        more = [plain._draw(None, x0_BL, given_BL)[2:] for _ in range(self.draws - 1)]
        noise = map(torch.cat, zip(first, *more, strict=True))
        return z_BL.repeat(self.draws, 1), alpha_t.repeat(self.draws), *noise

    def masked(self, z_BL, given_BL):
        return super().masked(z_BL, given_BL.repeat(len(z_BL) // len(given_BL), 1))

    def _sample(self, student, x0_BL, given_BL):
        sample = super()._sample(Repeated(student, self.draws), x0_BL, given_BL)
        return replace(sample, count=self.draws * sample.count)


@dataclass
class UniformTimes(UniformProcess):
    """Both losses are means over ``draws`` x_s of one student output."""

    draws: int = 4

    def _sample(self, student, x0_BL, given_BL):
        first = super()._sample(student, x0_BL, given_BL)
        output_RD, N = first.output.features, x0_BL.numel()
        features_ND = output_RD.new_zeros(N, output_RD.shape[-1])
        features_ND[first.free] = output_RD.detach()
        x, alpha, dalpha = [first.x], [first.alpha_B], [first.dalpha_B]
        for _ in range(self.draws - 1):
            s_B = sample_times(len(x0_BL), self.eps, x0_BL.device)
            x.append(self._renoise(rows.Head(student, features_ND), x0_BL, s_B, given_BL))
            for values, value in zip((alpha, dalpha), self.schedule(s_B), strict=True):
                values.append(value)
        output = rows.Head(student, output_RD.repeat(self.draws, 1))
        x, alpha_B, dalpha_B = map(torch.cat, (x, alpha, dalpha))
        free = torch.cat([first.free + k * N for k in range(self.draws)])
        return Sample(output, x, x, alpha_B, dalpha_B, free)


class Watched(Student):
    """Keeps its last input and features, which are those of the loss."""

    def features(self, z_BL, alpha_B):
        self.last = z_BL, alpha_B, self.network.features(z_BL, alpha_B)
        return self.last[-1]


@dataclass
class Anchored:
    """The student's loss plus ``weight`` times its divergence from the teacher on the same z_t."""

    weight: float = 0.1

    def student_loss(self, student, fake, teacher, x0_BL, given_BL):
        watched = Watched(student)
        loss = super().student_loss(watched, fake, teacher, x0_BL, given_BL)
        z_BL, alpha_t, student_BLD = watched.last
        with torch.no_grad():
            teacher_BLD = teacher.features(z_BL, alpha_t)
        predicted_BL = self.predicted(z_BL, given_BL)
        pairs = (teacher, teacher_BLD), (student, student_BLD)
        heads = tuple(rows.Head(network, features[predicted_BL]) for network, features in pairs)
        divergence = rows.total(rows.Term(self.divergence, heads))
        return loss + self.weight * divergence / (~given_BL).sum().clamp(min=1)

    def divergence(self, teacher_logits, student_logits):
        """KL(teacher || student), (R,)."""
        teacher_RV, student_RV = map(self.log_probs, (teacher_logits, student_logits))
        return torch.linalg.vecdot(teacher_RV.exp(), teacher_RV - student_RV)


@dataclass
class AnchoredAbsorbing(Anchored, AbsorbingProcess):
    def log_probs(self, logits):
        """log softmax over the tokens other than the mask; 0 at the mask, whose mass is 0."""
        outside = self._outside(logits)
        return logits.masked_fill(outside, -torch.inf).log_softmax(-1).masked_fill(outside, 0.0)

    def predicted(self, z_BL, given_BL):
        return (z_BL == self.mask_index) & ~given_BL


@dataclass
class AnchoredUniform(Anchored, UniformProcess):
    def predicted(self, z_BL, given_BL):
        return ~given_BL

    def log_probs(self, logits):
        return logits.log_softmax(-1)


def grid(process):
    return replace(process, input_times=grid_times)


def times(process, **settings):
    return _as(process, AbsorbingTimes, UniformTimes)(**vars(process), **settings)


def anchor(process, **settings):
    return _as(process, AnchoredAbsorbing, AnchoredUniform)(**vars(process), **settings)


def _as(process, absorbing, uniform):
    return {AbsorbingProcess: absorbing, UniformProcess: uniform}[type(process)]


def late(process):
    if process.on_policy == 0:
        raise Refused("algo.on_policy is 0; late changes on-policy inputs, so it must be above 0")
    return replace(process, rollout_stops=late_stops)


VARIANTS = {variant.__name__: variant for variant in (grid, times, anchor, late)}


def _variant(name, make):
    return lambda model, **inputs: VARIANTS[name](make(model, **inputs))


def put_in(name):
    """Let the algorithms of an active host make the variant of each process that has one."""
    from duo_ext import algorithms

    for family in FAMILIES.values():
        make = family.noisings["categorical"]
        family.noisings.clear()
        family.noisings["categorical"] = _variant(name, make)
    kind = algorithms.Distillation
    identity = kind._identity
    kind._identity = lambda self: identity(self) | {"variant": name}


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="benchmarks.tries",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("variant", choices=VARIANTS)
    own, sys.argv[1:] = parser.parse_known_args(arguments)
    run = duo_ext.__main__.run

    def changed(config):
        require("algo", config.algo.name, ALGORITHMS)
        if own.variant == anchor.__name__:
            require("algo.shared_forward", config.algo.shared_forward, [False])
        put_in(own.variant)
        run(config)

    duo_ext.__main__.run = changed
    duo_ext.__main__.main()


if __name__ == "__main__":
    main()
