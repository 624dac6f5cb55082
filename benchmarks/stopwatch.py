"""Seconds and peak memory of a run's phases: python -m benchmarks.stopwatch FILE PROGRAM WORD ...

Is ``python -m PROGRAM WORD ...``, of duo_ext or sedd_ext, and writes a line of JSON to FILE at the
end of each phase: a micro-batch, a measurement of the teacher, a look at the student, a save, and
what lies between them. Peak memory is resource.getrusage's, which Linux lets begin anew at each
phase; elsewhere it is the largest so far. On a GPU the most that torch has allocated there is told
too.
"""

import functools
import json
import resource
import runpy
import sys
import time
from contextlib import suppress

SETUP, REST, SAVE = "set-up", "rest", "save"
TEACHER, LOOK = "the teacher's samples", "look"


class Stopwatch:
    """Writes {"phase", "seconds", "cpu_seconds", "peak_bytes", "gpu_bytes", "logs"} of each phase
    as it ends."""

    def __init__(self, file):
        self.file, self.start = file, _clocks()
        _forget_peak()

    def lap(self, phase, logs=None):
        """End a phase, which began where the one before ended."""
        seconds, cpu = (now - then for now, then in zip(_clocks(), self.start, strict=True))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        row = {"phase": phase, "seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak}
        row |= {"gpu_bytes": _gpu_peak(), "logs": logs}
        print(json.dumps(row), file=self.file, flush=True)
        _forget_peak()
        self.start = _clocks()

    def watch(self, owner, name, phase):
        """Let each call of owner.name be a phase, which ``phase(object)`` names before it."""
        call = getattr(owner, name)

        @functools.wraps(call)
        def timed(this, *arguments, **settings):
            named = phase(this)
            self.lap(REST)
            done = call(this, *arguments, **settings)
            self.lap(named, getattr(done, "logs", None))
            return done

        setattr(owner, name, timed)

    def watch_all(self):
        """Put the watch on what a program is made of, once it makes a Distiller: by then it has
        imported all, with its remedies for this machine before."""
        from duo_ext.core.distiller import Distiller

        make = Distiller.__init__

        @functools.wraps(make)
        def made(this, *arguments, **settings):
            Distiller.__init__ = make
            self._watch_imported()
            make(this, *arguments, **settings)

        Distiller.__init__ = made

    def _watch_imported(self):
        self.lap(SETUP)
        distiller, guard = (
            sys.modules["duo_ext.core.distiller"],
            sys.modules["duo_ext.training.guard"],
        )
        self.watch(distiller.Distiller, "step", lambda this: f"{' and '.join(this.phase)} update")
        self.watch(guard.Watch, "begin", lambda this: TEACHER)
        self.watch(guard.Watch, "look", lambda this: LOOK)
        if "sedd_ext.train" in sys.modules:
            self.watch(sys.modules["sedd_ext.train"].Run, "save", lambda this: SAVE)
        else:
            self.watch(sys.modules["lightning"].Trainer, "save_checkpoint", lambda this: SAVE)


def _clocks():
    """Seconds on the wall, and of this process's threads."""
    return time.perf_counter(), time.process_time()


def _forget_peak():
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _gpu_peak():
    """The most of a GPU since this was asked before; None where torch uses none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return peak


def main():
    path, program, *words = sys.argv[1:]
    sys.argv = [program, *words]
    with open(path, "w") as file:
        stopwatch = Stopwatch(file)
        stopwatch.watch_all()
        try:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        finally:
            stopwatch.lap(REST)


if __name__ == "__main__":
    main()
