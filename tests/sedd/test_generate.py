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


REFUSED = {
    "sampler='spread', nucleus=.5": "nucleus is 0.5; with SEDD's models it must be 1",
    "sampler='host', noise_removal='greedy'": "--noise-removal is 'greedy'; it must be one of",
    "sampler='host', predictor='foo'": "--predictor is 'foo'; it must be one of analytic, euler",
    "temperature=.5": "--sampler ancestral takes one with --predictor renormalised",
}


def test_what_a_model_of_sedds_cannot_do_is_refused():
    lines = ["import sedd_ext, duo_ext"]
    lines += [f"model = sedd_ext.load_student({corpus.asset('teachers/sedd')!r}, device='cpu')"]
    for way in REFUSED:
        lines += ["try:", f"    model.sample(steps=1, {way})"]
        lines += ["except duo_ext.Refused as error:", "    print(error)"]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for sentence, told in zip(done.stdout.splitlines(), REFUSED.values(), strict=True):
        assert told in sentence
