"""The loaders inside Lightning's trainer. Private attributes of the trainer are used only here."""

import contextlib
from collections.abc import Iterator

import lightning
from omegaconf import DictConfig

from duo_ext.machine import cores
from duo_ext.training.order import ResumableLoader


def order_blocks(trainer: lightning.Trainer, config: DictConfig) -> None:
    """Put a ``ResumableLoader`` of the host's data in the place of the host's loader."""
    source, settings = trainer.fit_loop._data_source, config.loader
    # The hosts ask for a worker for each core on each rank: with 8 ranks, 8 times the cores.
    workers = min(settings.num_workers, max(1, cores() // trainer.num_devices))
    source.instance = ResumableLoader(
        source.instance.dataset,
        settings.batch_size,
        config.seed,
        rank=trainer.global_rank,
        world=trainer.world_size,
        accumulate=config.trainer.accumulate_grad_batches,
        num_workers=workers,
        pin_memory=settings.pin_memory,
        persistent_workers=workers > 0,
    )


@contextlib.contextmanager
def kept(trainer: lightning.Trainer) -> Iterator[None]:
    """Inside a with block others may be put in the place of the training's loaders: at its end they
    are back."""
    combined = trainer.fit_loop._combined_loader
    loaders = combined.flattened
    yield
    combined.flattened = loaders
