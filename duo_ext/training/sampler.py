"""How a look draws its texts: by the core's sampler, in every host."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from duo_ext.core import samplers
from duo_ext.core.networks import Tempered
from duo_ext.core.precision import PRECISIONS
from duo_ext.core.sampled import Sampled
from duo_ext.core.samplers import grids
from duo_ext.measuring.draws import Draw


@dataclass(frozen=True)
class Sampler:
    """The ``sampler`` of a ``guard.Watch``: called with (steps, whether the teacher draws), it is a
    context that gives draw(size, uniforms, given) -> tokens (size, L) (``samplers.drawing``).

    A host's own sampler has the same law, and forms several float64 (B, L, V) where this one forms
    none.
    """

    process: Sampled
    network: Callable  # network(teacher): a context that gives the network to draw from
    length: int  # L
    sampler: str  # algo.sampler, of the student; a teacher is measured by ancestral sampling
    grid: str  # algo.grid, of the student; a teacher is measured on the host's grid
    noise_removal: str  # the last step, as ``core.samplers`` names it
    precision: str  # algo.precision: the student is drawn from as it is trained
    time_conditioning: bool  # whether the network reads the time
    nucleus: float = 1.0

    @contextlib.contextmanager
    def __call__(self, steps: int, teacher: bool) -> Iterator[Draw]:
        precision, _ = PRECISIONS[self.precision]
        with self.network(teacher) as network:
            drawn = Tempered.of(
                self.process,
                network,
                self.time_conditioning,
                nucleus=self.nucleus,
                precision=precision,
            )
            plain = "ancestral", "host"
            name, grid = plain if teacher else (self.sampler, self.grid)
            way = self.length, grids.times(grid, steps), self.noise_removal
            yield samplers.drawing(name, self.process, drawn, *way)
