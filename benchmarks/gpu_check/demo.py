"""The demo's teachers and students, sampled in float32 and in bf16, beside results/demo.

Students are taken where the setting's folder has demo-mdlm and demo-duo, as make demo leaves them:
checkpoints/best.ckpt or the folder that duo_ext.export makes of it; the teachers are shipped.
"""

import json
import math
from pathlib import Path

import numpy

from benchmarks.gpu_check.autocast import networks_in
from benchmarks.gpu_check.harness import REPOSITORY
from duo_ext import Refused, evaluate, host
from duo_ext.commands import evaluation
from duo_ext.data import corpus

NAMES = ("mdlm", "duo")
PRECISIONS = ("float32", "bf16")
STEPS, SAMPLES = (4, 16), 256
DRY_STEPS, DRY_SAMPLES = (1,), 8


def run(report, setting):
    tree = host.find(host.STANDALONE).activate()
    corpus.register_resolvers()
    steps, samples = (DRY_STEPS, DRY_SAMPLES) if setting.dry else (STEPS, SAMPLES)
    rows = []
    for role, name, path in subjects(setting.students):
        given = [f"--{role}", path, "--steps", *map(str, steps), "--samples", str(samples)]
        given += ["--device", setting.device, "--output", f"{setting.runs}/demo"]
        options = evaluation.parse(evaluate.SIDE, given)
        for precision in PRECISIONS:
            with networks_in(precision, setting.device):
                results, _ = evaluation.evaluate(evaluate.SIDE, tree, options)
            about = {"role": role, "name": name, "precision": precision}
            rows += [_beside(about, found) for found in results["rows"]]
            report.note(rows=rows, **_furthest(rows))


def subjects(students):
    """(role, name, path) of the shipped teachers and of the students that are there."""
    found = [("teacher", name, f"${{idlm_asset:teachers/{name}.ckpt}}") for name in NAMES]
    for name in NAMES:
        folder = Path(students) / f"demo-{name}"
        best = folder / "checkpoints" / "best.ckpt"
        if best.exists() or (folder / "config.json").exists():
            found.append(("student", name, str(best if best.exists() else folder)))
    return found


def recorded(role, name, found):
    """The row of results/demo that was sampled in the same way; Refused where it has none."""
    path = REPOSITORY / "results" / "demo" / name / "results.json"
    rows = json.loads(path.read_text())["rows"]
    same = {"model": role} | {key: found[key] for key in ("steps", "sampler")}
    alike = [row for row in rows if same.items() <= row.items()]
    if not alike:
        raise Refused(
            f"results/demo/{name} has no row of the {role} in {found['steps']} steps by "
            f"{found['sampler']}; make it anew: make demo TEACHER={name}"
        )
    return alike[0]


def _beside(row, found):
    before = recorded(row["role"], row["name"], found)
    keys = ("genppl", "genppl_low", "genppl_high", "entropy", "unigram_kl")
    row = row | {"steps": found["steps"], "seconds": found["seconds"]}
    row |= {key: found[key] for key in keys} | {f"recorded_{key}": before[key] for key in keys}
    row["log_ratio"] = math.log(found["genppl"] / before["genppl"])
    return row | {"entropy_difference": found["entropy"] - before["entropy"]}


def _furthest(rows):
    """Of the float32 rows, the largest |log of the GenPPLs' ratio| and difference of entropies."""
    rows = [row for row in rows if row["precision"] == "float32"]
    return {
        f"furthest_{name}": numpy.abs([row[key] for row in rows]).max().item()
        for name, key in (("genppl", "log_ratio"), ("entropy", "entropy_difference"))
    }
