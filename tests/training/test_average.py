"""duo_ext.training.average: the mean over two processes, in messages of bounded size."""

import pytest
import torch

from duo_ext.training import average

SHAPES = ((3, 5), (), (40, 30), (7,), (2, 2, 2), (1,), (50, 40))


def tensors(rank):
    generator = torch.Generator().manual_seed(rank)
    made = [torch.randn(shape, generator=generator) for shape in SHAPES]
    made[3] = torch.randn(7, generator=generator, dtype=torch.float64)
    made[4] = torch.randn(2, 2, 2, generator=generator).transpose(0, 2)  # no neighbours in memory
    return made


def mean(rank, folder, bucket):
    torch.set_num_threads(1)
    sizes, send = [], torch.distributed.all_reduce
    average.BUCKET = bucket
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )

    def watched(message, **options):
        sizes.append(message.nbytes)
        return send(message, **options)

    torch.distributed.all_reduce = watched
    found = tensors(rank)
    average.average(found)
    torch.save((found, sizes), f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("bucket", "messages"),
    [(1, [60, 4, 4800, 56, 32, 4, 8000]), (5000, [4864, 56, 36, 8000]), (2**25, [4864, 56, 8036])],
)
def test_the_mean_is_that_of_one_message_to_the_last_bit(tmp_path, bucket, messages):
    torch.multiprocessing.start_processes(
        mean, (str(tmp_path), bucket), nprocs=2, start_method="fork"
    )
    one, two = tensors(0), tensors(1)
    wanted = [(a + b) / 2 for a, b in zip(one, two, strict=True)]
    for rank in (0, 1):
        found, sizes = torch.load(tmp_path / str(rank))
        assert all(map(torch.equal, found, wanted)) and sizes == messages
        assert [x.dtype for x in found] == [x.dtype for x in wanted]


def test_a_process_alone_is_its_own_mean():
    found = tensors(0)
    average.average(found)
    assert all(map(torch.equal, found, tensors(0)))
