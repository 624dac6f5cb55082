"""Two processes: their number changes, one is lost, the loss of one is no number."""

import os
import time
from pathlib import Path

from benchmarks.faults.row import NONE, Row, is_whole, short
from benchmarks.tiny import furthest


def two_processes(tiny, straight):
    """One process with accumulation, two, and a change of their number on the way."""
    run = tiny.together("two")
    done = run.wait() == 0
    apart = furthest(run.tensors(), straight[0]) if done else None
    seen = f"largest difference of all weights and moments {apart:.1e}" if done else "it failed"
    fault = "two processes for one with accumulation"
    yield Row(tiny.program.name, fault, 1, int(done and apart < 1e-5), seen, NONE)
    half = f"{tiny.program.length}=8"
    changes = {
        "resumed by two processes instead of one": (tiny.student, tiny.together),
        "resumed by one process instead of two": (tiny.together, tiny.student),
    }
    for number, (fault, (first, second)) in enumerate(changes.items()):
        name = f"changed-{number}"
        done = first(name, half).wait() == 0
        run = second(name)
        done = run.wait() == 0 and done
        apart = furthest(run.tensors(), straight[0]) if done else None
        seen = (
            f"largest difference {apart:.1e}" if done else f"refused: {short(run.errors(), tiny)}"
        )
        yield Row(tiny.program.name, fault, 1, int(done and apart < 1e-5), seen, NONE)


def lost_rank(tiny, rank, times=5):
    """kill -9 of one of two processes in the midst of training: do the others end, and how soon?

    They may meet the loss in a collective or be ended by torchrun, whichever comes first.
    """
    held, slowest, said = 0, 0.0, set()
    for time_ in range(times):
        run = tiny.together(f"lost-{rank}-{time_}", f"{tiny.program.length}=100000")
        seconds = _lose(run, rank, tiny.program.name)
        told = any("another process of this run has ended" in line for line in run.errors())
        held += seconds < 60 and told and run.over() != 0 and is_whole(run)
        slowest, said = max(slowest, seconds), said | {short(run.errors(), tiny)}
    sentences = " or ".join(f"'{sentence}'" for sentence in sorted(said))
    seen = f"the other ended within {slowest:.1f} s, {sentences}"
    fault = f"kill -9 of rank {rank} of two"
    return Row(tiny.program.name, fault, times, held, seen, "the pair in hand")


def _lose(run, rank, program):
    """Kill a process of a run after its first save; the seconds until all of it are gone."""
    while not run.last.exists() and run.over() is None:
        time.sleep(0.01)
    time.sleep(1)
    workers = _workers(run.pid, program)
    start = time.perf_counter()
    os.kill(workers[rank], 9)
    while run.over() is None or any(map(_alive, workers)):
        time.sleep(0.05)
        if time.perf_counter() - start > 120:
            break
    seconds = time.perf_counter() - start
    for pid in filter(_alive, [run.pid, *workers]):
        os.kill(pid, 9)
    return seconds


def _workers(pid, program):
    """[process of rank 0, of rank 1] of a command."""
    children = _children(pid)
    return children if program == "sedd_ext" else [pid, *children]


def _children(pid):
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    children = sorted(map(int, text.split()))
    return [c for c in children if b"hydra.run.dir" in Path(f"/proc/{c}/cmdline").read_bytes()]


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def not_finite(tiny, straight, rank, update):
    """A loss of one of two processes is nan: both stop with the same sentence, and go on later."""
    name = f"nan-{rank}-{update}"
    fault = {"FAULT": f"{tiny.program.name} {rank} {update}"}
    run = tiny.together(name, module="benchmarks.rank", environment=fault.items())
    start = time.perf_counter()
    while run.over() is None and time.perf_counter() - start < 120:
        time.sleep(0.05)
    ended = run.over()
    told = set(run.errors())
    kept = is_whole(run)
    again = tiny.together(name)
    done = again.wait() == 0 and furthest(again.tensors(), straight[0]) < 1e-5
    held = ended not in (None, 0) and len(told) == 1 and kept and done
    seen = f"'{short(sorted(told), tiny)}' from both; resumed to the same end"
    what = f"loss of rank {rank} of two is nan in update {update}"
    return Row(tiny.program.name, what, 1, int(held), seen, "nothing before that update")
