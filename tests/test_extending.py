"""docs/extending: a family and a sampler from outside the package, a file each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from duo_ext.weights import checkpoints

EXAMPLES = Path(__file__).parents[1] / "docs" / "extending"
SAMPLED = """
import sys
import family
from duo_ext import load_student
student = load_student(sys.argv[1], device="cpu")
print(len(student.sample(3, steps=2, sampler="spread")), student.length)
print(student._subject.plain_predictor)  # Duo's MDLM takes no other
"""


def run(*words, cwd):
    command = [sys.executable, *map(str, words)]
    place = {"PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ["PYTHONPATH"]])}
    done = subprocess.run(command, cwd=cwd, env=os.environ | place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_family_of_ones_own_is_trained_and_sampled(arguments, teacher, tmp_path):
    path = teacher("mdlm")
    words = ("algo=idlm_mdlm", "algo.name=idlm_unweighted", "algo.process=unweighted")
    words += (f"algo.teacher_path={path}", "trainer.max_steps=2", "loader.num_workers=0")
    run(EXAMPLES / "family.py", *arguments(*words, "+machine=cpu"), cwd=tmp_path)
    last = f"{tmp_path}/run/checkpoints/last.ckpt"
    student, before = (checkpoints.read(p, "path")["state_dict"] for p in (last, path))
    assert not all(torch.equal(student[name], before[name]) for name in before)
    assert run("-c", SAMPLED, last, cwd=tmp_path) == "3 16\nancestral_cache\n"


def test_a_sampler_of_ones_own_is_evaluated(teacher, text_folder, tmp_path):
    words = ("--sampler", "ancestral", "guess", "--steps", "3", "--samples", "4", "--device", "cpu")
    given = ("--student", teacher("duo_base"), "--output", tmp_path / "out")
    run(EXAMPLES / "sampler.py", *given, *words, cwd=tmp_path)
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [(row["sampler"], row["evaluations"]) for row in rows] == [
        ("ancestral", 4),
        ("guess", 4),
    ]
