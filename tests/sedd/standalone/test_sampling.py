"""Samplers with exact scores against exact reverse processes, and what they ask of a model."""

import pytest
import torch

STEP = 0.15


@pytest.fixture
def noise(sedd):
    return sedd.noise_lib.LogLinearNoise()


@pytest.fixture
def drawn(sedd, monkeypatch):
    """The probabilities of every draw from here on."""
    real, calls = sedd.sampling.sample_categorical, []

    def record(probs):
        calls.append(probs)
        return real(probs)

    monkeypatch.setattr(sedd.sampling, "sample_categorical", record)
    monkeypatch.setattr(sedd.graph_lib, "sample_categorical", record)
    return calls


def sigma_at(noise, t):
    return noise.total_noise(torch.tensor(t, dtype=torch.float64)).item()


def one_step(sedd, name, w, noise, t, step):
    """Runs ``update_fn`` of a predictor once in every state, with the exact score."""
    predictor = sedd.sampling.get_predictor(name)(w.graph, noise)
    times = torch.full((len(w.states), 1), t, dtype=torch.float64)
    return predictor.update_fn(lambda x, s: w.score(x, s.flatten()), w.states, times, step)


def test_the_analytic_step_is_the_reverse_posterior_of_each_position(sedd, world, noise, drawn):
    w = world()
    x = one_step(sedd, "analytic", w, noise, 0.6, STEP)
    wanted = w.reverse(w.states, sigma_at(noise, 0.6 - STEP), sigma_at(noise, 0.6))
    torch.testing.assert_close(drawn[0], wanted, rtol=1e-10, atol=1e-12)
    assert x.shape == w.states.shape


def test_the_denoising_step_is_the_posterior_of_clean_tokens(sedd, world, noise, drawn):
    w = world()
    denoiser = sedd.sampling.Denoiser(w.graph, noise)
    times = torch.full((len(w.states), 1), 0.3, dtype=torch.float64)
    x = denoiser.update_fn(lambda x, s: w.score(x, s.flatten()), w.states, times)
    wanted = w.reverse(w.states, 0.0, sigma_at(noise, 0.3))
    assert (wanted[..., w.V :].abs() < 1e-15).all()
    torch.testing.assert_close(drawn[0], wanted[..., : w.V], rtol=1e-10, atol=1e-12)
    assert (x < w.V).all()


def test_the_euler_step_is_right_to_first_order(sedd, world, drawn):
    w, errors, noise = world(), [], sedd.noise_lib.GeometricNoise(0.05, 3)
    for step in (0.02, 0.01):
        one_step(sedd, "euler", w, noise, 0.6, step)
        wanted = w.reverse(w.states, sigma_at(noise, 0.6 - step), sigma_at(noise, 0.6))
        errors.append((drawn[-1] - wanted).abs().max().item())
    assert 1e-5 < errors[0] < 5e-3
    assert 3.5 < errors[0] / errors[1] < 4.5  # what is left is of second order


def test_with_masks_and_log_linear_noise_the_euler_step_is_exact(sedd, world, noise, drawn):
    """A mask at t goes with probability step / t, whatever the step."""
    w = world()
    if w.kind == "absorb":
        one_step(sedd, "euler", w, noise, 0.6, 0.3)
        wanted = w.reverse(w.states, sigma_at(noise, 0.3), sigma_at(noise, 0.6))
        torch.testing.assert_close(drawn[0], wanted, rtol=1e-10, atol=1e-12)


def test_the_step_called_none_does_nothing(sedd, world, noise, drawn):
    w = world()
    assert torch.equal(one_step(sedd, "none", w, noise, 0.6, STEP), w.states)
    assert drawn == []


@pytest.mark.parametrize(("predictor", "steps"), [("analytic", 3), ("euler", 80)])
def test_samples_have_the_distribution_of_the_data(
    sedd, world, noise, exact, predictor, steps, frequencies_match
):
    """Independent positions, where steps that treat each position alone make no error."""
    w, count = world(independent=True), 1500
    cache = {}

    class Table(exact):
        """Exact, and quick: a time is the same for all sequences of a batch."""

        def forward(self, x, sigma):
            s = sigma[:1]
            if s.item() not in cache:
                table = super().forward(w.states, s.expand(len(w.states)))
                cache[s.item()] = table.view(*[w.dim] * w.L, w.L, w.dim)
            return cache[s.item()][tuple(x.T)]

    torch.manual_seed(0)
    sampler = sedd.sampling.get_pc_sampler(w.graph, noise, (count, w.L), predictor, steps)
    x = sampler(Table(w))
    counts = (x[:, 0] * w.V + x[:, 1]).bincount(minlength=w.V**2)
    frequencies_match(counts, w.p0.flatten())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("predictor", ["euler", "analytic"])
