"""The order in which training sees its blocks: by seed and epoch alone, in every host."""

import torch

from duo_ext import Refused


class ResumableLoader(torch.utils.data.DataLoader):
    """A loader whose order depends on the seed and the epoch alone, and which knows its place.

    ``state_dict`` is the place: a resumed run goes on with the next batch. If it stopped after
    whole global batches, it may go on in another number of processes. First comes the rest of the
    epoch that it stopped in, which may be empty. An epoch is a whole number of global batches, each
    of ``world * accumulate`` neighbouring batches of one permutation. So two processes see what one
    process with twice the accumulation sees.

    Raises Refused if the data is less than one global batch.
    """

    def __init__(
        self,
        dataset: torch.utils.data.Dataset,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        **options,
    ):
        self.seed, self.epoch, self.batches, self.resumed = seed, 0, 0, False
        order = _Order(self, dataset, batch_size, rank, world, accumulate)
        super().__init__(dataset, batch_size, sampler=order, drop_last=True, **options)

    def __iter__(self):
        if self.batches == len(self) and not self.resumed:
            self.epoch, self.batches = self.epoch + 1, 0
        self.resumed = False
        for batch in super().__iter__():
            self.batches += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The place: the epoch, the batches of it that all processes together have seen, and the
        number of blocks that it is a place in."""
        batches = self.batches * self.sampler.num_replicas
        return {"epoch": self.epoch, "batches": batches, "blocks": len(self.dataset)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on at the place that ``state_dict`` gave; Refused if it is one in another text."""
        blocks = state.get("blocks", len(self.dataset))  # earlier versions did not say
        if blocks != len(self.dataset) or state["batches"] > len(self) * self.sampler.num_replicas:
            raise Refused(
                f"data.train has {len(self.dataset)} blocks; the run that goes on began with "
                "another text, and takes that one, or another run folder"
            )
        self.epoch, self.resumed = state["epoch"], True
        self.batches = state["batches"] // self.sampler.num_replicas


class _Order(torch.utils.data.DistributedSampler):
    """This process's blocks of one epoch from the loader's place on, as many as fill its batches.

    As a DistributedSampler it is not replaced by Lightning's own.
    """

    def __init__(self, loader, dataset, batch_size, rank, world, accumulate):
        super().__init__(dataset, num_replicas=world, rank=rank)
        self.loader, self.batch = loader, batch_size
        whole = batch_size * world * accumulate
        self.count = len(dataset) // whole * batch_size * accumulate
        if self.count == 0:
            raise Refused(
                f"data.train has {len(dataset)} blocks, less than one global batch of {whole}"
            )

    def __len__(self):
        return self.count

    def __iter__(self):
        loader = self.loader
        generator = torch.Generator().manual_seed(loader.seed + 1_000_003 * loader.epoch)
        order = torch.randperm(len(self.dataset), generator=generator)
        batches = order[: self.count * self.num_replicas].view(-1, self.batch)
        mine = batches[self.rank :: self.num_replicas]
        return iter(mine[loader.batches :].flatten().tolist())
