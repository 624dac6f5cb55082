"""benchmarks.sampling_cost at a size that takes seconds."""

import json

from benchmarks import sampling_cost


def test_both_samplers_of_both_families_are_measured(monkeypatch, tmp_path):
    """The host forms a tensor (B, L, V) of float64, the core does not."""
    monkeypatch.setattr(sampling_cost, "keep_memory", lambda: "as it was")
    size = ("--vocab=2000", "--length=64", "--width=32", "--blocks=1", "--batch=4", "--steps=2")
    sampling_cost.main([*size, "--output", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    found = [(row["process"], row["sampler"]) for row in results["rows"]]
    assert found == [(a, s) for a in ("mdlm", "duo_base") for s in sampling_cost.SAMPLERS]
    assert all(1 <= row["evaluations"] <= 3 for row in results["rows"])
    peaks = [row["peak_bytes_over_base"] for row in results["rows"]]
    for host, *ours in (peaks[:3], peaks[3:]):
        assert all(host > own + 8 * 4 * 64 * 2000 for own in ours)
    assert "| mdlm | ancestral | " in (tmp_path / "table.md").read_text()
