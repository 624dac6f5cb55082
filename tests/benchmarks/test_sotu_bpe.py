"""benchmarks.sotu_bpe at its smallest: a teacher and a student, both of them trained."""

import argparse
import json
import subprocess
import sys

import pytest

from benchmarks import sotu_bpe, sotu_bpe_cpu, table


def test_teacher_and_student_are_trained_and_become_a_table(tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks.sotu_bpe", "--only", "IDLM-MDLM", "--seeds", "2"]
    command += ["--smoke", "--samples", "2", "--steps", "1"]
    command += ["--runs", str(runs), "--output", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((out / "results.json").read_text())
    assert [(row["name"], row["sampler"]) for row in results["rows"]] == [
        ("MDLM", "host"), ("judge_bpe", "host"), ("MDLM", "spread"),
        ("MDLM", "comb"), ("IDLM-MDLM", "host"), ("IDLM-MDLM", "spread"), ("IDLM-MDLM", "comb"),
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
    options = argparse.Namespace(seeds=[4, 5, 6], steps=[1], only=None, runs="runs")
    options.add, options.smoke = False, False
    return table.Table(sotu_bpe.BENCHMARK, options)


@pytest.mark.parametrize("seed", [4, 6])
def test_a_teacher_is_trained_once_and_teaches_every_seed(full, seed):
    student, teacher = full.by_name["IDLM-Duo"], full.by_name["Duo"]
    assert full.seeds(teacher) == [4] and full.seeds(student) == [4, 5, 6]
    assert (teacher.model, student.model) == ("teacher", "student")
    arguments = full.training(student, seed)
    assert f"algo.teacher_path={full.runs}/duo/4/checkpoints/last.ckpt" in arguments
    assert f"seed={seed}" in arguments and "machine=cpu" not in arguments


@pytest.mark.parametrize(
    ("name", "added"), [("Duo", "SMOKE_TEACHER"), ("IDLM-Duo", "SMOKE_STUDENT")]
)
def test_smoke_adds_to_a_training_what_makes_it_small(full, name, added):
    method = full.by_name[name]
    plain, full.options.smoke = full.training(method, 4), True
    assert full.training(method, 4) == [*plain, *getattr(sotu_bpe, added)]


@pytest.mark.parametrize("benchmark", [sotu_bpe.BENCHMARK, sotu_bpe_cpu.BENCHMARK])
def test_both_sizes_train_their_own_experiments(benchmark):
    size = benchmark.module.removeprefix("benchmarks.")
    trained = {method.train[0].removeprefix("+experiment=") for method in benchmark.methods}
    families = ("mdlm", "idlm_mdlm", "duo", "idlm_duo")
    assert trained == {f"{size}_{family}" for family in families}
