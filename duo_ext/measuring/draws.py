"""Texts in batches: by one stream of random numbers, as a host draws, or by a stream for each text,
so that a text is the same in a batch of any size, on any of a run's processes."""

from collections.abc import Callable, Collection
from typing import TypeAlias

import torch
from torch import Tensor

from duo_ext import Refused
from duo_ext.core.sampled import Sampled
from duo_ext.ranks import Ranks

# draw(size) -> tokens (size, L); a sampler of the core takes the random numbers of its texts, too
Draw: TypeAlias = Callable[..., Tensor]
STRIDE = 1_000_003  # between the seeds of two texts


def sizes(samples: int, batch_size: int) -> list[int]:
    """How many texts each batch has."""
    return [min(batch_size, samples - start) for start in range(0, samples, batch_size)]


@torch.no_grad()
def stream(batch: Draw, samples: int, batch_size: int) -> Tensor:
    """Tokens (``samples``, L) on the CPU from ``batch(size)``, one batch after the other."""
    return torch.cat([batch(size).cpu() for size in sizes(samples, batch_size)])


def of_texts(seed: int, first: int, count: int) -> Callable[..., Tensor]:
    """The ``uniforms`` of a process (``sampled.Sampled``) for ``count`` texts, the ``first`` of
    which has this number among all: each text has a stream of its own."""
    numbers = range(first, first + count)
    streams = [torch.Generator().manual_seed(seed + STRIDE * number) for number in numbers]

    def uniforms(shape, device):
        drawn = [torch.rand(shape[1:], dtype=torch.float64, generator=s) for s in streams]
        return torch.stack(drawn).to(device)

    return uniforms


@torch.no_grad()
def shared(
    batch: Draw,
    samples: int,
    batch_size: int,
    seed: int,
    ranks: Ranks,
    given: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Tokens (``samples``, L) on the CPU from batch(size, uniforms, given), the same for batches of
    any size and any number of processes. ``given`` is (x0, given), (``samples``, L) each, or None.
    """

    def draw(part):
        place, size = part
        first = place * batch_size
        own = given and tuple(x_NL[first : first + size] for x_NL in given)
        return batch(size, of_texts(seed, first, size), own).cpu()

    return torch.cat(ranks.shared(enumerate(sizes(samples, batch_size)), draw))


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
