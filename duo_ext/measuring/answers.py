"""Answers that are programs: they run in a process of their own, with limits, and give a number.

A model's text may be anything, a loop without end or an attempt to read a file. So its syntax is
looked at first (no imports, no names that begin with an underscore, a few builtins), and it runs
with a limit of seconds and of memory, without files and without processes.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import tqdm

WORKER = Path(__file__).with_name("answering.py")


def values(
    programs: Iterable[str], call: str | None = None, seconds: float = 5.0, megabytes: int = 256
) -> list[int | float | None]:
    """The number that each program gives: an expression its value or, with ``call``, a program the
    value of a call of the function of that name. None where it gives no finite number in time."""
    programs = list(programs)
    told = [
        {"program": p, "call": call, "seconds": seconds, "megabytes": megabytes} for p in programs
    ]
    command = [sys.executable, "-I", "-S", str(WORKER)]
    lines = "".join(json.dumps(one) + "\n" for one in told)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={}
    ) as worker:
        try:
            return [
                _asked(worker, line)
                for line in tqdm.tqdm(lines.splitlines(), "answers", disable=len(told) < 100)
            ]
        finally:
            worker.stdin.close()


def _asked(worker, line):
    worker.stdin.write(line + "\n")
    worker.stdin.flush()
    return json.loads(worker.stdout.readline())


def right(found: int | float | None, wanted: int | float) -> bool:
    """Whether a value is the wanted one: whole numbers exactly, others to 1e-3."""
    if found is None:
        return False
    whole = float(found).is_integer() and float(wanted).is_integer()
    return found == wanted if whole else abs(found - wanted) <= 1e-3
