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
    keys = "family", "name", "sampler", "noise_removal", "steps", "temperature"
    found = {tuple(row[key] for key in keys) for row in results["rows"]}
    names, ways = ("Duo-DCD", "IDLM-DCD"), [("host", "ancestral"), ("host", "greedy")]
    ways += [("spread", "ancestral")]
    wanted = {("Duo", n, *way, s, 1.0) for n in names for way in ways for s in (1, 2)}
    assert found >= wanted
    others = {row[-1] for row in found - wanted}  # at 2 steps by the students' sampler
    assert others == {0.7, 0.85, 0.92, 1.08}
    assert {row[:5] for row in found - wanted} == {("Duo", n, *ways[2], 2) for n in names}
    assert [d["name"] for d in results["distillations"]] == list(names)
    for entry in results["distillations"]:
        assert entry["updates"] == 2 and entry["updates_per_second"] == 2 / entry["seconds"] > 0
    assert {row["checkpoint"] for row in results["rows"]} == {
        "duo-dcd/1/checkpoints/last.ckpt", "idlm-dcd/1/checkpoints/last.ckpt"
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(results["rows"])
    table = (out / "table.md").read_text()
    assert "| Duo | IDLM-DCD (greedy) |" in table
    assert "| Duo | IDLM-DCD (spread, power:4, ancestral) |" in table
    assert (out / "figure.png").exists()


def test_what_is_sampled_of_a_method_depends_on_the_seed():
    """16 steps over temperatures and many steps are the first seed's, most greedy rows too."""
    steps = sotu32.BENCHMARK.steps
    options = argparse.Namespace(seeds=[1, 2], steps=steps, only=None, runs="runs", add=False)
    made = table.Table(sotu32.BENCHMARK, options)
    dcd, teacher = made.by_name["Duo-DCD"], made.by_name["MDLM"]
    assert list(made.parts(dcd, 1)) == [
        "few", "frontier", "greedy", "many", "many-greedy", "spread", "spread-frontier"
    ]  # fmt: skip
    assert made.parts(dcd, 2)["frontier"][:3] == ("--steps", 4, 8)
    assert made.parts(dcd, 1)["many"][:3] == ("--steps", 64, 128)
    assert made.parts(dcd, 2)["spread"] == ("--steps", 1, 2, 3, 4, 8, 16, *sotu32.JUMPS["spread"])
    assert list(made.parts(dcd, 2)) == ["few", "frontier", "greedy", "spread", "spread-frontier"]
    assert made.parts(dcd, 2)["greedy"][:3] == ("--steps", 4, 8)
    assert "many-greedy" not in made.parts(teacher, 1)
    assert made.parts(teacher, 1)["comb"][-4:] == sotu32.MASKS["comb"]
    assert "--ceiling" in made.parts(teacher, 1)["few"] and made.seeds(teacher) == [1]


def test_an_unknown_method_is_one_sentence():
    with pytest.raises(SystemExit, match="error: --only is 'GAN'; it must be of: MDLM, SDTT, IDLM"):
        sotu32.main(["--only", "GAN"])


def test_a_table_of_nothing_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match="holds no samples of any method"):
        sotu32.main(["--table", "--runs", str(tmp_path)])
