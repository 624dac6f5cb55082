"""Corruption and samplers against Bayes' rule, matrix exponentials and counted frequencies."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

SHORT = "model.length=2"
ANALYTIC = "sampling.predictor=analytic"
SAMPLERS = [("mdlm", "ancestral"), ("mdlm", "analytic"), ("sedd", "analytic")]
SAMPLERS += [("duo_base", "ancestral")]


@pytest.fixture(scope="session")
def trainer_base(standalone):
    return standalone.module("trainer_base")


@pytest.fixture(scope="session")
def toy(enumerated):
    """Two correlated tokens out of three."""
    return enumerated(3, 2)


@pytest.fixture
def exact(build, toy):
    """An algorithm whose network is the toy's exact one."""

    def make(name, predictor="ancestral", *overrides):
        sampler = f"sampling.predictor={predictor}"
        return toy.teach(build(name, toy.V, SHORT, sampler, *overrides))

    return make


def states(model, toy):
    """All sequences that the model's process can reach, (B, L)."""
    size = torch.arange(model.vocab_size)
    return torch.cartesian_prod(*[size] * toy.L)


def column(value, rows):
    return torch.full((rows, 1), value, dtype=torch.float64)


# drawing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tokens_are_drawn_with_their_probabilities(trainer_base, frequencies_match, dtype):
    probs = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.05], dtype=dtype)
    torch.manual_seed(0)
    draws = trainer_base.sample_categorical((7 * probs).expand(100_000, 5))  # not normalised
    frequencies_match(draws.bincount(minlength=5), probs)


def chance_of_rare(trainer_base, monkeypatch, p, dtype, spacing, points=4096):
    """How likely a token of probability p wins against one of 1 - p whose variate is 1/2.

    The uniform variates of ``dtype`` next to 1, multiples of ``spacing``, are tried one by one.
    """
    next_to_one = 1 - spacing * torch.arange(1, points + 1, dtype=torch.float64)
    variates = torch.stack([torch.full_like(next_to_one, 0.5), next_to_one], -1).to(dtype)
    assert torch.equal(variates[:, 1].double(), next_to_one)
    monkeypatch.setattr(torch, "rand_like", lambda _: variates)
    probs = torch.tensor([1 - p, p], dtype=dtype).expand(points, 2)
    wins = trainer_base.sample_categorical(probs).sum().item()
    assert wins < points  # beyond the last variate that wins, none does
    return wins * spacing


@pytest.mark.parametrize("p", [1e-7, 1e-8, 1e-9])
def test_rare_tokens_are_lost_in_float32_and_kept_in_float64(trainer_base, monkeypatch, p):
    exact = -math.expm1(-p / (1 - p) * math.log(2))
    fine = 2.0 ** round(math.log2(p / 2048))
    in_float64 = chance_of_rare(trainer_base, monkeypatch, p, torch.float64, fine)
    assert abs(in_float64 / exact - 1) < 2e-3
    in_float32 = chance_of_rare(trainer_base, monkeypatch, p, torch.float32, 2.0**-24)
    assert in_float32 == (2.0**-24 if p == 1e-7 else 0)


