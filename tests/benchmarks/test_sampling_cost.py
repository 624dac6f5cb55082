"""benchmarks.sampling_cost at a size that takes seconds."""

import json

from benchmarks import sampling_cost
from duo_ext.core.samplers import OF_MASKS, SAMPLERS


def test_all_samplers_of_both_families_are_measured(monkeypatch, tmp_path):
    """The host forms a tensor (B, L, V) of float64, the core does not."""
    monkeypatch.setattr(sampling_cost, "keep_memory", lambda: "as it was")
    size = ("--vocab=2000", "--length=64", "--width=32", "--blocks=1", "--batch=4", "--steps=2")
    sampling_cost.main([*size, "--output", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    rows = results["rows"]
    assert [row["sampler"] for row in rows if row["process"] == "mdlm"] == ["host", *SAMPLERS]
    others = [name for name in SAMPLERS if name not in OF_MASKS]
    assert [row["sampler"] for row in rows if row["process"] == "duo_base"] == ["host", *others]
    assert all(1 <= row["evaluations"] <= 3 for row in rows)
    for process in ("mdlm", "duo_base"):
        peaks = {r["sampler"]: r["peak_bytes_over_base"] for r in rows if r["process"] == process}
        assert all(peaks["host"] > peaks[name] for name in peaks if name != "host")
        for name in peaks.keys() & {"ancestral", "spread", "comb"}:  # the others look at all masks
            assert peaks["host"] > peaks[name] + 8 * 4 * 64 * 2000
    assert "| mdlm | ancestral | " in (tmp_path / "table.md").read_text()
