"""benchmarks.survival: killed runs end as the one that was not; the table that it writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from duo_ext.hosting import trees

pytest.importorskip("fcntl", reason="runs are forked")


def test_two_killed_runs_end_as_the_undisturbed_one(tmp_path):
    """One kill at a random moment and one in a save, and a table that says so."""
    command = [sys.executable, "-m", "benchmarks.survival", "--programs", "duo_ext"]
    options = ["--kills", "1", "--kills-alone", "--output", f"{tmp_path}/found"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, *options], cwd=trees.REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = json.loads((tmp_path / "found" / "results.json").read_text())["rows"]
    assert [row["fault"] for row in rows] == ["kill -9 at a random moment", "kill -9 in a save"]
    assert all(row["tried"] == row["held"] == 1 for row in rows)
    table = (tmp_path / "found.md").read_text()
    assert "| duo_ext | kill -9 in a save | 1 | 1 | last checkpoint complete " in table


def test_a_run_that_ends_elsewhere_is_not_the_same():
    sys.path.insert(0, str(trees.REPOSITORY))
    try:
        from benchmarks.tiny import furthest, same
    finally:
        sys.path.remove(str(trees.REPOSITORY))
    ours = [torch.zeros(3), torch.ones(2)]
    theirs = [torch.zeros(3), torch.tensor([1.0, 1.0 + 1e-7])]
    assert same(ours, ours) and not same(ours, theirs) and not same(ours, ours[:1])
    assert 0 < furthest(ours, theirs) < 2e-7


def test_the_shipped_table_is_that_of_the_shipped_numbers():
    results = json.loads(Path(trees.REPOSITORY, "results/reliability/results.json").read_text())
    table = Path(trees.REPOSITORY, "results/reliability.md").read_text()
    for row in results["rows"]:
        assert f"| {row['program']} | {row['fault']} | {row['tried']} | {row['held']} |" in table
