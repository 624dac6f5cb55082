"""A model that can be sampled, and the settings that it is sampled under."""

from dataclasses import dataclass

from duo_ext.core.networks import Tempered
from duo_ext.core.process import Sampled
from duo_ext.core.samplers import SAMPLERS, blank, grids
from duo_ext.data.texts import Tokenizer
from duo_ext.measuring.draws import Draw

WAYS = ("steps", "sampler", "grid", "predictor", "noise_removal", "temperature", "nucleus")


@dataclass(frozen=True)
class Setting:
    """One way of sampling."""

    steps: int
    sampler: str = "host"  # the host's own, or a name of ``SAMPLERS``
    grid: str = "host"  # see ``grids.times``
    predictor: str = "ancestral"  # SEDD's; Duo's side has this one
    noise_removal: str = "ancestral"  # the last step
    temperature: float = 1.0
    nucleus: float = 1.0


@dataclass
class Subject:
    """A checkpoint that can be sampled.

    A host's subject adds three methods. ``seed(seed)`` seeds what it draws. ``sampler(setting,
    precision)`` is a context that gives (draw(size) -> tokens (size, L), a list that grows by one
    with each network evaluation). ``held_out()`` gives the validation tokens (N, L) of its own
    data.
    """

    role: str  # teacher, student or judge
    path: str  # as the user gave it
    algo: str  # the algorithm that made it
    sha256: str
    tokenizer: Tokenizer
    vocab_size: int
    length: int  # L
    data: dict  # the section ``data`` of its configuration


def by_core(
    process: Sampled, student: Tempered, setting: Setting, length: int
) -> tuple[Draw, list]:
    """What a subject's ``sampler`` gives, by the one of ``SAMPLERS`` that ``setting`` names."""
    sample = SAMPLERS[setting.sampler]

    times_K = grids.times(setting.grid, setting.steps)

    def draw(size):
        start = blank(student, (size, length))
        return sample(process, student, *start, times_K, setting.noise_removal)

    return draw, student.calls
