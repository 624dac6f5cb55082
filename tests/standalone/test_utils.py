"""Learning-rate schedule, gradient norm, and the checks that end in one sentence."""

import math

import pytest
import torch


@pytest.fixture(scope="session")
def utils(standalone):
    return standalone.module("utils")


def test_the_rate_rises_linearly_and_falls_as_a_cosine(utils):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = {"t_initial": 10, "warmup_t": 4, "warmup_lr_init": 0.1, "lr_min": 0.02}
    scheduler = utils.CosineDecayWarmupLRScheduler(optimizer, **schedule)
    rates = []
    for _ in range(17):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    rise = [0.1, 0.2, 0.3, 0.4]
    fall = [0.02 + 0.48 * (1 + math.cos(math.pi * k / 10)) / 2 for k in range(11)]
    assert rates == pytest.approx([*rise, *fall, 0.02, 0.02], abs=1e-12)


def test_a_rise_of_all_steps_has_an_end(utils):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = {"t_initial": 0, "warmup_t": 2, "warmup_lr_init": 0.1, "lr_min": 0.02}
    scheduler = utils.CosineDecayWarmupLRScheduler(optimizer, **schedule)
    for wanted in (0.1, 0.3, 0.5, 0.02):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted)
        optimizer.step()
        scheduler.step()


def test_the_norm_is_of_all_gradients_there_are(utils):
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    weights[0].grad, weights[2].grad = torch.tensor([1.0, 2.0]), torch.tensor([4.0, -10.0])
    assert utils.gradient_norm(weights) == 11


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_not_finite_stops(utils, value):
    utils.stop_if_not_finite(torch.tensor(1e30), "loss", 3)
    with pytest.raises(ValueError, match=f"the loss at step 3 is {value}: training stops"):
        utils.stop_if_not_finite(torch.tensor(value), "loss", 3)
