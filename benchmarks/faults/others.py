"""A scheduler, a sweep, another run in the same folder, another tokenizer in the same cache."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

from benchmarks.faults.row import NONE, Row, short
from benchmarks.tiny import same
from duo_ext.data import corpus

SCONTROL = """#!/bin/sh
echo "$@" >> {called}
"""
JOB = {"JOB_ID": 7, "JOB_NAME": "distil", "NTASKS": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0}


def requeued(tiny, straight, count, draw):
    """SIGUSR1 as SLURM sends it before a job's time is up, kill -9 when it is; the same command."""
    tensors, seconds = straight
    called, program = tiny.folder / "called", tiny.folder / "slurm" / "scontrol"
    program.parent.mkdir()
    program.write_text(SCONTROL.format(called=called))
    program.chmod(0o755)
    job = {f"SLURM_{name}": str(value) for name, value in JOB.items()}
    job["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    tried = same_end = by_itself = 0
    while tried < count:
        run = tiny.student(f"requeued-{tried}", environment=job)
        run.wait_for_save()
        time.sleep(draw.uniform(0, seconds))
        if run.over() is not None:  # it was done before
            shutil.rmtree(run.folder)
            continue
        os.kill(run.pid, signal.SIGUSR1)
        time.sleep(draw.choice((0.0, 1.0)))
        by_itself += run.over() is not None
        if run.over() is None:
            run.kill()
        again = tiny.student(f"requeued-{tried}", environment=job)
        same_end += again.wait() == 0 and same(again.tensors(), tensors)
        tried += 1
    asked = called.read_text().splitlines() if called.exists() else []
    others = list(tiny.folder.glob("requeued-*/**/hpc_ckpt*"))
    held = same_end if len(asked) >= by_itself and {*asked} <= {"requeue 7"} and not others else 0
    seen = (
        f"saved and queued again before the kill {by_itself} times; same end, bit for bit, "
        f"{same_end} times"
    )
    return Row(tiny.program.name, "SLURM's SIGUSR1, then kill -9", tried, held, seen, NONE)


def swept(tiny, straight):
    """Two seeds as a Hydra sweep: each run has a folder and an end of its own."""
    alone = tiny.student("seed-2", "seed=2")
    assert alone.wait() == 0, alone.printed()
    place = tiny.folder / "swept"
    run = tiny.student("sweep", "seed=1,2", f"hydra.sweep.dir={place}", "-m")
    done = run.wait() == 0
    ends = [place / str(job) / tiny.program.last for job in (0, 1)]
    wanted = (straight[0], alone.tensors())
    held = done and all(
        end.exists() and same(tiny.tensors(end), tensors)
        for end, tensors in zip(ends, wanted, strict=True)
    )
    seen = f"the end that each seed has alone, bit for bit, {2 * held} times"
    return Row(tiny.program.name, "two seeds as one sweep", 2, 2 * held, seen, NONE)


def in_one_folder(tiny, straight, times=3):
    """Two runs are started together in one folder: one goes on as if alone, one is refused."""
    held, said = 0, set()
    for time_ in range(times):
        runs = [tiny.student(f"together-{time_}") for _ in range(2)]
        runs[1].output = runs[0].output  # both write there
        codes = sorted(run.wait() for run in runs)
        errors = runs[0].errors()
        said.update(re.sub(r"process \d+ on \S+", "process N on HOST", e) for e in errors)
        told = len(errors) == 1 and "is at work there" in errors[0]
        held += codes == [0, 1] and told and same(runs[0].tensors(), straight[0])
    said = " or ".join(f"'{short([sentence], tiny)}'" for sentence in sorted(said))
    seen = f"one ends as if alone, bit for bit; the other: {said}"
    return Row(
        tiny.program.name, "two runs started together in one folder", times, held, seen, NONE
    )


EXCHANGED = str.maketrans("dgjlmpsyz", "gjlmpsyzd")


def one_cache(tiny):
    """Two tokenizers with one data.cache_dir; their vocabularies differ in the order of a few
    letters alone."""
    source, other = Path(corpus.asset("tokenizers/sotu32")), tiny.folder / "exchanged"
    shutil.copytree(source, other)
    described = json.loads((source / "tokenizer.json").read_text())
    vocabulary = described["model"]["vocab"]
    described["model"]["vocab"] = {w.translate(EXCHANGED): id_ for w, id_ in vocabulary.items()}
    (other / "tokenizer.json").write_text(json.dumps(described))
    own = f"{tiny.program.tokenizer}={other}"
    runs = [
        tiny.student(name, own, f"data.cache_dir={tiny.folder / cache}")
        for name, cache in (("own-cache", "own"), ("one-cache", "tokens"))
    ]
    held = [run.wait() for run in runs] == [0, 0] and same(*(run.tensors() for run in runs))
    seen = f"the second one's end is that with a cache of its own, bit for bit, {held:d} time"
    fault = "two tokenizers with one data.cache_dir"
    return Row(tiny.program.name, fault, 1, int(held), seen, NONE)