def test_float32_variates_have_24_bits():
    variates = torch.rand(1 << 16, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(variates * 2**24, (variates * 2**24).round())


@pytest.mark.parametrize(("flag", "dtype"), [("true", torch.float64), ("false", torch.float32)])
def test_the_precision_of_sampling_is_what_the_key_says(build, drawn, flag, dtype):
    for name in ("mdlm", "duo_base", "sedd", "ar"):
        build(name, 3, SHORT, f"sampling.use_float64={flag}").generate_samples(2, num_steps=1)
        assert {probs.dtype for probs in drawn} == {dtype}
        drawn.clear()


@st.composite
def distributions(draw):
    weights = draw(st.lists(st.floats(1e-4, 1), min_size=1, max_size=8))
    probs = torch.tensor(weights, dtype=torch.float64)
    return probs / probs.sum()


@settings(max_examples=200, deadline=None)
@given(probs=distributions(), p=st.floats(1e-3, 0.999))
def test_the_nucleus_is_the_smallest_set_of_mass_p(trainer_base, probs, p):
    nucleus = trainer_base.keep_nucleus(probs, p)
    kept = nucleus > 0
    assert probs[kept].sum() >= p - 1e-12
    assert probs[kept].sum() - probs[kept].min() < p
    assert not (~kept).any() or probs[~kept].max() <= probs[kept].min()
    torch.testing.assert_close(nucleus[kept], probs[kept] / probs[kept].sum())


def test_the_whole_nucleus_changes_nothing(trainer_base):
    probs = torch.tensor([[0.7, 0.2, 0.1], [1e-30, 0.0, 1.0]])
    assert trainer_base.keep_nucleus(probs, 1.0) is probs


@pytest.mark.parametrize("name", ["mdlm", "duo_base"])
def test_ancestral_steps_draw_from_the_nucleus_of_clean_tokens(exact, drawn, trainer_base, name):
    model = exact(name, "ancestral", "sampling.p_nucleus=0.6")
    x, t = torch.full((1, 2), model.vocab_size - 1), column(0.7, 1)
    model._ancestral_update(x, t, None, noise_removal_step=True)
    clean = model.forward(x, -model.noise(t)[1].log()).exp()
    kept = trainer_base.keep_nucleus(clean, 0.6) > 0
    assert torch.equal(drawn[0] > 0, kept)
    assert not kept.all(-1).any()


# times and corruption --------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(1, 5), accumulate=st.integers(1, 3), world=st.integers(1, 3), seed=st.integers(0)
)
def test_times_are_stratified_over_the_global_batch(build, attach, n, accumulate, world, seed):
    model = build("mdlm")
    trainer = attach(model, accumulate_grad_batches=accumulate, world_size=world)
    torch.manual_seed(seed % 2**63)
    times = []
    for step in range(accumulate):
        for trainer.global_rank in range(world):
            times.append(model._sample_t(n, step))
    eps, parts = model.sampling_eps, n * accumulate * world
    place = (torch.cat(times).double().sort().values - eps) / (1 - eps) * parts
    in_stratum = place - torch.arange(parts)
    assert in_stratum.min() > -1e-4 and in_stratum.max() < 1 + 1e-4


def test_times_are_stratified_in_validation_and_free_on_request(build):
    torch.manual_seed(0)
    u = (build("mdlm")._sample_t(1000, None) - 1e-3) / (1 - 1e-3) * 1000
    assert torch.equal(u.floor(), torch.arange(1000.0))
    free = build("mdlm", 3, "training.antithetic_sampling=false")._sample_t(1000, None)
    counts = free.mul(10).clamp(max=9).long().bincount()
    assert 60 < counts.min() < counts.max() < 140
    assert free.min() >= 1e-3 and len(free.mul(1000).long().unique()) < 700


def test_the_schedule_is_linear_with_its_derivative(trainer_base):
    t = torch.rand(5, 1, dtype=torch.float64, requires_grad=True)
    dalpha, alpha = trainer_base.LogLinear(eps=0.01)(t)
    torch.testing.assert_close(alpha, 1 - 0.99 * t)
    (derivative,) = torch.autograd.grad(alpha.sum(), t)
    torch.testing.assert_close(derivative, torch.full_like(t, dalpha))


@pytest.mark.parametrize("name", ["mdlm", "duo_base"])
def test_corruption_has_the_kernels_frequencies(build, kernels, frequencies_match, name):
    model = build(name, 3)
    alphas = torch.tensor([[0.9], [0.35]])
    x = torch.tensor([[0, 1, 2], [2, 0, 1]])
    torch.manual_seed(0)
    z = torch.stack([model.q_xt(x, alphas) for _ in range(20_000)])
    for b in range(2):
        kernel = kernels[name](alphas[b].item(), 3)
        for l in range(3):
            counts = z[:, b, l].bincount(minlength=model.vocab_size)
            frequencies_match(counts, kernel[x[b, l]])


@pytest.mark.parametrize("name", ["mdlm", "duo_base"])
def test_a_given_bos_is_not_corrupted(build, name):
    model = build(name, 3, "algo.ignore_bos=true")
    x = torch.ones(50, 4, dtype=torch.int64)
    z = model.q_xt(x, torch.zeros(50, 1))
    assert (z[:, 0] == 1).all() and (z[:, 1:] != 1).any()


def test_the_priors(build, frequencies_match):
    assert torch.equal(build("mdlm", 3).prior_sample(2, 5), torch.full((2, 5), 3))
    torch.manual_seed(0)
    uniform = build("duo_base", 5).prior_sample(300, 100)
    assert uniform.shape == (300, 100)
    frequencies_match(uniform.flatten().bincount(minlength=5), torch.full((5,), 0.2))


