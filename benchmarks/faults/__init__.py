"""The faults: each is made to happen in tiny runs, and what came of it is one row of the table."""

import random

from benchmarks.faults import files, kills, others, processes


def all_of(tiny, count, seed, alone=False):
    """The rows of one program; ``alone``: those of kills of one process."""
    draw = random.Random(seed)
    straight = tiny.straight()
    yield kills.kill_at_random(tiny, straight, count, draw)
    yield kills.kill_while_saving(tiny, straight, -(-count // 3), draw)
    if alone:
        return
    yield from files.wrong_checkpoints(tiny, draw)
    for fault in ("disk full", "read-only folder"):
        yield files.disk(tiny, straight, fault)
    yield from processes.two_processes(tiny, straight)
    for rank in (0, 1):
        yield processes.lost_rank(tiny, rank)
    for rank, update in ((0, 5), (1, 6)):
        yield processes.not_finite(tiny, straight, rank, update)
    yield others.requeued(tiny, straight, -(-count // 3), draw)
    yield others.swept(tiny, straight)
    yield others.in_one_folder(tiny, straight)
    yield others.one_cache(tiny)
