"""The moving average: its formula, its state, and weights lent and taken back."""

import pytest
import torch


@pytest.fixture
def average(standalone):
    return standalone.module("models").ema.ExponentialMovingAverage


def parameters(*values):
    return [torch.nn.Parameter(torch.full((2,), v, dtype=torch.float64)) for v in values]


def walk(ema, weights, steps):
    """Set the weights to 1, 2, ..., one value an update; their plain numbers."""
    for step in range(1, steps + 1):
        for weight in weights:
            weight.data.fill_(float(step))
        ema.update(weights)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999, 1.0])
def test_the_decay_grows_to_its_limit(average, decay):
    weights = parameters(0.0)
    ema = average(weights, decay)
    walk(ema, weights, steps=20)
    wanted = 0.0
    for n in range(1, 21):
        at_n = min(decay, (1 + n) / (10 + n))
        wanted = at_n * wanted + (1 - at_n) * n
    torch.testing.assert_close(ema.shadow_params[0], torch.full((2,), wanted).double())
    assert ema.num_updates == 20


def test_without_counting_the_decay_is_constant(average):
    weights = parameters(0.0)
    ema = average(weights, 0.75, use_num_updates=False)
    walk(ema, weights, steps=2)
    assert ema.shadow_params[0].tolist() == [0.75 * 0.25 + 0.25 * 2] * 2
    assert ema.num_updates is None


def test_weights_that_are_not_trained_have_no_average(average):
    weights = parameters(1.0, 2.0, 3.0)
    weights[1].requires_grad_(False)
    ema = average(weights, 0.5)
    assert [s[0].item() for s in ema.shadow_params] == [1, 3]
    assert not any(s.requires_grad for s in ema.shadow_params)


def test_the_state_is_duos(average):
    weights = parameters(1.0, 2.0)
    ema = average(weights, 0.5)
    walk(ema, weights, steps=3)
    state = ema.state_dict()
    assert list(state) == ["decay", "num_updates", "shadow_params"]
    assert (state["decay"], state["num_updates"]) == (0.5, 3)
    assert isinstance(state["shadow_params"], list)
    other = average(parameters(7.0, 7.0), 0.9)
    other.load_state_dict(state)
    torch.testing.assert_close(other.state_dict(), state, rtol=0, atol=0)
    other.update(parameters(9.0, 9.0))  # the loaded average is a copy
    assert state["shadow_params"][0][0] != other.shadow_params[0][0]


def test_lent_weights_come_back(average):
    weights = parameters(1.0, 2.0)
    ema = average(weights, 0.5)
    walk(ema, weights, steps=5)
    ema.store(weights)
    ema.copy_to(weights)
    assert all(map(torch.equal, weights, ema.shadow_params))
    assert weights[0][0] < 5
    for weight in weights:
        weight.data.mul_(2)  # the average itself is not touched through the parameters
    assert weights[0][0] == 2 * ema.shadow_params[0][0]
    ema.restore(weights)
    assert [w[0].item() for w in weights] == [5, 5]


@pytest.mark.parametrize("shapes", [[(2,)], [(2,), (3,)], [(2,), (2,), (2,)]])
def test_an_average_of_another_model_is_refused(average, shapes):
    ema = average(parameters(1.0, 2.0), 0.5)
    state = {"decay": 0.5, "num_updates": 1, "shadow_params": [torch.zeros(s) for s in shapes]}
    with pytest.raises(ValueError, match=r"EMA weights have other shapes.*model\.\*"):
        ema.load_state_dict(state)
    assert ema.num_updates == 0


@pytest.mark.parametrize("decay", [-0.1, 1.5])
def test_a_decay_outside_its_range_is_refused(average, decay):
    with pytest.raises(ValueError, match=f"training.ema is {decay}"):
        average(parameters(1.0), decay)
