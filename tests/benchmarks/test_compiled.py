"""benchmarks.compiled at a size that takes no time, without the compiler."""

import json

from benchmarks import compiled
from duo_ext.core import losses


def test_each_form_has_a_row(monkeypatch, tmp_path):
    monkeypatch.setattr(losses, "compiled", lambda form: form)
    monkeypatch.setattr(compiled, "keep_memory", lambda: "as it was")
    compiled.main(["--rows=4", "--vocabulary=50", f"--output={tmp_path}"])
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["loss"] for row in rows] == list(compiled.FORMS)
    assert all(row["bytes"] > 16 and row["ms"] > 0 and row["ms_compiled"] > 0 for row in rows)
    assert "| uniform_ratio | " in (tmp_path / "table.md").read_text()
