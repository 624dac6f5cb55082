"""``sedd_ext.generate``: the shared program on a model of SEDD's."""

import json
import subprocess
import sys

import pytest

from duo_ext.data import corpus


@pytest.mark.parametrize(
    "kind, given", [("prompt", "we the people"), ("infill", "we the ___ of america")]
)
def test_what_is_given_is_kept(kind, given):
    """In a process of its own: this one serves a tree of Duo's."""
    words = ("--device=cpu", "--steps=2", "--samples=2", "--json")
    model = corpus.asset("teachers/sedd")
    command = [sys.executable, "-m", "sedd_ext.generate", model, f"--{kind}", given, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({row["text"] for row in rows}) == 2
    before, _, after = given.partition("___")
    for row in rows:
        assert row["text"].startswith(before) and row["text"].endswith(after)
