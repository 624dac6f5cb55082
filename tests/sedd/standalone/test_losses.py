"""The loss against its identity, and the steps of training against a plain loop."""

import copy

import numpy
import pytest
import torch


@pytest.fixture
def noise(sedd):
    return sedd.noise_lib.LogLinearNoise()


# the loss --------------------------------------------------------------------------------------


def information(w, sigma):
    """Mutual information of x_0 and x_t, in nats."""
    kernel, p_t = w.kernel(sigma), w.at(sigma).flatten()
    total = 0.0
    for x0, p in zip(w.states, w.p.flatten(), strict=True):
        if p > 0:
            likelihood = kernel[w.states, x0].prod(-1)
            terms = likelihood * (likelihood.log() - p_t.log())
            total += p * terms[likelihood > 0].sum()
    return total


def test_the_loss_of_the_exact_score_integrates_to_the_information_lost(sedd, world, noise, exact):
    """d/dt I(x_0; x_t) = -E loss_t: between two times, the integral is the difference."""
    w, begin, end = world(V=2), 0.2, 0.9
    loss_fn = sedd.losses.get_loss_fn(noise, w.graph, train=False)
    x0, x = (states.flatten(0, 1) for states in pairs(w.states))
    nodes, weights = numpy.polynomial.legendre.leggauss(10)
    integral = 0.0
    for node, weight in zip(nodes, weights, strict=True):
        t = begin + (end - begin) * (node + 1) / 2
        sigma, _ = noise(torch.tensor(t, dtype=torch.float64))
        chance = w.p[tuple(x0.T)] * w.kernel(sigma)[x, x0].prod(-1)
        kept = chance > 0
        times = torch.full((int(kept.sum()),), t, dtype=torch.float64)
        loss = loss_fn(exact(w), x0[kept], t=times, perturbed_batch=x[kept])
        assert loss.shape == times.shape and (loss >= 0).all()
        integral += weight * (end - begin) / 2 * (chance[kept] * loss).sum()
    at_begin, at_end = noise.total_noise(torch.tensor([begin, end], dtype=torch.float64))
    lost = information(w, at_begin) - information(w, at_end)
    torch.testing.assert_close(integral, lost, rtol=1e-8, atol=0)
    assert lost > 0.1


def pairs(states):
    """All pairs of rows, (N, N, L) twice."""
    return states[:, None].expand(-1, len(states), -1), states[None].expand(len(states), -1, -1)