# one step --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "predictor"), SAMPLERS)
@pytest.mark.parametrize(("t", "s"), [(0.95, 0.5), (0.5, 0.49), (0.3, 0.0)])
def test_a_step_with_the_exact_network_follows_bayes_rule(
    exact, toy, kernels, drawn, name, predictor, t, s
):
    """The probabilities of every position's next token, from every state; s = 0: noise removal."""
    model, kernel = exact(name, predictor), kernels[name]
    z = states(model, toy)
    if s:
        x_s, _ = model._predict(z, column(t, len(z)), t - s, None)
    else:
        x_s = model._remove_noise(z, column(t, len(z)), None)
    alpha_t, alpha_s = (1 - (1 - 1e-3) * time if time else 1.0 for time in (t, s))
    wanted = toy.reverse(kernel(alpha_s, toy.V), kernel(alpha_t / alpha_s, toy.V), z)
    free = (z == toy.V) | (name == "duo_base")  # an absorbing process copies visible tokens
    torch.testing.assert_close(drawn[0][free], wanted[free], rtol=1e-9, atol=1e-12)
    assert torch.equal(x_s[~free], z[~free])
    assert s or x_s.max() < toy.V


def test_the_analytic_step_is_tweedies_formula(build):
    """(exp(-d Q) s)_y exp(d Q)(x_t, y) with the matrix exponentials of the absorbing rates Q."""
    model, V = build("mdlm", 3, ANALYTIC), 4
    rates = torch.zeros(V, V, dtype=torch.float64)  # [to, from]
    rates[3, :3], rates[range(3), range(3)] = 1, -1
    x = torch.tensor([[3, 3, 0, 2]])
    own = torch.nn.functional.one_hot(x, V).double()
    score = torch.rand(1, 4, V, dtype=torch.float64)
    score[..., 3] = 1
    score = torch.where((x == 3)[..., None], score, own)
    model._get_score = lambda *_: score
    for sigma, d in [(1.0, 0.7), (0.2, 0.2), (5.0, 3.0)]:
        wanted = score @ torch.matrix_exp(-d * rates).T * torch.matrix_exp(d * rates)[x]
        result = model._tweedie(x, column(sigma, 1), column(d, 1))
        torch.testing.assert_close(result, wanted.clamp_min(0), rtol=1e-12, atol=1e-12)
    assert (wanted < 0).any()  # the clip was needed


# whole samplers --------------------------------------------------------------------------------


def law_of_samples(model, toy, drawn, steps):
    """The distribution over ``states`` after the steps and the noise removal, in float64."""
    z = states(model, toy)
    absorbing = model.vocab_size > toy.V
    p = (z == toy.V).all(1).double() if absorbing else torch.full((len(z),), 1 / len(z)).double()
    times = torch.linspace(1, 1e-5, steps + 1, dtype=torch.float64)
    dt = (1 - 1e-5) / steps
    moves = [lambda t=t: model._predict(z, column(t, len(z)), dt, None) for t in times[:-1]]
    moves.append(lambda: model._remove_noise(z, column(times[-1], len(z)), None))
    for move in moves:
        drawn.clear()
        move()
        probs = drawn[0]
        if absorbing:
            copied = torch.nn.functional.one_hot(z, model.vocab_size).to(probs.dtype)
            probs = torch.where((z == toy.V)[..., None], probs, copied)
        p = p @ probs[:, torch.arange(toy.L), z].prod(-1)
    return p


@pytest.mark.parametrize(("name", "predictor"), SAMPLERS)
def test_many_steps_sample_the_distribution(exact, toy, drawn, name, predictor):
    """The error is first order in the step: 4 times the steps, a quarter of it."""
    model = exact(name, predictor)
    clean = (states(model, toy) < toy.V).all(1)
    distances = []
    for steps in (8, 32, 128):
        law = law_of_samples(model, toy, drawn, steps)
        assert law[~clean].sum() < 1e-12
        distances.append((law[clean] - toy.p).abs().sum().item() / 2)
    assert distances[0] > 3 * distances[1] > 9 * distances[2]
    assert distances[2] < 3e-3