def test_each_step_draws_once_in_the_precision_of_the_score(
    sedd, world, noise, exact, drawn, predictor, dtype
):
    w = world()
    sampler = sedd.sampling.get_pc_sampler(w.graph, noise, (4, w.L), predictor, 3)
    sampler(exact(w, dtype))
    assert [call.shape for call in drawn] == [(4, w.L, w.dim)] * 3 + [(4, w.L, w.V)]
    assert {call.dtype for call in drawn} == {dtype}


class Watched(torch.nn.Module):
    """Scores of one everywhere, and what the sampler asked for."""

    def __init__(self, dim):
        super().__init__()
        self.dim, self.calls = dim, []

    def forward(self, x, sigma):
        self.calls.append((x.clone(), sigma, self.training))
        return torch.zeros(*x.shape, self.dim)


def test_times_go_down_from_one_to_eps(sedd, noise):
    graph, eps = sedd.graph_lib.Uniform(3), 0.1
    model = Watched(3).train()
    sedd.sampling.get_pc_sampler(graph, noise, (2, 4), "analytic", 3, eps=eps)(model)
    assert len(model.calls) == 4  # with the denoising step
    assert not any(training for _, _, training in model.calls)
    for (_, sigma, _), t in zip(model.calls, (1.0, 0.7, 0.4, 0.1), strict=True):
        wanted = noise.total_noise(torch.full((2,), t))
        torch.testing.assert_close(sigma, wanted, rtol=1e-5, atol=1e-6)


def test_the_denoising_step_can_be_left_out(sedd, noise):
    graph, model = sedd.graph_lib.Absorbing(3), Watched(4)
    sampler = sedd.sampling.get_pc_sampler(graph, noise, (2, 4), "none", 3, denoise=False)
    assert (sampler(model) == 3).all() and model.calls == []
    sampler = sedd.sampling.get_pc_sampler(graph, noise, (2, 4), "none", 3)
    assert (sampler(model) < 3).all() and len(model.calls) == 1


def test_given_tokens_are_put_back_before_every_step(sedd, noise):
    graph, model = sedd.graph_lib.Uniform(3), Watched(3)

    def project(x):
        return torch.cat([torch.full_like(x[:, :2], 1), x[:, 2:]], 1)

    torch.manual_seed(0)
    sedd.sampling.get_pc_sampler(graph, noise, (8, 4), "euler", 3, proj_fun=project)(model)
    assert len(model.calls) == 4
    for x, _, _ in model.calls:
        assert (x[:, :2] == 1).all() and not (x[:, 2:] == 1).all()


def test_no_graph_is_kept(sedd, network, noise):
    sampler = sedd.sampling.get_pc_sampler(
        sedd.graph_lib.Absorbing(5), noise, (2, 8), "analytic", 2, proj_fun=torch.clone
    )
    model = network()
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    sampler(model)
    assert seen == [False] * 3


def test_the_sampler_of_a_configuration(sedd, compose, noise):
    graph, model = sedd.graph_lib.Absorbing(5), Watched(6)
    config = compose("sampling.steps=2", "sampling.noise_removal=false")
    sampler = sedd.sampling.get_sampling_fn(config, graph, noise, (3, 8), 1e-5, "cpu")
    assert sampler(model).shape == (3, 8) and len(model.calls) == 2
    with pytest.raises(ValueError, match=r"sampling.predictor is 'heun'; .* analytic, euler, none"):
        sedd.sampling.get_sampling_fn(compose("sampling.predictor=heun"), graph, noise, (), 0, "")
    with pytest.raises(ValueError, match=r"sampling.steps is 0; it must be 1 or more"):
        sedd.sampling.get_sampling_fn(compose("sampling.steps=0"), graph, noise, (), 0, "")


def test_predictors_register_under_a_name(sedd, monkeypatch):
    sampling = sedd.sampling
    monkeypatch.setattr(sampling, "_PREDICTORS", dict(sampling._PREDICTORS))

    @sampling.register_predictor
    class Own(sampling.Predictor):
        pass

    @sampling.register_predictor(name="other")
    class Other(sampling.Predictor):
        pass

    assert sampling.get_predictor("Own") is Own and sampling.get_predictor("other") is Other
    with pytest.raises(ValueError, match="predictor 'euler' is registered already"):
        sampling.register_predictor(Own, name="euler")
