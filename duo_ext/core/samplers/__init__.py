"""Samplers by name.

sample(process, student, x0_BL, given_BL, times_K, noise_removal) gives tokens (B, L).
``process`` is what ``sampled.Sampled`` says, ``student`` a ``networks.Tempered``. Positions of
``given_BL`` keep their token of x0. The network is evaluated at the times, the first of which is 1
(``grids``). ``noise_removal`` is what becomes of the state at the last time: the process's step to
clean data (ancestral), the likeliest tokens (greedy), or nothing, without an evaluation (none). A
new sampler is a module with a function ``sample``, and a line in SAMPLERS; one that only decides
which positions of the process's steps change together is an ``ancestral.Order``, and a line in
ORDERS.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from duo_ext import Refused
from duo_ext.core import rows
from duo_ext.core.networks import Denoiser
from duo_ext.core.sampled import Sampled
from duo_ext.core.samplers import ancestral, comb, confidence, grids, renoise, spread

__all__ = ["SAMPLERS", "blank", "drawing", "find", "grids", "order", "require_masks"]

ORDERS = {"spread": spread.changes, "comb": comb.changes}
SAMPLERS = {
    "ancestral": ancestral.sample,
    **{name: functools.partial(ancestral.sample, order=found) for name, found in ORDERS.items()},
    "confidence": functools.partial(confidence.sample, confidence.probability),
    "entropy": functools.partial(confidence.sample, confidence.entropy),
    "margin": functools.partial(confidence.sample, confidence.margin),
    "renoise": renoise.sample,
}
TEMPERED = ("confidence", "entropy", "margin")  # these may have a temperature behind their name
OF_MASKS = ("comb", *TEMPERED)  # these say in which order masks are filled
WANTED = f"{', '.join(SAMPLERS)}; {', '.join(TEMPERED)} may have a temperature: confidence:0.5"


def find(name: str) -> Callable[..., Tensor]:
    """The sampler of a name; raises Refused where there is none."""
    kind, colon, temperature = name.partition(":")
    if kind not in SAMPLERS or (colon and kind not in TEMPERED):
        raise Refused(f"the sampler is '{name}'; it must be one of {WANTED}")
    if not colon:
        return SAMPLERS[kind]
    try:
        number = float(temperature)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise Refused(f"the sampler is '{name}'; its temperature must be a number, at least 0")
    return functools.partial(SAMPLERS[kind], temperature=number)


def order(name: str) -> ancestral.Order:
    """In which order the sampler of a name changes the positions, where that asks no network."""
    return ORDERS.get(name, ancestral.independent)


def suits(name: str, process: Sampled) -> bool:
    """Whether a process has the masks that the sampler of a name orders, if it orders any."""
    return process.changes_once or name.partition(":")[0] not in OF_MASKS


def require_masks(name: str, process: Sampled) -> None:
    """Raise Refused where a sampler that orders masks meets a process that has none."""
    if not suits(name, process):
        raise Refused(f"the sampler is '{name}', which needs a process that has masks")


def drawing(
    name: str,
    process: Sampled,
    student: Denoiser,
    length: int,
    times_K: Tensor,
    noise_removal: str,
) -> Callable[..., Tensor]:
    """draw(size, uniforms, given) -> tokens (size, length) by the sampler of a name.

    ``uniforms`` are the random numbers of these texts, by default torch's own; ``given`` is
    (x0_BL, given_BL), by default of texts of which nothing is given.
    """
    sample = find(name)
    require_masks(name, process)

    def draw(size, uniforms=rows.uniforms, given=None):
        numbered, start = replace(process, uniforms=uniforms), blank(student, (size, length))
        if given is not None:
            start = [own.to(none.device) for own, none in zip(given, start, strict=True)]
        return sample(numbered, student, *start, times_K, noise_removal)

    return draw


def blank(student: Denoiser, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(x0_BL, given_BL) of that shape, where nothing is given, on the student's device."""
    device = next(student.backbone.parameters()).device
    return torch.zeros(shape, dtype=torch.long, device=device), torch.zeros(
        shape, dtype=torch.bool, device=device
    )
