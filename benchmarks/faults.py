"""The faults: each is made to happen in tiny runs, and what came of it is one row of the table.

A row: program, fault, tried, held (how often the promise was kept), seen, lost.
"""

import json
import os
import pickle
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.tiny import PAIRS, furthest, same
from duo_ext.data import corpus

NONE = "nothing"


@dataclass
class Row:
    program: str
    fault: str
    tried: int
    held: int
    seen: str
    lost: str


# ------------------------------------------------------------------------------------------ kills


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
        whole += not run.last.exists() or _is_whole(run)
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


def _is_whole(run):
    try:
        run.tensors()
    except (RuntimeError, EOFError, OSError, KeyError, pickle.UnpicklingError):
        return False
    return True


# ------------------------------------------------------------------------- disks that do not take

FULL = """
mount -t tmpfs -o size={size} tmpfs {folder} || exit 77
{first} || exit 78
sha256sum {last} > {proof}
mount -o remount,{fault} {folder}
{second}; echo $? > {code}
mount -o remount,rw,size=64m {folder}
sha256sum --check --quiet {proof} && echo kept >> {code}
{second} && cp {last} {copy}
"""


def disk(tiny, straight, fault):
    """A file system of its own, made full or read-only after two pairs, later mended."""
    name = fault.replace(" ", "-")
    folder, proof = tiny.folder / name, tiny.folder / f"{name}.proof"
    folder.mkdir()
    files = {key: tiny.folder / f"{name}.{key}" for key in ("code", "copy", "printed")}
    last = folder / "run" / tiny.program.last
    pairs = f"{tiny.program.length}=2"
    words = [sys.executable, "-m", tiny.program.name]
    settings = tiny.settings(f"{name}/run", tiny.distillation())
    command = shlex.join([*words, *settings]) + f" >> {files['printed']} 2>&1"
    size = (tiny.folder / "straight" / tiny.program.last).stat().st_size
    script = FULL.format(
        size="64m", folder=folder, last=last, proof=proof, code=files["code"], copy=files["copy"],
        first=shlex.join([*words, *settings, pairs]) + " > /dev/null 2>&1", second=command,
        fault=f"size={int(1.7 * size) + 60_000}" if fault == "disk full" else "ro",
    )  # fmt: skip
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)
    if done.returncode == 77:
        return Row(tiny.program.name, fault, 0, 0, "no file system may be mounted here", "-")
    code, *kept = files["code"].read_text().split()
    errors = [x for x in files["printed"].read_text().splitlines() if x.startswith("error: ")]
    held = code == "1" and kept == ["kept"] and len(errors) == 1
    held = held and files["copy"].exists() and same(tiny.tensors(files["copy"]), straight[0])
    seen = f"exit {code}, '{_short(errors, tiny)}', checkpoint {' '.join(kept) or 'lost'}; mended"
    seen += f": the same end, bit for bit, {int(held)} time"
    return Row(tiny.program.name, fault, 1, int(held), seen, "the pair in hand")


def _short(errors, tiny):
    """The first sentence, without this machine's folders."""
    return errors[0].replace(f"{tiny.folder}/", "") if errors else "no sentence"


# --------------------------------------------------------------------- checkpoints that are others


class Foreign:
    """Made from a file it makes a folder."""

    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return os.mkdir, (self.proof,)


def wrong_checkpoints(tiny, draw):
    """The last checkpoint replaced: what the next start says, and whether it left it alone."""
    good = tiny.folder / "straight" / tiny.program.last
    proof = tiny.folder / "proof"
    whole = torch.load(good, weights_only=True)

    def saved(change):
        return lambda path: torch.save(change, path)

    def cut(path):
        content = good.read_bytes()
        path.write_bytes(content[: draw.randrange(1, len(content) - 1)])

    newer = whole | {"idlm": whole["idlm"] | {"format": 99}}
    host = {key: value for key, value in whole.items() if key != "idlm"}
    cases = {
        "checkpoint cut short": (cut, "it is damaged", 5),
        "pickle with code as a checkpoint": (saved({"x": Foreign(proof)}), "could run code", 1),
        "checkpoint of another run": (lambda path: shutil.copy(good, path), "another run", 1),
        "checkpoint of no distillation": (saved(host), "nothing of ours", 1),
        "checkpoint of a newer format": (saved(newer), "format 99, written by a newer version", 1),
    }
    for fault, (write, wanted, times) in cases.items():
        held = 0
        for time_ in range(times):
            name = f"{fault.replace(' ', '-')}-{time_}"
            last = tiny.folder / name / tiny.program.last
            last.parent.mkdir(parents=True)
            write(last)
            before = last.read_bytes()
            run = tiny.student(name, *(["seed=2"] if fault == "checkpoint of another run" else []))
            code, errors = run.wait(), run.errors()
            sentence = len(errors) == 1 and wanted in errors[0]
            held += code == 1 and sentence and last.read_bytes() == before and not proof.exists()
        seen = f"exit {code}, '{_short(errors, tiny)}'"
        yield Row(tiny.program.name, fault, times, held, seen, NONE if held == times else "?")


# -------------------------------------------------------------------------------- two processes


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
            f"largest difference {apart:.1e}" if done else f"refused: {_short(run.errors(), tiny)}"
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
        held += seconds < 60 and told and run.over() != 0 and _is_whole(run)
        slowest, said = max(slowest, seconds), said | {_short(run.errors(), tiny)}
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
    kept = _is_whole(run)
    again = tiny.together(name)
    done = again.wait() == 0 and furthest(again.tensors(), straight[0]) < 1e-5
    held = ended not in (None, 0) and len(told) == 1 and kept and done
    seen = f"'{_short(sorted(told), tiny)}' from both; resumed to the same end"
    what = f"loss of rank {rank} of two is nan in update {update}"
    return Row(tiny.program.name, what, 1, int(held), seen, "nothing before that update")


# ------------------------------------------------------------------ a scheduler, other runs, caches

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
    said = " or ".join(f"'{_short([sentence], tiny)}'" for sentence in sorted(said))
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


def all_of(tiny, kills, seed, alone=False):
    """The rows of one program; ``alone``: those of kills of one process."""
    draw = random.Random(seed)
    straight = tiny.straight()
    yield kill_at_random(tiny, straight, kills, draw)
    yield kill_while_saving(tiny, straight, -(-kills // 3), draw)
    if alone:
        return
    yield from wrong_checkpoints(tiny, draw)
    for fault in ("disk full", "read-only folder"):
        yield disk(tiny, straight, fault)
    yield from two_processes(tiny, straight)
    for rank in (0, 1):
        yield lost_rank(tiny, rank)
    for rank, update in ((0, 5), (1, 6)):
        yield not_finite(tiny, straight, rank, update)
    yield requeued(tiny, straight, -(-kills // 3), draw)
    yield swept(tiny, straight)
    yield in_one_folder(tiny, straight)
    yield one_cache(tiny)
