"""Texts drawn in batches: by one stream of random numbers, or with a seed for each batch.

With a seed for each batch the processes of a run can share the batches, and they draw what one
process would draw.
"""

from collections.abc import Callable, Collection
from typing import TypeAlias

import torch
from torch import Tensor

from duo_ext import Refused
from duo_ext.core.process import Sampled
from duo_ext.ranks import Ranks

Draw: TypeAlias = Callable[[int], Tensor]  # draw(size) -> tokens (size, L)
STRIDE = 1_000_003  # between the seeds of two batches


def sizes(samples: int, batch_size: int) -> list[int]:
    """How many texts each batch has."""
    return [min(batch_size, samples - start) for start in range(0, samples, batch_size)]


@torch.no_grad()
def stream(batch: Draw, samples: int, batch_size: int) -> Tensor:
    """Tokens (``samples``, L) on the CPU from ``batch(size)``, one batch after the other."""
    return torch.cat([batch(size).cpu() for size in sizes(samples, batch_size)])


def seed(number: int, batch: int) -> None:
    """Seed torch for a batch, by its number; the first has the seed itself."""
    torch.manual_seed(number + STRIDE * batch)


@torch.no_grad()
def shared(batch: Draw, samples: int, batch_size: int, number: int, ranks: Ranks) -> Tensor:
    """Tokens (``samples``, L) on the CPU, the same for any number of processes.

    ``number`` is the seed of the first batch.
    """

    def draw(place):
        seed(number, place)
        return batch(drawn[place]).cpu()

    drawn = sizes(samples, batch_size)
    return torch.cat(ranks.shared(range(len(drawn)), draw))


def is_log_linear(noise: Callable[[Tensor], tuple[Tensor, Tensor]], process: Sampled) -> bool:
    """Whether a host's noise has the alphas of the core's process, which are log-linear.

    ``noise(t)`` gives (anything, alpha_t), as Duo's does.
    """
    times = torch.linspace(0, 1, 5)
    alphas, _ = process.schedule(times)
    return torch.allclose(noise(times)[1].double(), alphas, atol=1e-6)


def require_of_guard(key: str, value: object, values: Collection) -> None:
    """Raise Refused unless ``value``, of the setting ``key``, is one of ``values``.

    The guard draws by the core's sampler, which knows no other.
    """
    if value not in values:
        raise Refused(
            f"{key} is '{value}'; the guard draws by the core's sampler, for which it must be "
            f"{' or '.join(map(str, values))} (algo.guard.every=0: no guard)"
        )
