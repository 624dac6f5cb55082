"""benchmarks.sotu32 at its smallest: a method, what it needs, their rows and files."""

import argparse
import json
import subprocess
import sys

import pytest

from benchmarks import sotu32, table


def test_a_method_and_what_it_needs_become_a_table(tmp_path):
    """DCD from the shipped teacher, IDLM on DCD's student; a second call has nothing to do."""
    runs, out = tmp_path / "runs", tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks.sotu32", "--only", "IDLM-DCD", "--smoke"]
    command += ["--seeds", "1", "--samples", "4", "--steps", "1", "2", "--jobs", "1"]
    command += ["--runs", str(runs), "--output", str(out)]
    first, second = (subprocess.run(command, capture_output=True, text=True) for _ in range(2))
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.count("python -m duo_ext ") == 2 and second.stdout == ""
    results = json.loads((out / "results.json").read_text())
    found = {(r["family"], r["name"], r["noise_removal"], r["steps"]) for r in results["rows"]}
    names, removals = ("Duo-DCD", "IDLM-DCD"), ("ancestral", "greedy")
    assert found == {("Duo", n, r, s) for n in names for r in removals for s in (1, 2)}
    assert [d["name"] for d in results["distillations"]] == list(names)
    for entry in results["distillations"]:
        assert entry["updates"] == 2 and entry["updates_per_second"] == 2 / entry["seconds"] > 0
    assert {row["checkpoint"] for row in results["rows"]} == {
        "duo-dcd/1/checkpoints/last.ckpt", "idlm-dcd/1/checkpoints/last.ckpt"
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(results["rows"])
    assert "| Duo | IDLM-DCD (greedy) |" in (out / "table.md").read_text()
    assert (out / "figure.png").exists()


def test_what_is_sampled_of_a_method_depends_on_the_seed():
    """16 steps over temperatures and many steps are the first seed's, most greedy rows too."""
    steps = sotu32.BENCHMARK.steps
    options = argparse.Namespace(seeds=[1, 2], steps=steps, only=None, runs="runs")
    made = table.Table(sotu32.BENCHMARK, options)
    dcd, teacher = made.by_name["Duo-DCD"], made.by_name["MDLM"]
    assert list(made.parts(dcd, 1)) == ["few", "frontier", "greedy", "many", "many-greedy"]
    assert made.parts(dcd, 2)["frontier"][:4] == ("--steps", 4, 8, "--temperature")
    assert made.parts(dcd, 1)["many"] == ("--steps", 64, 128)
    assert list(made.parts(dcd, 2)) == ["few", "frontier", "greedy"]
    assert made.parts(dcd, 2)["greedy"][:4] == ("--steps", 4, 8, "--noise-removal")
    assert "many-greedy" not in made.parts(teacher, 1)
    assert "--ceiling" in made.parts(teacher, 1)["few"] and made.seeds(teacher) == [1]


def test_the_seeded_prior_has_programs_of_its_own(tmp_path, monkeypatch):
    options = argparse.Namespace(
        seeds=[1], steps=(4,), only=None, runs=str(tmp_path), samples=8, sizes=[]
    )
    made = table.Table(sotu32.BENCHMARK, options)
    student = made.by_name["IDLM-MDLM, seeded prior"]
    made.place(student, 1).mkdir(parents=True)
    called = []
    monkeypatch.setattr(made, "command", lambda place, *words: called.append(words))
    made.finish(student, 1, ("few",))
    training, sampling = called
    assert training[:3] == ("benchmarks.tries", "seeded", "+experiment=sotu_idlm_mdlm")
    assert sampling[:2] == ("benchmarks.seeded", "--student")
    assert made.by_name[student.family].model == "teacher"


def test_an_unknown_method_is_one_sentence():
    with pytest.raises(SystemExit, match="error: --only is 'GAN'; it must be of: MDLM, SDTT, IDLM"):
        sotu32.main(["--only", "GAN"])


def test_a_table_of_nothing_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match="holds no samples of any method"):
        sotu32.main(["--table", "--runs", str(tmp_path)])
