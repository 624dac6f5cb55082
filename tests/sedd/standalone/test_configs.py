"""The configuration: SEDD's keys, its two sizes, and no launcher of a cluster."""

import pytest

from duo_ext.standalone.models import dit


@pytest.mark.parametrize(("name", "millions"), [("small", (80, 100)), ("medium", (300, 330))])
def test_sizes(compose, name, millions):
    """Beside the embedding and the last layer: GPT-2's small and medium."""
    config = compose(f"model={name}", base=())
    blocks, D = config.model.n_blocks, config.model.hidden_size
    weights = blocks * (12 * D * D + 6 * D * config.model.cond_dim) / 1e6
    assert millions[0] < weights < millions[1] and D % config.model.n_heads == 0
    assert config.model.length == 1024 and config.model.scale_by_sigma is True
    assert dit.MLP_RATIO == 4


def test_the_values_are_numbers(compose):
    """1e-4 and the like are text to plain YAML."""
    config = compose(base=())
    for value in (config.optim.lr, config.optim.eps, config.noise.sigma_min, config.training.ema):
        assert type(value) is float
    assert config.tokens == 50257 and config.graph.type == "absorb"
    assert "launcher" not in config.get("hydra", {})
