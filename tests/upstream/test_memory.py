"""Every experiment fits its GPU as the real checkouts compose it."""

import subprocess
import sys

import pytest

ROOTS = ("duo ch-1", "duo main", "sedd")


@pytest.mark.parametrize("name", ROOTS)
def test_every_experiment_fits(checkouts, name):
    variable, root = checkouts[name]
    if not root:
        pytest.skip(f"{variable} names no checkout of {name}")
    command = [sys.executable, "-m", "benchmarks.memory", "--host", root]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    wanted = "| owt_idlm_sedd | look |" if name == "sedd" else "| owt_idlm_duo | look |"
    assert wanted in done.stdout
