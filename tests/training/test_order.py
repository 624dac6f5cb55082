"""training.order: the order of training's blocks by seed and epoch, shared, and taken up again."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duo_ext import Refused
from duo_ext.training.order import ResumableLoader


def loader_of(size, batch_size, seed=1, **place):
    """A loader of blocks that are their own numbers."""
    return ResumableLoader(range(size), batch_size, seed, **place)


def many(loader):
    """Batches as Lightning takes them: it never asks an epoch for more than ``len(loader)``."""
    for _ in range(99):
        for batch in itertools.islice(loader, len(loader)):
            yield batch.tolist()


def take(count, iterator):
    return list(itertools.islice(iterator, count))


def epochs_of(loader, count):
    batches = many(loader)
    return [take(len(loader), batches) for _ in range(count)]


def processes(size, batch_size, world):
    return [loader_of(size, batch_size, rank=rank, world=world) for rank in range(world)]


SIZES = {
    "size": st.integers(12, 40),
    "batch_size": st.integers(1, 4),
    "world": st.integers(1, 3),
}


def test_each_epoch_is_another_permutation():
    loader = loader_of(50, 7)
    epochs = epochs_of(loader, 3)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs != epochs_of(loader_of(50, 7, seed=2), 3)
    asked_to_the_end = loader_of(50, 7)
    for epoch in epochs:
        assert [batch.tolist() for batch in asked_to_the_end] == epoch


@settings(max_examples=50, deadline=None)
@given(**SIZES)
def test_an_epoch_has_every_block_at_most_once_and_only_full_batches(size, batch_size, world):
    shares = processes(size, batch_size, world)
    assert len({len(share) for share in shares}) == 1
    for epoch in zip(*(epochs_of(share, 3) for share in shares), strict=True):
        batches = list(itertools.chain(*epoch))
        assert {len(batch) for batch in batches} == {batch_size}
        blocks = list(itertools.chain(*batches))
        assert len(set(blocks)) == len(blocks) and set(blocks) <= set(range(size))
        assert size - len(blocks) < batch_size * world


@settings(max_examples=50, deadline=None)
@given(taken=st.integers(0, 60), **SIZES)
def test_a_resumed_loader_goes_on_where_it_stopped(size, batch_size, world, taken):
    for rank in range(world):
        straight, stopped, resumed = (
            loader_of(size, batch_size, rank=rank, world=world) for _ in range(3)
        )
        take(taken, many(stopped))
        resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
        assert take(15, many(resumed)) == take(taken + 15, many(straight))[taken:]


@settings(max_examples=50, deadline=None)
@given(size=st.integers(24, 60), taken=st.integers(0, 30), worlds=st.permutations([1, 2, 3, 6]))
def test_another_number_of_processes_goes_on_with_the_same_global_batches(size, taken, worlds):
    """Six batches of two make an update, however many processes share them."""
    first, second = (
        [loader_of(size, 2, rank=rank, world=world, accumulate=6 // world) for rank in range(world)]
        for world in worlds[:2]
    )
    updates(first, taken)
    for share in second:
        share.load_state_dict(first[0].state_dict())
    assert updates(second, 5) == updates(first, 5)


def updates(shares, count):
    """The sets of batches of the next updates of all processes."""
    streams = [many(share) for share in shares]
    whole = []
    for _ in range(count):
        batches = [take(6 // len(shares), stream) for stream in streams]
        whole.append(sorted(tuple(batch) for share in batches for batch in share))
    return whole


def test_a_loader_resumed_at_the_end_of_an_epoch_first_ends_it():
    """Lightning, resumed there, may ask for one more batch of the old epoch."""
    loader = loader_of(12, 3)
    loader.load_state_dict({"epoch": 0, "batches": 4})
    assert list(loader) == []
    assert take(4, many(loader)) == epochs_of(loader_of(12, 3), 2)[1]


@pytest.mark.parametrize("size", [9, 24])
def test_a_place_in_another_text_is_refused(size):
    place = loader_of(12, 3).state_dict()
    with pytest.raises(Refused, match=f"^data.train has {size} blocks; .* another text"):
        loader_of(size, 3).load_state_dict(place)


def test_a_place_that_is_not_there_is_refused():
    """Of earlier versions, which do not say of how many blocks."""
    with pytest.raises(Refused, match=r"^data.train has 12 blocks"):
        loader_of(12, 3).load_state_dict({"epoch": 0, "batches": 5})


@settings(max_examples=50, deadline=None)
@given(**SIZES)
def test_processes_see_the_micro_batches_of_one_with_as_much_accumulation(size, batch_size, world):
    alone = epochs_of(loader_of(size, batch_size, accumulate=world), 3)
    shares = [epochs_of(share, 3) for share in processes(size, batch_size, world)]
    for epoch, micro_batches in enumerate(alone):
        parts = zip(*(share[epoch] for share in shares), strict=True)
        assert list(itertools.chain(*parts)) == micro_batches


def test_workers_that_stay_take_each_epoch_anew():
    options = {"num_workers": 1, "persistent_workers": True}
    loader = loader_of(20, 3, **options)
    assert epochs_of(loader, 2) == epochs_of(loader_of(20, 3), 2)
    loader.load_state_dict({"epoch": 1, "batches": 4})
    assert take(5, many(loader)) == take(15, many(loader_of(20, 3)))[10:]


def test_less_than_one_global_batch_is_refused():
    assert len(loader_of(6, 3, world=2)) == 1
    assert len(loader_of(11, 3, accumulate=2)) == 2
    with pytest.raises(ValueError, match=r"data.train has 5 blocks, less than one .* of 6"):
        loader_of(5, 3, world=2)
