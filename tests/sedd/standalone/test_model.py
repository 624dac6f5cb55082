"""The score network: its output, its weights' names, its folder; the score function."""

import json

import pytest
import torch

from duo_ext.standalone.models import dit, ema


def tokens_and_noise(size=6, batch=3, length=8):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(size, (batch, length), generator=generator), torch.tensor([0.01, 0.6, 4.0])


@pytest.mark.parametrize("scaled", [True, False])
def test_log_scores_are_the_transformers_output_less_the_mean_ratio(network, scaled):
    model = network(f"model.scale_by_sigma={scaled}").double()
    x, sigma = tokens_and_noise()
    sigma = sigma.double()
    wanted = dit.DIT.forward(model, x, sigma)
    if scaled:
        wanted = wanted - torch.log(torch.exp(sigma) - 1)[:, None, None] - torch.tensor(5.0).log()
    found = model(x, sigma)
    own = torch.nn.functional.one_hot(x, 6).bool()
    assert (found[own] == 0).all() and found.dtype == torch.float64
    torch.testing.assert_close(found[~own], wanted[~own], rtol=1e-6, atol=1e-6)


def test_an_untrained_scaled_model_knows_the_mean_score(sedd, compose):
    """(1 / V) / (exp(sigma) - 1) for each of V tokens at the mask: right for uniform data."""
    _, sigma = tokens_and_noise()
    masks = torch.full((3, 8), 5)
    scores = sedd.model.SEDD(compose())(masks, sigma).exp()
    wanted = (1 / 5 / torch.expm1(sigma))[:, None, None].expand(3, 8, 5)
    torch.testing.assert_close(scores[..., :5], wanted)
    assert (scores[..., 5] == 1).all()


def test_weights_are_the_transformers_under_its_names(network, compose):
    for overrides, size in (((), 6), (("graph.type=uniform", "model.scale_by_sigma=false"), 5)):
        model, config = network(*overrides), compose(*overrides)
        plain = dit.DIT({"model": config.model, "algo": {"causal_attention": False}}, size)
        shapes = [(name, value.shape) for name, value in model.state_dict().items()]
        assert shapes == [(name, value.shape) for name, value in plain.state_dict().items()]
        names = [name for name, _ in model.named_parameters()]
        assert names == [name for name, _ in plain.named_parameters()]
        assert len(names) == 10 + 10 * config.model.n_blocks
        x, sigma = tokens_and_noise(size)
        assert model(x, sigma).shape == (3, 8, size) and model.absorb == (size == 6)


def test_the_ratio_of_the_mask_is_refused_for_the_uniform_graph(network):
    with pytest.raises(ValueError, match=r"scale_by_sigma is true; graph.type=uniform needs false"):
        network("graph.type=uniform")


def test_a_folder_of_the_hub(sedd, network, tmp_path):
    """config.json is the whole configuration, as SEDD's; a plain dict makes the same model."""
    model, (x, sigma) = network("noise.type=geometric"), tokens_and_noise()
    model.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["tokens"] == 5 and written["noise"]["type"] == "geometric"
    again = sedd.model.SEDD.from_pretrained(tmp_path)
    assert torch.equal(again(x, sigma), model(x, sigma))
    assert again.config == model.config and again.config.model.hidden_size == 16
    again.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == written


def test_the_average_is_duos(sedd):
    assert sedd.model.ema.ExponentialMovingAverage is ema.ExponentialMovingAverage


def test_score_functions(sedd, network):
    model, (x, sigma) = network("model.dropout=0.5"), tokens_and_noise()
    wanted = model(x, sigma)
    model.train()
    score_fn = sedd.model.utils.get_score_fn(model, sampling=True)
    torch.testing.assert_close(score_fn(x, sigma[:, None]), wanted.exp())
    assert not model.training
    assert torch.equal(sedd.model.utils.get_score_fn(model)(x, sigma), wanted)
    assert not torch.equal(sedd.model.utils.get_score_fn(model, train=True)(x, sigma), wanted)
    assert model.training
    with pytest.raises(AssertionError):
        sedd.model.utils.get_score_fn(model, train=True, sampling=True)
