"""The user's command lines under the stopwatch, at the published size or small."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy

from benchmarks import published
from duo_ext import host
from duo_ext.data import corpus

SMALL_BATCH = ("loader.global_batch_size=4", "loader.batch_size=2", "loader.eval_batch_size=2")


class Lines:
    """Makes teachers and texts in a folder, and runs commands that use them."""

    def __init__(self, setting):
        self.setting, self.folder = setting, Path(setting.runs)
        self.shape = published.SMALL if setting.dry else published.Shape()
        host.find(host.STANDALONE).activate()
        corpus.register_resolvers()
        self.common = published.make_common(self.folder, published.FEW if setting.dry else None)

    @property
    def machine(self):
        return "+machine=cpu" if self.setting.dry else "+machine=gpu"

    def published(self, experiment, teacher, name, *words):
        """The words of a published experiment in a fresh folder ``name``, in this folder."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        paths = self.common | {"folder": self.folder}
        paths["teacher"] = published.make_teacher(self.folder, teacher, self.shape)
        own = [word.format(**paths) for word in published.DUO_PATHS]
        small = [*SMALL_BATCH, *self.shape.words] if self.setting.dry else []
        return [f"+experiment={experiment}", *own, self.machine, *words, *small, self.run_dir(name)]

    def run_dir(self, name):
        return f"hydra.run.dir={self.folder / name}"

    def start(self, laps, words, before=(), program="duo_ext"):
        """Begin a command; ``before``: what stands before the module, as torchrun's words."""
        self.laps_file = self.folder / f"{laps}.jsonl"
        self.laps_file.unlink(missing_ok=True)
        command = ["-m", *before, "benchmarks.stopwatch", str(self.laps_file), program, *words]
        print("python", *command, flush=True)
        return subprocess.Popen([sys.executable, *command], env=os.environ)

    def run(self, laps, words, before=(), program="duo_ext"):
        """The laps of a command, which must end well."""
        code = self.start(laps, words, before, program).wait()
        if code:
            raise RuntimeError(f"{laps}: exit code {code}")
        return self.laps()

    def laps(self):
        """What the stopwatch has written so far."""
        if not self.laps_file.exists():
            return []
        lines = self.laps_file.read_text().split("\n")[:-1]  # the last one may not be whole
        return [json.loads(line) for line in lines]

    def interrupt(self, laps, words):
        """The laps of a command that gets SIGTERM once its first pair is done."""
        process = self.start(laps, words)
        while process.poll() is None and not pairs(self.laps()):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.wait()
        return self.laps()


def updates(laps):
    """The logs of all updates."""
    return [lap["logs"] for lap in laps if lap["logs"] is not None]


def pairs(laps):
    """Seconds of each pair, all between the end of one and that of the next; of the first, from
    its first micro-batch. Looks and saves are left out."""
    found, seconds = [], None
    for lap in laps:
        work = lap["phase"].endswith(" update")
        if seconds is None and not work:
            continue
        if work or lap["phase"] == "rest":
            seconds = (seconds or 0.0) + lap["seconds"]
        if lap["logs"] and "student/loss" in lap["logs"]:
            found.append(seconds)
            seconds = 0.0
    return found


def furthest(ours, theirs):
    """The largest relative difference of two lists of logs; infinite if they are not alike."""
    if [log.keys() for log in ours] != [log.keys() for log in theirs]:
        return float("inf")
    values = ((a[key], b[key]) for a, b in zip(ours, theirs, strict=True) for key in a)
    differences = [abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in values]
    return numpy.max(differences).item() if differences else float("inf")  # NaN where there is one
