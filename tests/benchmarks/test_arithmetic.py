"""benchmarks.arithmetic: what its table says of rows, and a whole run at its smallest."""

import argparse
import json

import pytest

from benchmarks import arithmetic


def row(name, steps, accuracy, seed, sampler="spread", grid="host"):
    ends = {"accuracy_low": accuracy - 0.1, "accuracy_high": accuracy + 0.1}
    where = {"name": name, "sampler": sampler, "grid": grid, "steps": steps}
    return where | ends | {"accuracy": accuracy, "distillation_seed": seed, "model": "student"}


def test_shares_are_of_a_model_a_sampler_and_a_number_of_steps():
    rows = [row("Duo", 4, 0.5, 1, grid="power:2.2"), row("Duo", 4, 0.5, 1, "ancestral")]
    rows += [row("IDLM-Duo", 4, share, seed) for seed, share in enumerate((0.5, 0.6, 0.7))]
    found = arithmetic.shares(rows)
    names = [("Duo", "spread, power:2.2"), ("Duo", "ancestral"), ("IDLM-Duo", "spread")]
    assert list(found) == names
    assert arithmetic.cell(found["Duo", "ancestral"][4]) == "50.0 [40.0, 60.0]"
    assert arithmetic.cell(found["IDLM-Duo", "spread"][4]) == "60.0 [50.0, 70.0]"
    assert arithmetic.cell(found["IDLM-Duo", "spread"].get(8)) == ""


@pytest.mark.parametrize("family", arithmetic.SAMPLERS)
def test_every_model_is_asked_on_the_test(tmp_path, family):
    options = {"only": None, "runs": tmp_path, "steps": arithmetic.STEPS, "add": False}
    options = argparse.Namespace(**options)
    table = arithmetic.Answers(arithmetic.BENCHMARK, options)
    teacher, student = (m for m in table.methods if m.family == family)
    for method, most in ((teacher, 64), (student, 16)):
        parts = table.parts(method, 1)
        assert list(parts) == list(arithmetic.SAMPLERS[family])
        for words in parts.values():
            assert words[-1] == arithmetic.TEST
            steps = [word for word in words if isinstance(word, int)]
            assert steps[-1] == most
    assert json.dumps(table.parts(student, 1)) == json.dumps(table.parts(student, 2))
