"""Losses and gradients of the four processes on the device beside the CPU's, in float32."""

import json
import subprocess
import sys
from pathlib import Path

import numpy
import torch

from benchmarks.gpu_check import networks
from benchmarks.gpu_check.autocast import networks_in
from benchmarks.gpu_check.draws import same_everywhere
from duo_ext import host

SMALL = {"V": 64, "length": 16, "width": 64, "blocks": 2, "batch": 2}
SIZE = {"V": 2048, "length": 128, "width": 256, "blocks": 4, "batch": 8}


def run(report, setting):
    rows, failures = {}, {}
    for path in (str(host.STANDALONE), *setting.hosts):  # a process serves one tree
        told = json.dumps({"dry": setting.dry, "device": setting.device})
        command = [sys.executable, "-m", __name__, path, told]
        done = subprocess.run(command, capture_output=True, text=True)
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                row = json.loads(line)
                rows[f"{row.pop('host')}, {row.pop('process')}"] = row
        if done.returncode:
            failures[Path(path).name] = done.stderr[-2000:]
        report.note(rows=rows, failures=failures, **(_worst(rows.values()) if rows else {}))
    if failures:
        raise RuntimeError(f"no numbers of {', '.join(failures)}")


def _worst(rows):
    cosines = [row[f"{name}_cosine"] for row in rows for name in ("fake", "student")]
    differences = [row[f"{name}_loss_difference"] for row in rows for name in ("fake", "student")]
    # numpy's, to which NaN is the worst of all
    return {
        "least_cosine": numpy.min(cosines).item(),
        "largest_loss_difference": numpy.max(differences).item(),
    }


def compare(make, name, size, device):
    """Cosines and relative differences of the losses of a process on a device and on the CPU."""
    build, time_conditioning = networks.PROCESSES[name]
    process, found = build(size["V"]), {}
    config = networks.config_of(*(size[key] for key in ("V", "length", "width", "blocks")))
    network = networks.randomise(make(config, size["V"]))
    places = {"cpu": "cpu", "device": device}
    with networks_in("float32", device), same_everywhere():
        for place, kind in places.items():
            found[place] = _losses(process, network, time_conditioning, size, kind)
    row = {}
    for part, (loss, gradient) in found["cpu"].items():
        theirs, other = found["device"][part]
        row[f"{part}_cosine"] = networks.cosine(gradient, other)
        row[f"{part}_loss_difference"] = abs(theirs - loss) / abs(loss)
    return row


def _losses(process, network, time_conditioning, size, device):
    """{network: (loss, gradient)} of the same micro-batch."""
    student, fake, teacher = networks.three(network, time_conditioning)
    for part in (student, fake, teacher):
        part.backbone.to(device)
    teacher.backbone.requires_grad_(False)
    torch.manual_seed(3)
    x0_BL = torch.randint(size["V"] - 1, (size["batch"], size["length"])).to(device)
    batch = x0_BL, torch.zeros_like(x0_BL, dtype=torch.bool)
    found = {}
    for name, loss in (
        ("fake", lambda: process.fake_loss(student, fake, *batch)),
        ("student", lambda: process.student_loss(student, fake, teacher, *batch)),
    ):
        trained = {"fake": fake, "student": student}[name].backbone
        for part in (student, fake):
            part.backbone.requires_grad_(part.backbone is trained)
        torch.manual_seed(4)
        value = loss()
        value.backward()
        found[name] = value.item(), networks.gradient(trained)
    return found


def main():
    path, told = sys.argv[1], json.loads(sys.argv[2])
    tree, make = networks.tree_of(path)
    size = SMALL if told["dry"] else SIZE
    for name in networks.PROCESSES:
        if name == "gaussian" and networks.is_sedd(path):
            continue  # SEDD's network takes tokens alone
        row = compare(make, name, size, told["device"])
        print(json.dumps({"host": tree.name, "process": name, **row}), flush=True)


if __name__ == "__main__":
    main()
