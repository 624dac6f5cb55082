"""Disks that take nothing, and checkpoints that are others."""

import os
import shlex
import shutil
import subprocess
import sys

import torch

from benchmarks.faults.row import NONE, Row, short
from benchmarks.tiny import same

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
    seen = f"exit {code}, '{short(errors, tiny)}', checkpoint {' '.join(kept) or 'lost'}; mended"
    seen += f": the same end, bit for bit, {int(held)} time"
    return Row(tiny.program.name, fault, 1, int(held), seen, "the pair in hand")


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
        seen = f"exit {code}, '{short(errors, tiny)}'"
        yield Row(tiny.program.name, fault, times, held, seen, NONE if held == times else "?")
