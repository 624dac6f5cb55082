"""kill -9 of one process, at any moment and in a save."""

import shutil
import time

from benchmarks.faults.row import Row, is_whole
from benchmarks.tiny import PAIRS, same


def kill_at_random(tiny, straight, count, draw):
    """kill -9 at a moment drawn from the time between the first save and the end."""
    tensors, seconds = straight

    def moment(run):
        run.wait_for_save()
        time.sleep(draw.uniform(0, seconds))

    return _kills(tiny, tensors, count, moment, "kill -9 at a random moment")


def kill_while_saving(tiny, straight, count, draw):
    """kill -9 as soon as the unfinished file of a save is seen, in a pair drawn at random."""

    def moment(run):
        seen, wanted = set(), draw.randint(1, PAIRS - 1)
        while len(seen) < wanted and run.over() is None:
            seen.update(run.temporaries())
            time.sleep(0.0002)

    return _kills(tiny, straight[0], count, moment, "kill -9 in a save")


def _kills(tiny, straight, count, moment, fault):
    tried = whole = resumed = amid = first = 0
    while tried < count:
        name = f"{fault.replace(' ', '-')}-{tried}"
        run = tiny.student(name)
        moment(run)
        if run.over() is not None:  # it was done before
            shutil.rmtree(run.folder)
            continue
        run.kill()
        tried += 1
        amid += bool(run.temporaries())
        first += not run.last.exists()
        whole += not run.last.exists() or is_whole(run)
        again = tiny.student(name)
        done = again.wait() == 0 and not again.temporaries() and same(again.tensors(), straight)
        resumed += done
        if done:
            shutil.rmtree(run.folder)
    seen = (
        f"last checkpoint complete {whole - first} times, not yet there {first} times; unfinished "
        f"file beside it {amid} times, removed by the next start; same end, bit for bit, {resumed} "
        "times"
    )
    return Row(tiny.program.name, fault, tried, min(whole, resumed), seen, "the pair in hand")
