"""benchmarks.looks: the histories of guards side by side."""

import json

import pytest
import torch

from benchmarks import looks


def look(pair, **rows):
    row = {"entropy": 2.8, "unigram_kl": 0.01, "bigram_tv": 0.1}
    return {"pair": pair, "rows": {steps: row | {"genppl": ppl} for steps, ppl in rows.items()}}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """``make(name, looks, variant)``: a run folder with what is read of it."""
    monkeypatch.chdir(tmp_path)

    def folder(name, history, **run):
        path = tmp_path / "runs" / name
        (path / ".hydra").mkdir(parents=True)
        (path / "checkpoints").mkdir()
        (path / ".hydra" / "overrides.yaml").write_text(f"- +experiment=any\n- path={tmp_path}/x\n")
        saved = {"state_dict": {}, "idlm": {"run": run}}
        torch.save(saved, path / "checkpoints" / "last.ckpt")
        teacher = history[0]["rows"]["4"] | {"genppl": 13.0}
        guard = {"teacher": teacher, "kept": history[0]["pair"], "history": history}
        (path / "guard.json").write_text(json.dumps(guard))
        return f"runs/{name}"

    return folder


def test_runs_stand_side_by_side(make, tmp_path, capsys):
    one = make("plain", [look(40, **{"4": 20.0}), look(80, **{"4": 19.0})])
    other = make("grid", [look(80, **{"4": 18.0})], variant="grid")
    looks.main([one, other, "--output", "out"])
    table = (tmp_path / "out" / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert "| run | steps | 40 | 80 |" in table and "13.0 / 2.80 / 0.010." in table
    assert "| runs/plain | 4 | 20.0 / 2.80 / 0.010 | 19.0 / 2.80 / 0.010 |" in table
    assert "| runs/grid | 4 |  | 18.0 / 2.80 / 0.010 |" in table
    assert "- runs/plain: `python -m duo_ext +experiment=any path=$PWD/x`" in table
    assert "- runs/grid: `python -m benchmarks.tries grid +experiment=any path=$PWD/x`" in table
    saved = json.loads((tmp_path / "out" / "results.json").read_text())
    assert saved["runs"][0]["looks"]["40"]["4"]["genppl"] == 20.0
    assert (tmp_path / "out" / "figure.png").exists()


def test_a_run_without_a_guard_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match=r"guard.json does not exist; a distillation with algo"):
        looks.main([str(tmp_path), "--output", str(tmp_path / "out")])
