"""The mean of gradients over the data-parallel processes, in messages of bounded size."""

from collections.abc import Iterable

import torch
from torch import Tensor

BUCKET = 2**25  # bytes: what is copied together into one message; larger tensors go as they are


def average(tensors: Iterable[Tensor]) -> None:
    """Make tensors their mean over the processes of torch.distributed, in place.

    While one message is under way the next is made, so two buckets are in memory besides the
    tensors. In a process that has joined no others nothing changes.
    """
    if not torch.distributed.is_initialized():
        return
    sent = None
    for bucket in _buckets(tensors):
        sent, before = _send(bucket), sent
        _receive(before)
    _receive(sent)


def _buckets(tensors):
    """Neighbours of one type, of BUCKET bytes together at most, or one alone."""
    bucket, size = [], 0
    for tensor in tensors:
        if bucket and (size + tensor.nbytes > BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


def _send(bucket):
    """(the message, the handle to wait for it, its tensors). The message of a lone tensor is no
    copy."""
    message = bucket[0].flatten() if len(bucket) == 1 else torch.cat([t.flatten() for t in bucket])
    return message, torch.distributed.all_reduce(message, async_op=True), bucket


def _receive(sent):
    if sent is None:
        return
    message, work, bucket = sent
    work.wait()
    message /= torch.distributed.get_world_size()
    for tensor, part in zip(bucket, message.split([t.numel() for t in bucket]), strict=True):
        tensor.copy_(part.view_as(tensor))
