"""benchmarks.sotu_bpe at its smallest: a teacher and a student, both of them trained."""

import argparse
import json
import subprocess
import sys

import pytest

from benchmarks import sotu_bpe, table


def test_teacher_and_student_are_trained_and_become_a_table(tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks.sotu_bpe", "--only", "IDLM-MDLM", "--seeds", "2"]
    command += ["--tenth", "--smoke", "--samples", "2", "--steps", "1"]
    command += ["--runs", str(runs), "--output", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((out / "results.json").read_text())
    assert [(row["model"], row["name"]) for row in results["rows"]] == [
        ("teacher", "MDLM"), ("judge", "judge_bpe"), ("student", "IDLM-MDLM")
    ]  # fmt: skip
    assert [(d["name"], d["updates"]) for d in results["distillations"]] == [
        ("MDLM", 2), ("IDLM-MDLM", 2)
    ]  # fmt: skip
    assert results["data"]["length"] == 256 and "| MDLM | 1 | 2 |" in (out / "table.md").read_text()
    looks = json.loads((runs / "idlm-mdlm" / "2" / "guard.json").read_text())["history"]
    assert [look["pair"] for look in looks] == [1, 2]


@pytest.fixture
def full():
    """The table of the whole benchmark, with three seeds."""
    options = argparse.Namespace(seeds=[4, 5, 6], steps=[1], only=None, runs="runs", sizes=[])
    options.add = False
    return table.Table(sotu_bpe.BENCHMARK, options)


@pytest.mark.parametrize("seed", [4, 6])
def test_a_teacher_is_trained_once_and_teaches_every_seed(full, seed):
    student, teacher = full.by_name["IDLM-Duo"], full.by_name["Duo"]
    assert full.seeds(teacher) == [4] and full.seeds(student) == [4, 5, 6]
    assert (teacher.model, student.model) == ("teacher", "student")
    arguments = full.training(student, seed)
    assert f"algo.teacher_path={full.runs}/duo/4/checkpoints/last.ckpt" in arguments
    assert f"seed={seed}" in arguments and "machine=cpu" not in arguments


def test_sizes_add_to_a_training_in_their_order(full):
    full.options.sizes = ["smoke", "tenth"]
    added = list(full.smaller("sotu_bpe_duo", "duo_ext"))
    assert added == [*sotu_bpe.TENTH["sotu_bpe_duo"], *sotu_bpe.SMOKE["sotu_bpe_duo"]]
    assert list(full.smaller("sotu_bpe_idlm_duo", "duo_ext"))[-1] == "algo.guard.teacher_steps=2"
