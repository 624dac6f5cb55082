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
    """One way of sampling.

    ``sampler``: "host", the host's own, or a name of ``SAMPLERS``; ``grid``: see ``grids.times``.
    """

    steps: int
    sampler: str = "host"
    grid: str = "host"
    predictor: str = "ancestral"
    noise_removal: str = "ancestral"
    temperature: float = 1.0
    nucleus: float = 1.0


@dataclass
class Subject:
    """A checkpoint to sample: its role in the report, its path, the algorithm that made
    it, its hash, and what its texts and statistics are made with.

    A host's subject adds ``seed(seed)``; ``sampler(setting, precision)``, a context that gives
    (draw(size) -> tokens (size, L), a list that grows with each network evaluation); and
    ``held_out()``, the validation tokens (N, L) of its own data.
    """

    role: str
    path: str
    algo: str
    sha256: str
    tokenizer: Tokenizer
    vocab_size: int
    length: int
    data: dict


def by_core(
    process: Sampled, student: Tempered, setting: Setting, length: int
) -> tuple[Draw, list]:
    """What a subject's ``sampler`` gives, by one of ``SAMPLERS``; student is a ``Tempered``."""
    sample = SAMPLERS[setting.sampler]

    times_K = grids.times(setting.grid, setting.steps)

    def draw(size):
        start = blank(student, (size, length))
        return sample(process, student, *start, times_K, setting.noise_removal)

    return draw, student.calls
