"""Rows of families, as an evaluation of several methods and seeds writes them."""

import pytest


@pytest.fixture(scope="session")
def row():
    """``row(name, steps, GenPPL)`` is one, of a student of Duo unless said otherwise."""

    def make(name, steps, genppl, entropy=2.8, model="student", family="Duo", **changes):
        return {
            "family": family, "model": model, "name": name, "algo": "any", "steps": steps,
            "evaluations": steps + 1, "sampler": "host", "grid": "host", "predictor": "ancestral",
            "noise_removal": "ancestral", "temperature": 1.0, "nucleus": 1.0,
            "precision": "float64", "samples": 512, "seed": 1,
            "genppl": genppl, "genppl_low": 0.9 * genppl, "genppl_high": 1.1 * genppl,
            "entropy": entropy, "unigram_kl": 0.01, "bigram_tv": 0.1, "seconds": 1.0,
        } | changes  # fmt: skip

    return make


@pytest.fixture
def results(row):
    """A teacher at 8 and 32 steps, a student of two seeds, one of them over temperatures, and
    another family."""
    rows = [row("Duo", 8, 24.0, model="teacher"), row("Duo", 32, 14.0, 2.7, model="teacher")]
    rows += [row("IDLM-Duo", 8, ppl, distillation_seed=ppl) for ppl in (12.0, 16.0)]
    rows += [row("IDLM-Duo", 8, 3.0, 2.6, temperature=0.8, distillation_seed=12.0)]
    rows += [row("MDLM", 8, 20.0, model="teacher", family="MDLM")]
    return {
        "rows": rows,
        "judge": {"name": "tiny", "heldout_ppl": 2.9},
        "hardware": "two cores",
        "command": "make results",
    }
