"""Items of a check: each is run in a process of its own, within its seconds, and kept as JSON."""

import contextlib
import dataclasses
import json
import operator
import os
import signal
import subprocess
import sys
import time
import traceback
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TAIL = 3000  # characters of what a failed item printed
TESTS = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}


@dataclasses.dataclass(frozen=True)
class Bound:
    """What a value must be. One that is a matter of size or speed is not checked ``dry``."""

    key: str
    test: str
    limit: object
    dry: bool = False

    def check(self, values):
        """{bound, value, held}; a value that was not measured does not hold."""
        value = values.get(self.key)
        held = value is not None and TESTS[self.test](value, self.limit)
        return {"bound": f"{self.key} {self.test} {self.limit}", "value": value, "held": held}


@dataclasses.dataclass(frozen=True)
class Item:
    """``function`` is "module:name" of a function (report, setting) that measures."""

    name: str
    function: str
    seconds: int
    bounds: tuple = ()


@dataclasses.dataclass(frozen=True)
class Setting:
    """What every item is told: the size, the folder for what is made on the way, other trees, the
    folder of the demo's students, how many times its seconds an item has."""

    dry: bool
    runs: str
    hosts: tuple = ()
    students: str = "runs"
    patience: float = 1

    @property
    def device(self):
        return "cpu" if self.dry else "cuda"

    def limit(self, item):
        """The seconds that an item has."""
        return item.seconds * self.patience


class Report:
    """Keeps what an item has measured so far in a file."""

    def __init__(self, path):
        self.path, self.values = Path(path), {}

    def note(self, **values):
        self.values |= values
        write_json(self.path, {"values": self.values})


def write_json(path, content):
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1, default=str) + "\n")
    temporary.replace(path)


# in the process of the check -------------------------------------------------------------------


def run(items, setting, output, environment=()):
    """Run the items, one after the other; whether all of them ended and held their bounds."""
    held = []
    for item in items:
        print(f"{item.name} ({setting.limit(item)} s at most) ...", flush=True)
        found = run_item(item, setting, Path(output), dict(environment))
        print(summary(found), flush=True)
        held.append(found["held"])
    print(f"{sum(held)} of {len(held)} items passed: {output}")
    return all(held)


def run_item(item, setting, output, environment):
    """Run an item, and write and return what came of it."""
    path, printed = output / f"{item.name}.json", Path(setting.runs) / f"{item.name}.printed"
    printed.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    start = time.perf_counter()
    error = _in_process(item, setting, path, printed, os.environ | environment)
    found = json.loads(path.read_text()) if path.exists() else {"values": {}}
    bounds = [bound for bound in item.bounds if bound.dry or not setting.dry]
    checks = [bound.check(found["values"]) for bound in bounds]
    content = {
        "item": item.name,
        "held": error is None and all(check["held"] for check in checks),
        "error": error,
        "checks": checks,
        "seconds": round(time.perf_counter() - start, 1),
        "limit": setting.limit(item),
        "dry": setting.dry,
        "made": _made(setting),
        **found,
    }
    write_json(path, content)
    return content


def _in_process(item, setting, path, printed, environment):
    """Why an item failed, or None."""
    told = json.dumps(dataclasses.asdict(setting))
    command = [sys.executable, "-m", "benchmarks.gpu_check.child", item.function, str(path), told]
    with printed.open("wb") as file:
        streams = {"stdout": file, "stderr": subprocess.STDOUT, "start_new_session": True}
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, **streams)
        try:
            code = process.wait(setting.limit(item))
        except subprocess.TimeoutExpired:
            code = f"more than its {setting.limit(item)} seconds"
        finally:  # what it has started as well
            _kill(process)
    if code == 0:
        return None
    return f"{code}: {printed.read_text(errors='replace')[-TAIL:]}"


def _kill(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _made(setting):
    import torch

    device = torch.cuda.get_device_name() if setting.device == "cuda" else "cpu"
    return {"device": device, "torch": torch.__version__, "python": sys.version.split()[0]}


def summary(found):
    """A line for an item, and one for each bound."""
    state = "passed" if found["held"] else "FAILED"
    lines = [f"  {state} in {found['seconds']} s"]
    lines += [f"  {'held' if c['held'] else 'MISSED'}: {c['bound']}: {c['value']}"
              for c in found["checks"]]  # fmt: skip
    if found["error"]:
        lines.append(f"  {found['error'].strip().splitlines()[-1][:300]}")
    return "\n".join(lines)


def unpack(wheels, folder):
    """Put the pure Python wheels of a folder where Python finds them; the folder of them."""
    for wheel in sorted(Path(wheels).glob("*.whl")):
        with zipfile.ZipFile(wheel) as file:
            file.extractall(folder)
    return str(Path(folder).absolute())


# in the process of an item ---------------------------------------------------------------------


def child(function, path, told):
    """Run an item's function; its exit code."""
    import importlib

    module, _, name = function.partition(":")
    report, setting = Report(path), json.loads(told)
    setting["hosts"] = tuple(setting["hosts"])
    try:
        getattr(importlib.import_module(module), name)(report, Setting(**setting))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