class Spy(torch.nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim, self.calls = dim, []

    def forward(self, x, sigma):
        self.calls.append((x, sigma, self.training))
        return torch.zeros(*x.shape, self.dim)


def test_times_and_noise_are_drawn_where_they_are_not_given(sedd, noise):
    graph, spy = sedd.graph_lib.Absorbing(5), Spy(6)
    batch = torch.zeros(4000, 8, dtype=torch.int64)
    torch.manual_seed(0)
    loss = sedd.losses.get_loss_fn(noise, graph, True, sampling_eps=0.2)(spy, batch)
    ((x, sigma, training),) = spy.calls
    share = 1 - torch.exp(-sigma)
    t = share / (1 - noise.eps)
    assert loss.shape == (4000,) and training
    assert 0.2 <= t.min() < 0.21 and 0.99 < t.max() <= 1 and abs(t.mean() - 0.6) < 0.02
    assert abs((x == 5).float().mean() - share.mean()) < 0.01
    masked = (x == 5).float().mean(-1)
    assert torch.corrcoef(torch.stack([masked, share]))[0, 1] > 0.8  # each sequence has its own
    sedd.losses.get_loss_fn(noise, graph, False)(spy, batch[:1])
    assert not spy.calls[-1][2]


# the optimizer ---------------------------------------------------------------------------------


def test_the_optimizer_of_a_configuration(sedd, compose):
    weight = torch.nn.Parameter(torch.zeros(2))
    for name, kind in (("AdamW", torch.optim.AdamW), ("Adam", torch.optim.Adam)):
        config = compose(f"optim.optimizer={name}", "optim.beta1=0.8", "optim.weight_decay=0.1")
        optimizer = sedd.losses.get_optimizer(config, iter([weight]))
        assert type(optimizer) is kind
        wanted = {"lr": 1e-2, "betas": (0.8, 0.999), "eps": 1e-8, "weight_decay": 0.1}
        assert wanted.items() <= optimizer.param_groups[0].items()
    with pytest.raises(ValueError, match=r"optim.optimizer is 'SGD'; it must be one of Adam, Ada"):
        sedd.losses.get_optimizer(compose("optim.optimizer=SGD"), [weight])


class Scaler:
    """A GradScaler that scales by 8 and says in which order it was called."""

    def __init__(self):
        self.calls = []

    def scale(self, loss):
        return 8 * loss

    def unscale_(self, optimizer):
        self.calls.append("unscale")
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad /= 8

    def step(self, optimizer):
        self.calls.append("step")
        optimizer.step()

    def update(self):
        self.calls.append("update")


@pytest.mark.parametrize(
    ("setting", "step", "lr", "norm"),
    [
        ("optim.grad_clip=1", 1, 0.25e-2, 1.0),
        ("optim.grad_clip=1", 4, 1e-2, 1.0),
        ("optim.grad_clip=1", 9, 1e-2, 1.0),
        ("optim.grad_clip=-1", 2, 0.5e-2, 5.0),
        ("optim.warmup=0", 1, 1e-2, 1.0),
    ],
)
def test_an_update(sedd, compose, setting, step, lr, norm):
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([24.0, 32.0])  # scaled by 8
    optimizer = torch.optim.SGD([weight], lr=1e-2)
    scaler = Scaler()
    optimize = sedd.losses.optimization_manager(compose(setting))
    optimize(optimizer, scaler, iter([weight]), step=step)
    assert scaler.calls == ["unscale", "step", "update"]
    torch.testing.assert_close(weight.detach().norm().item(), lr * norm, rtol=1e-4, atol=0)
    assert type(optimizer.param_groups[0]["lr"]) is float


# steps -----------------------------------------------------------------------------------------


@pytest.fixture
def state(sedd, network, compose, noise):
    model = network("model.dropout=0")
    return {
        "model": model,
        "optimizer": sedd.losses.get_optimizer(compose(), model.parameters()),
        "scaler": Scaler(),
        "noise": noise,
        "ema": sedd.model.ema.ExponentialMovingAverage(model.parameters(), 0.5),
        "step": 0,
    }


def batches(count):
    return torch.randint(5, (count, 4, 8), generator=torch.Generator().manual_seed(1))


def test_training_is_a_plain_loop(sedd, compose, noise, state):
    """Two updates of three batches each: their mean loss, its gradient, Adam, the average."""
    graph, config = sedd.graph_lib.Absorbing(5), compose("optim.grad_clip=1e9")
    other, average = copy.deepcopy(state["model"]), sedd.model.ema.ExponentialMovingAverage
    step_fn = sedd.losses.get_step_fn(
        noise, graph, True, sedd.losses.optimization_manager(config), 3
    )
    torch.manual_seed(2)
    returned = [step_fn(state, batch) for batch in batches(6)]
    assert state["step"] == 2 and not any(loss.requires_grad for loss in returned)

    torch.manual_seed(2)
    ema = average(other.parameters(), 0.5)
    adam = torch.optim.AdamW(other.parameters(), lr=0.0, eps=1e-8, weight_decay=0)
    loss_fn = sedd.losses.get_loss_fn(noise, graph, True)
    for update in (1, 2):
        losses = [loss_fn(other, batch).mean() for batch in batches(6)[3 * update - 3 : 3 * update]]
        mean = sum(losses) / 3
        torch.testing.assert_close(returned[3 * update - 1], mean.detach())
        torch.testing.assert_close(returned[3 * update - 2], losses[1].detach() / 3)
        adam.zero_grad()
        mean.backward()
        adam.param_groups[0]["lr"] = 1e-2 * update / 4
        adam.step()
        ema.update(other.parameters())
    for found, wanted in zip(state["model"].parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)
    for found, wanted in zip(state["ema"].shadow_params, ema.shadow_params, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)


def test_evaluation_lends_the_average_and_gives_it_back(sedd, noise, state):
    graph, model = sedd.graph_lib.Absorbing(5), state["model"]
    before = copy.deepcopy(model)
    state["ema"].shadow_params = [weight * 0.5 for weight in model.parameters()]
    step_fn = sedd.losses.get_step_fn(noise, graph, False, None, 1)
    (batch,) = batches(1)
    torch.manual_seed(3)
    loss = step_fn(state, batch)
    assert all(map(torch.equal, model.parameters(), before.parameters()))
    with torch.no_grad():
        for weight in before.parameters():
            weight *= 0.5
        torch.manual_seed(3)
        wanted = sedd.losses.get_loss_fn(noise, graph, False)(before, batch).mean()
    torch.testing.assert_close(loss, wanted)
    with pytest.raises(IndexError):
        step_fn(state, batch + 100)
    doubled = [shadow * 2 for shadow in state["ema"].shadow_params]
    assert all(map(torch.equal, model.parameters(), doubled))


def test_a_loss_that_is_not_finite_stops_before_the_update(sedd, compose, noise, state):
    graph = sedd.graph_lib.Absorbing(5)
    optimize = sedd.losses.optimization_manager(compose())
    step_fn = sedd.losses.get_step_fn(noise, graph, True, optimize, 1)
    torch.nn.init.constant_(state["model"].output_layer.linear.bias, torch.nan)
    before = copy.deepcopy(state["model"].vocab_embed.embedding)
    with pytest.raises(ValueError, match="the loss at step 1 is nan: training stops before the up"):
        step_fn(state, *batches(1))
    assert state["step"] == 0 and torch.equal(state["model"].vocab_embed.embedding, before)
