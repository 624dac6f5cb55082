"""The published recipes at their smallest, through the user's command line."""

import json
import types

import pytest
import transformers

from benchmarks import full_size, published
from duo_ext.weights import checkpoints, pretrained
from sedd_ext import runs

TEACHERS = {recipe.teacher: recipe for recipe in full_size.RECIPES.values()}


@pytest.mark.parametrize("kind", TEACHERS)
def test_teachers_are_read_as_published_ones(standalone, kind, tmp_path):
    path = str(published.make_teacher(tmp_path, kind, published.SMALL))
    read = runs.denoiser if kind == "sedd-small" else pretrained.load
    saved = read(path, "teacher")
    network = published.random_network(published.SMALL, seed=1)
    checkpoints.check(saved, network, "teacher")
    checkpoints.load(network, saved)
    assert saved.weights[checkpoints.EMBEDDING].shape == (50258, 32)
    assert saved.config["model"]["length"] == 64
    assert (saved.average is not None) == kind.endswith(".ckpt")
    assert published.make_teacher(tmp_path, kind, published.SMALL).samefile(path)


def test_the_full_size_is_the_recipes_own(standalone):
    config = standalone.compose(["model=small"])
    assert {key: config.model[key] for key in vars(published.Shape())} == vars(published.Shape())


def test_a_recipe_is_run_resumed_and_measured(tmp_path, monkeypatch):
    """It names all that the hub would give; what is measured is not measured again."""
    arguments = ["--small", "--only", "owt_idlm_sedd"]
    arguments += ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]
    assert full_size.main(arguments) == 0
    [row] = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert row["recipe"] == "owt_idlm_sedd" and row["host"] == "standalone" and not row["error"]
    first, resumed = row["first"]["phases"], row["resumed"]["phases"]
    assert first["student update"]["times"] == 2 and resumed["student update"]["times"] == 1
    assert all(phase["peak_bytes"] > 1e8 for phase in (*first.values(), *resumed.values()))
    assert [next(iter(log)) for log in row["first"]["logs"]] == ["fake/loss", "student/loss"] * 2
    assert "| owt_idlm_sedd | standalone |" in (tmp_path / "out" / "table.md").read_text()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "runs" / "tokenizer")
    assert (len(tokenizer), tokenizer.vocab_size, tokenizer.eos_token_id) == (50257, 50257, 50256)
    assert not (tmp_path / "runs" / "owt_idlm_sedd").exists()
    monkeypatch.setattr(full_size.Runner, "run", None)
    assert full_size.main(arguments) == 0


def test_what_goes_wrong_is_in_the_row(tmp_path):
    printed = tmp_path / "printed"
    printed.write_text("error: a sentence")
    done = {"fake update": 2, "student update": 2, "look": 1, "the teacher's samples": 1, "save": 1}
    phases = {name: {"times": times} for name, times in done.items()}
    assert full_size._wrong(0, phases, "first", printed) is None
    assert "a sentence" in full_size._wrong(1, phases, "first", printed)
    assert "wanted" in full_size._wrong(0, phases | {"look": {"times": 0}}, "first", printed)
    phases.pop("save")
    assert "and a save" in full_size._wrong(0, phases, "first", printed)


def test_a_failed_row_is_a_line_of_the_table():
    row = types.SimpleNamespace(recipe="owt_idlm_mdlm", host="duo main", commit="0123456789")
    line = full_size._line(vars(row) | {"error": "first: exit code 1\nx\nerror: a sentence\n"})
    told = "first: exit code 1: error: a sentence"
    assert line == f"| owt_idlm_mdlm | duo main | 0123456 | {told} |\n"
