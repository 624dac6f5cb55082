"""The schedules: total noise, its rate, and the parameter that optimizer states count."""

import pytest
import torch


@pytest.fixture(params=["loglinear", "geometric"])
def noise(request, sedd, compose):
    return sedd.noise_lib.get_noise(compose(f"noise.type={request.param}"))


def test_the_rate_is_the_derivative(noise):
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64, requires_grad=True)
    sigma, rate = noise(t)
    (slope,) = torch.autograd.grad(sigma.sum(), t)
    torch.testing.assert_close(rate, slope, rtol=1e-12, atol=0)
    assert sigma.dtype == rate.dtype == torch.float64 and (rate > 0).all()
    assert torch.equal(noise.total_noise(t), sigma) and torch.equal(noise.rate_noise(t), rate)


def test_the_log_linear_share_of_replaced_tokens_is_linear(sedd):
    t = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    sigma, _ = sedd.noise_lib.LogLinearNoise(eps=0.01)(t)
    torch.testing.assert_close(1 - torch.exp(-sigma), 0.99 * t)
    sigma, _ = sedd.noise_lib.LogLinearNoise()(torch.ones(1))
    torch.testing.assert_close(torch.exp(-sigma), torch.tensor([1e-3]))


def test_the_ends_of_the_geometric_schedule(sedd, compose):
    noise = sedd.noise_lib.get_noise(compose("noise.type=geometric"))
    ends, _ = noise(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([1e-4, (1e-4 * 20) ** 0.5, 20]).double())


def test_there_is_one_parameter_without_effect(noise):
    assert [name for name, _ in noise.named_parameters()] == ["empty"]
    assert not any(value.requires_grad for value in noise(torch.rand(3)))


def test_what_is_no_schedule_is_refused(sedd, compose):
    with pytest.raises(ValueError, match=r"noise.type is 'cosine'; it must be loglinear or geom"):
        sedd.noise_lib.get_noise(compose("noise.type=cosine"))
    for overrides in (["noise.sigma_min=0"], ["noise.sigma_min=2", "noise.sigma_max=1"]):
        config = compose("noise.type=geometric", *overrides)
        with pytest.raises(ValueError, match=r"noise.sigma_min is .* 0 < sigma_min < sigma_max"):
            sedd.noise_lib.get_noise(config)