@pytest.mark.parametrize(("name", "predictor"), SAMPLERS)
def test_samples_have_the_law_of_their_steps(exact, toy, drawn, frequencies_match, name, predictor):
    model = exact(name, predictor)
    law = law_of_samples(model, toy, drawn, steps=3)
    torch.manual_seed(0)
    samples = model.generate_samples(20_000, num_steps=3)
    codes = samples[:, 0] * model.vocab_size + samples[:, 1]
    frequencies_match(codes.bincount(minlength=len(law)), law.clamp_min(0))


@pytest.mark.parametrize("name", ["mdlm", "duo_base", "sedd"])
@pytest.mark.parametrize(("removal", "extra"), [("ancestral", 1), ("greedy", 1), ("none", 0)])
def test_k_steps_and_the_noise_removal_are_k_plus_1_evaluations(build, name, removal, extra):
    model = build(name, 5, f"sampling.noise_removal={removal}", "sampling.steps=4")
    calls = []
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    for steps in (1, 3, None):
        calls.clear()
        assert model.generate_samples(2, num_steps=steps).shape == (2, 16)
        assert len(calls) == (steps or 4) + extra


@pytest.mark.parametrize(("name", "predictor"), SAMPLERS[:3])
def test_noise_removal_leaves_no_mask(build, name, predictor):
    """Whatever the network says: here that all tokens are less likely than they can be."""
    model = build(name, 5, f"sampling.predictor={predictor}")
    model.backbone.output_layer.linear.bias.data -= 5
    x = model._remove_noise(model.prior_sample(20, 16), torch.full((20, 1), 0.9), None)
    assert x.max() < 5


@pytest.mark.parametrize("name", ["mdlm", "duo_base"])
def test_greedy_noise_removal_is_the_likeliest_token(build, name):
    model = build(name, 5, "sampling.noise_removal=greedy")
    x, t = model.prior_sample(4, 16), torch.full((4, 1), 0.3)
    x[:, ::2] = 1
    greedy = model._remove_noise(x, t, None)
    log_probs = model.forward(x, -(1 - 0.999 * t).log())
    assert torch.equal(greedy, log_probs.argmax(-1))
    assert greedy.max() < 5
    if name == "mdlm":
        assert (greedy[:, ::2] == 1).all()


def test_the_cache_saves_evaluations_and_changes_no_token(build):
    samples, counts = [], []
    for predictor in ("ancestral", "ancestral_cache"):
        model = build("mdlm", 5, f"sampling.predictor={predictor}")
        calls = []
        model.backbone.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(0)
        samples.append(model.generate_samples(2, num_steps=64))
        counts.append(len(calls))
    assert torch.equal(*samples)
    assert counts[0] == 65 and counts[1] <= 2 * 16 + 1  # as many as there are tokens to reveal


@pytest.mark.parametrize("steps", [0, -3])
def test_less_than_one_step_is_refused(build, steps):
    with pytest.raises(ValueError, match=f"sampling.steps is {steps}; at least 1 is needed"):
        build("mdlm").generate_samples(2, num_steps=steps)


def test_samples_are_of_the_average_and_the_weights_come_back(build, monkeypatch):
    model = build("mdlm", 3, "loader.eval_batch_size=7", "training.ema=0.5")
    raw = [p.detach().clone() for p in model.backbone.parameters()]
    model.ema.shadow_params = [p + 1 for p in raw]
    seen = []

    def generate(num_samples, num_steps, eps):
        current = model.backbone.parameters()
        seen.append(all(map(torch.equal, current, model.ema.shadow_params)))
        assert not model.backbone.training
        return num_samples, num_steps

    monkeypatch.setattr(model, "generate_samples", generate)
    assert model.restore_model_and_sample(num_steps=5) == (7, 5)
    assert seen == [True]
    assert all(map(torch.equal, model.backbone.parameters(), raw))
    assert model.backbone.training


# training --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bos", "wanted"), [("false", 31 / 5), ("true", 22 / 3)])
def test_the_loss_is_the_mean_over_valid_tokens(build, monkeypatch, bos, wanted):
    model = build("mdlm", 3, f"algo.ignore_bos={bos}")
    monkeypatch.setattr(model, "nll", lambda *_: torch.tensor([[1.0, 2, 4], [8, 16, 32]]))
    valid = torch.tensor([[1, 1, 1], [1, 1, 0]])
    losses = model._loss(torch.zeros(2, 3, dtype=torch.int64), valid)
    torch.testing.assert_close(losses.loss.item(), wanted, rtol=1e-6, atol=0)
    assert losses.nlls == losses.loss * losses.num_tokens
    assert valid[0, 0] == 1  # the caller's mask is not written to


