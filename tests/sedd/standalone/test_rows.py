"""--sampler ancestral and SEDD's own sampler: two samples of one distribution of whole texts."""

import types

import pytest
import torch

from sedd_ext import evaluate, host
from sedd_ext.parts import Parts

TOKENS, LENGTH = 4, 3
WAYS = {
    "analytic": {"predictor": "analytic"},
    "renormalised": {"predictor": "renormalised"},
    "cold": {"predictor": "renormalised", "temperature": 0.6},
    "none": {"predictor": "analytic", "noise_removal": "none"},
    "unscaled": {"predictor": "analytic", "noise_removal": "none"},
    "geometric": {"predictor": "analytic", "noise_removal": "none"},
}
NOISES = {"geometric": ("noise.type=geometric", "noise.sigma_min=1e-2", "noise.sigma_max=5")}


@pytest.fixture
def subject(sedd, compose, monkeypatch):
    """A model over a few tokens whose scores have sums of their own, ready to sample."""
    tree = types.SimpleNamespace(module=lambda name: getattr(sedd, name))
    monkeypatch.setattr(host, "active", lambda: tree)

    def make(way):
        config = compose(
            f"tokens={TOKENS}", f"model.length={LENGTH}", "model.n_blocks=1",
            f"model.scale_by_sigma={way != 'unscaled'}".lower(), *NOISES.get(way, ()),
        )  # fmt: skip
        torch.manual_seed(0)
        parts = Parts.build(config, torch.device("cpu"))
        for name, parameter in parts.model.named_parameters():
            width = 0.6 if parameter.ndim == 1 else 0.03 if "adaLN" in name else 0.3
            torch.nn.init.normal_(parameter, std=width)
        # sums of scores so low that masks remain
        parts.model.output_layer.linear.bias.data -= 10 if way == "unscaled" else 1.5
        parts.model.eval()
        unused = dict.fromkeys(("role", "path", "algo", "sha256", "tokenizer", "data"))
        return evaluate.Subject(**unused, vocab_size=parts.graph.dim, length=LENGTH, parts=parts)

    return make


@pytest.mark.parametrize("way", WAYS)
def test_texts_have_the_law_of_the_hosts_sampler(subject, texts_drawn, same_law, way):
    model = subject(way)
    same_law(*(texts_drawn(model, sampler, **WAYS[way]) for sampler in ("host", "ancestral")))


def test_the_sum_of_the_scores_matters(subject, texts_drawn, same_law):
    """What the test above can see: the two predictors differ."""
    model, ways = subject("none"), ("analytic", "renormalised")
    with pytest.raises(AssertionError):
        same_law(
            *(texts_drawn(model, "ancestral", predictor=way, noise_removal="none") for way in ways)
        )