BATCH = {"input_ids": torch.ones(2, 16, dtype=torch.int64), "attention_mask": torch.ones(2, 16)}


def test_the_randomness_of_a_micro_batch_is_that_of_its_place(build, attach):
    def loss(batch_idx=0, seed=1, **place):
        model = build("duo_base", 5, "model.dropout=0.1", f"seed={seed}")
        attach(model, accumulate_grad_batches=2, world_size=2, **place)
        torch.rand(7)  # what was drawn before does not matter
        return model.training_step(BATCH, batch_idx).item()

    assert loss() == loss() == loss(batch_idx=4)
    others = [loss(1), loss(seed=2), loss(global_step=1), loss(global_rank=1)]
    assert len({loss(), *others}) == 5
    # two processes draw what one with twice the accumulation draws
    alone = build("duo_base", 5, "model.dropout=0.1")
    attach(alone, accumulate_grad_batches=4)
    assert alone.training_step(BATCH, 1).item() == loss(global_rank=1)


def test_a_loss_that_is_not_finite_stops_before_the_update(build, attach, monkeypatch):
    model = build("mdlm")
    attach(model, global_step=7)
    monkeypatch.setattr(model, "nll", lambda *_: torch.full((2, 16), torch.nan))
    with pytest.raises(ValueError, match="the loss at step 7 is nan: training stops before"):
        model.training_step(BATCH, 0)
    model.backbone.output_layer.linear.bias.grad = torch.full((4,), torch.inf)
    with pytest.raises(ValueError, match="the gradient at step 7 is inf"):
        model.on_before_optimizer_step(None)


def test_a_checkpoint_holds_the_average_and_plain_settings(build):
    model, other = build("mdlm", seed=0), build("mdlm", seed=1)
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    assert type(checkpoint["hyper_parameters"]["config"]) is dict
    assert all(key.startswith("backbone.") for key in checkpoint["state_dict"])
    other.on_load_checkpoint(checkpoint)
    assert all(map(torch.equal, other.ema.shadow_params, model.ema.shadow_params))
    del checkpoint["ema"]
    with pytest.raises(ValueError, match=r"no key 'ema'.*training.ema=0"):
        other.on_load_checkpoint(checkpoint)
    build("mdlm", 3, "training.ema=0").on_load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match=r"vocabulary 4.*asks for 6"):
        build("mdlm", 5).on_load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("name", "override", "sentence"),
    [
        ("mdlm", "sampling.predictor=psi", "sampling.predictor is 'psi'; it must be one of"),
        ("duo_base", ANALYTIC, "sampling.predictor is 'analytic'"),
        ("sedd", "sampling.predictor=ancestral", "sampling.predictor is 'ancestral'"),
        ("mdlm", "sampling.noise_removal=all", "sampling.noise_removal is 'all'"),
        ("mdlm", "algo.loss_type=kl", "algo.loss_type is 'kl'; it must be one of elbo, low_var"),
        ("duo_base", "algo.loss_type=low_var", "algo.loss_type is 'low_var'"),
        ("distillation", "algo.loss_type=elbo", "algo.loss_type is 'elbo'"),
        ("distillation", "algo.T=0", "algo.T is 0; it must be a positive number"),
        ("sdtt", "algo.update_teacher_every=0", "algo.update_teacher_every is 0"),
        ("sdtt", "algo.loss_type=low_var", "algo.loss_type is 'low_var'"),
        ("mdlm", "algo.backbone=unet", "algo.backbone is 'unet'"),
        ("duo_base", "algo.time_conditioning=false", "algo.time_conditioning is false"),
        ("sedd", "algo.time_conditioning=false", "algo.time_conditioning is false"),
        ("duo_base", "algo.parameterization=subs", "algo.parameterization is 'subs'"),
        ("duo_base", "sampling.predictor=ancestral_cache", "this one does: use 'ancestral'"),
        ("ar", "algo.causal_attention=false", "algo.causal_attention is false"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(build, name, override, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(name, 3, override)
