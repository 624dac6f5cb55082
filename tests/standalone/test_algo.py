"""The losses against their dense formulas, and against -log p with exact networks."""

import itertools
import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duo_ext import Refused
from duo_ext.core import schedules

L = 2
SHORT = f"model.length={L}"


def one_hot(tokens, size):
    return torch.nn.functional.one_hot(tokens, size).double()


def column(values):
    return torch.as_tensor(values, dtype=torch.float64)[:, None]


# the masked process ----------------------------------------------------------------------------

X0 = torch.tensor([[0, 1, 2], [2, 2, 0]])
XT = torch.tensor([[3, 1, 3], [3, 3, 3]])  # 3 is the mask
ALPHA, DALPHA = column([0.7, 0.2]), -0.9


def test_subs_puts_no_mass_on_the_mask_and_copies_visible_tokens(build):
    model = build("mdlm", 3)
    logits = 20 * torch.randn(2, 3, 4, requires_grad=True)
    probs = model._process_model_output(logits, XT, None).exp()
    for b, l in itertools.product(range(2), range(3)):
        if XT[b, l] == 3:
            wanted = torch.cat([logits[b, l, :3].softmax(-1), torch.zeros(1)])
            torch.testing.assert_close(probs[b, l], wanted)
        else:
            assert probs[b, l].tolist() == one_hot(XT[b, l], 4).tolist()
    (gradient,) = torch.autograd.grad(probs.log2().clamp_min(-9).sum(), logits)
    assert gradient.isfinite().all() and (gradient[..., 3] == 0).all()


def test_the_mdlm_loss_is_its_formula(build):
    """(5): -alpha'_t / (1 - alpha_t) times -log f at the clean token of each masked position."""
    model = build("mdlm", 3)
    log_f = model._process_model_output(torch.randn(2, 3, 4).double(), XT, None)
    nll = model.nll_per_token(log_f, XT, X0, ALPHA, DALPHA)
    plain = model.nll_per_token(log_f, XT, X0, ALPHA, DALPHA, low_var=True)
    for b, l in itertools.product(range(2), range(3)):
        minus_log = -log_f[b, l, X0[b, l]] if XT[b, l] == 3 else torch.zeros(()).double()
        torch.testing.assert_close(plain[b, l], minus_log)
        torch.testing.assert_close(nll[b, l], -DALPHA / (1 - ALPHA[b, 0]) * minus_log)


def test_the_sedd_network_is_a_log_score(build):
    model, sigma = build("sedd", 3), torch.tensor([0.1, 2.0]).double()
    logits = torch.randn(2, 3, 4).double()
    log_score = model._process_model_output(logits, XT, sigma)
    wanted = logits - ((sigma.exp() - 1) * 3).log()[:, None, None]
    own = one_hot(XT, 4).bool()
    torch.testing.assert_close(log_score[~own], wanted[~own], rtol=1e-6, atol=1e-6)
    assert (log_score[own] == 0).all()


def test_the_sedd_loss_is_its_formula(build):
    """(4) at one-hot x, with d sigma / dt = -alpha' / alpha and r = alpha / (1 - alpha)."""
    log_score = torch.randn(2, 3, 4).double().scatter(-1, XT[..., None], 0.0)
    nll = build("sedd", 3).nll_per_token(log_score, XT, X0, ALPHA, DALPHA)
    for b, l in itertools.product(range(2), range(3)):
        alpha = ALPHA[b, 0]
        r = alpha / (1 - alpha)
        wanted = torch.zeros(()).double()
        for y in range(3):
            wanted += log_score[b, l, y].exp() - r * (X0[b, l] == y) * log_score[b, l, y]
        wanted = -DALPHA / alpha * (wanted + r * (r.log() - 1)) * (XT[b, l] == 3)
        torch.testing.assert_close(nll[b, l], wanted)


# the uniform process ---------------------------------------------------------------------------


def uniform_nll(log_f, xt, x0, alpha, dalpha):
    """(6) with every sum written out; alpha, dalpha (B, 1), the rest (B, L) or (B, L, V)."""
    V = log_f.shape[-1]
    alpha, dalpha = alpha[..., None], dalpha if isinstance(dalpha, float) else dalpha[..., None]
    xbar = V * alpha * one_hot(x0, V) + 1 - alpha
    fbar = V * alpha * log_f.exp() + 1 - alpha
    xbar_z, fbar_z = (bar.gather(-1, xt[..., None]) for bar in (xbar, fbar))
    log_ratio = torch.log(fbar_z * xbar / (fbar * xbar_z))
    bracket = V / xbar_z - V / fbar_z - (xbar / xbar_z * log_ratio).sum(-1, keepdim=True)
    return (dalpha / (V * alpha) * bracket)[..., 0]


@settings(max_examples=60, deadline=None)
@given(V=st.integers(2, 9), alpha=st.floats(1e-3, 0.999), seed=st.integers(0, 2**31))
def test_the_uniform_loss_is_the_dense_formula(build, V, alpha, seed):
    model = build("duo_base", V)
    torch.manual_seed(seed)
    xt, x0 = torch.randint(V, (2, 4, 5))
    log_f = (4 * torch.randn(4, 5, V).double()).log_softmax(-1)
    alphas = torch.full((4, 1), alpha).double()
    nll = model.nll_per_token(log_f, xt, x0, alphas, DALPHA)
    wanted = uniform_nll(log_f, xt, x0, alphas, DALPHA)
    torch.testing.assert_close(nll, wanted, rtol=1e-9, atol=1e-9)
    assert nll.min() > -1e-9
    at_truth = model.nll_per_token(one_hot(x0, V).log(), xt, x0, alphas, DALPHA)
    assert at_truth.abs().max() < 1e-9


# both ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nodes", "tolerance"),
    [("mdlm", 8, 1e-12), ("sedd", 8, 1e-12), ("duo_base", 64, 1e-8)],
)
def test_with_the_exact_network_the_bound_is_the_likelihood(
    build, enumerated, kernels, name, nodes, tolerance
):
    """The expectation of the loss over times and corruptions is -log p(x), for each x."""
    toy = enumerated(3, L)
    model = toy.teach(build(name, 3, SHORT))
    model.noise.eps = 0.0
    z = torch.cartesian_prod(*[torch.arange(model.vocab_size)] * L)
    bound = torch.zeros_like(toy.p)
    for node, weight in zip(*numpy.polynomial.legendre.leggauss(nodes), strict=True):
        u = (node + 1) / 2  # t = u^4, for the logarithm at t = 0
        dalpha, alpha = model.noise(column([u**4] * len(z)))
        log_x_theta = model.forward(z, model._sigma_from_alphat(alpha))
        kernel = kernels[name](alpha[0, 0], 3)
        for i, x in enumerate(toy.space):
            nll = model.nll_per_token(log_x_theta, z, x.expand_as(z), alpha, dalpha)
            bound[i] += 2 * u**3 * weight * (kernel[x, z].prod(-1) * nll.sum(-1)).sum()
    torch.testing.assert_close(bound, -toy.p.log(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["mdlm", "sedd", "duo_base"])
def test_the_loss_of_a_batch_puts_its_parts_together(build, name):
    """A time for each sequence, its corruption, the network at that noise level, the formula."""
    model = build(name, 3)
    model.backbone.double()
    t, x0 = torch.tensor([0.3, 0.8]).double(), X0
    model._sample_t = lambda n, step: t if (n, step) == (2, 5) else None
    alpha = 1 - 0.999 * t[:, None]
    xt = XT if name != "duo_base" else XT % 3

    def corrupt(x, alpha_t):
        torch.testing.assert_close(alpha_t, alpha)
        assert torch.equal(x, x0)
        return xt

    model.q_xt = corrupt
    sigma = torch.zeros(2).double() if name == "mdlm" else -alpha[:, 0].log()
    log_f = model._process_model_output(model.backbone(xt, sigma), xt, sigma)
    for train_mode in (False, True):
        wanted = model.nll_per_token(log_f, xt, x0, alpha, -0.999)
        torch.testing.assert_close(model.nll(x0, None, 5, train_mode), wanted)


def test_low_variance_is_for_training_alone(build):
    model = build("mdlm", 3, "algo.loss_type=low_var")
    calls = []
    model.nll_per_token = lambda **arguments: calls.append(arguments["low_var"])
    model.nll(X0, None)
    model.nll(X0, None, train_mode=True)
    build_elbo = build("mdlm", 3)
    build_elbo.nll_per_token = model.nll_per_token
    build_elbo.nll(X0, None, train_mode=True)
    assert calls == [False, True, False]


# Duo -------------------------------------------------------------------------------------------

CURRICULUM = ("algo.curriculum_start=10", "algo.curriculum_end=30")
GAUSSIAN = ("algo.gamma_min=-3.0", "algo.gamma_max=-1.0")


def test_the_temperature_falls_within_the_curriculum(build, attach):
    model = build("duo", 3, *CURRICULUM)  # log10 tau from -1 to -2
    for step, tau in [(0, 1e-1), (10, 1e-1), (20, 10**-1.5), (30, 1e-2), (99, 1e-2)]:
        attach(model, global_step=step)
        torch.testing.assert_close(model._compute_gumbel_tau_inverse(), 1 / tau)


def test_the_gaussian_path_follows_the_uniform_process(build, kernels, frequencies_match):
    """argmax(w_t) of w_t = a x + s eps, a^2 = sigmoid(-gamma), s^2 = sigmoid(gamma)."""
    model = build("duo", 4, *GAUSSIAN)
    t = torch.tensor([0.25, 0.9])
    x = one_hot(torch.tensor([[1], [3]]), 4)
    torch.manual_seed(0)
    w = model._q_xt_gaussian(x.repeat(1, 100_000, 1), t)
    alpha, _ = model.gaussian(t)
    for b, token in enumerate((1, 3)):
        gamma = -3 + 2 * t[b].double()
        variances = torch.sigmoid(gamma).expand(4)
        torch.testing.assert_close(w[b].var(0), variances, rtol=0.02, atol=0)
        means = torch.sigmoid(-gamma).sqrt() * x[b, 0]
        torch.testing.assert_close(w[b].mean(0), means, rtol=0, atol=0.01)
        counts = w[b].argmax(-1).bincount(minlength=4)
        frequencies_match(counts, kernels["duo_base"](alpha[b], 4)[token])


def test_duo_trains_on_soft_tokens(build, attach):
    """The network sees softmax(w / tau) at the noise level of argmax(w), which is the token x_t."""
    model = build("duo", 3, *CURRICULUM, *GAUSSIAN).train()
    attach(model, global_step=20)
    t, w = torch.tensor([0.3, 0.8]), torch.randn(2, 3, 3)
    model._sample_t = lambda n, step: t if (n, step) == (2, 5) else None
    model._q_xt_gaussian = lambda x, time: w if torch.equal(x.argmax(-1), X0) else None
    alpha, dalpha = model.gaussian(t)
    nll = model.nll(X0, None, 5, True)
    model.backbone.double()
    log_f = model.backbone(w.double() * 10**1.5, -alpha.log()).log_softmax(-1)
    wanted = uniform_nll(log_f, w.argmax(-1), X0, alpha[:, None], dalpha[:, None])
    torch.testing.assert_close(nll.double(), wanted, rtol=1e-4, atol=1e-4)
    model.backbone.float()
    model.nll(X0, None, 5, True).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.backbone.parameters())


def test_soft_tokens_are_for_training_within_the_curriculum(build, attach):
    model, seen = build("duo", 3, *CURRICULUM), []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].ndim))
    for training, step in [(True, 0), (True, 29), (True, 30), (False, 0)]:
        attach(model, global_step=step)
        model.train(training).nll(X0, None, 0, training)
    assert seen == [3, 3, 2, 2]


def test_the_range_of_gamma_is_the_keys_or_that_of_matching_alphas(build):
    given_range = build("duo", 3, *GAUSSIAN).gaussian
    assert (given_range.gamma_min, given_range.gamma_max) == (-3, -1)
    own = build("duo", 3).gaussian
    one_end = build("duo", 3, "algo.gamma_min=-4").gaussian
    assert (one_end.gamma_min, one_end.gamma_max) == (-4, own.gamma_max)
    at_ends, _ = build("duo", 3).gaussian(torch.tensor([0.0, 1.0]))
    published, _ = schedules.gaussian_alpha(torch.tensor([-3.55, -1.85]), 50258)
    torch.testing.assert_close(at_ends, published, rtol=1e-6, atol=1e-6)


# self-distillation -----------------------------------------------------------------------------

SELF_DISTILLED = pytest.mark.parametrize("name", ["distillation", "sdtt"])
BATCH = {"input_ids": X0, "attention_mask": torch.ones_like(X0)}


def same_weights(one, other):
    return all(map(torch.equal, one.parameters(), other.parameters()))


@SELF_DISTILLED
@pytest.mark.parametrize("average", ["false", "true"])
def test_the_teacher_is_the_student_of_every_nth_step(build, attach, name, average):
    model = build(name, 3, "algo.update_teacher_every=3", f"algo.teacher_ema={average}")
    trainer = attach(model, accumulate_grad_batches=2)
    fresh = []
    for trainer.global_step in range(7):
        for micro_batch in range(2):
            with torch.no_grad():
                for weight, mean in zip(
                    model.backbone.parameters(), model.ema.shadow_params, strict=True
                ):
                    weight.add_(0.01)
                    mean.add_(0.02)
            model.training_step(BATCH, 2 * trainer.global_step + micro_batch)
            source = model.ema.shadow_params if average == "true" else model.backbone.parameters()
            fresh.append(all(map(torch.equal, model.teacher.parameters(), source)))
    assert [i for i, is_fresh in enumerate(fresh) if is_fresh] == [0, 6, 12]
    assert not model.teacher.training
    assert not any(p.requires_grad for p in model.teacher.parameters())


@SELF_DISTILLED
def test_a_teacher_of_the_average_needs_one(build, name):
    with pytest.raises(Refused, match=r"training.ema is 0; algo.teacher_ema is true"):
        build(name, 3, "algo.teacher_ema=true", "training.ema=0")


@SELF_DISTILLED
def test_dt_doubles_with_every_teacher_or_grows_linearly(build, attach, name):
    model = build(name, 3, "algo.update_teacher_every=5", "algo.T=8")
    trainer, deltas = attach(model), []
    for trainer.global_step in (0, 4, 5, 9, 10, 15, 20, 99):
        deltas.append(model._compute_dt())
    assert deltas == [1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 2, 1, 1, 1]
    growth = ("linear_growth_dt=true", "linear_growth_min=0.1", "linear_growth_max=0.5")
    model = build(name, 3, *(f"algo.{setting}" for setting in growth))
    trainer = attach(model, max_steps=100)
    for trainer.global_step, wanted in [(0, 0.1), (50, 0.3), (100, 0.5)]:
        torch.testing.assert_close(model._compute_dt(), wanted)


def ready(build, attach, name, *overrides):
    """A student that has left its teacher."""
    model = build(name, 3, *overrides).train()
    attach(model)
    model._refresh_teacher()
    torch.nn.init.normal_(model.backbone.output_layer.linear.weight, std=0.5)
    return model


@SELF_DISTILLED
def test_the_loss_vanishes_where_student_and_teacher_must_agree(build, attach, name):
    model = ready(build, attach, name)
    model._compute_dt = lambda: 1e-9  # one time, one noise: one input
    assert model.nll(X0, None, 0, True).max() > 1e-3
    model._refresh_teacher()
    assert model.nll(X0, None, 0, True).abs().max() < 1e-6
    model._compute_dt = lambda: 0.5
    assert model.nll(X0, None, 0, True).max() > 1e-5


@SELF_DISTILLED
def test_the_teacher_is_not_saved(build, attach, name):
    model = ready(build, attach, name)
    checkpoint = {"state_dict": model.state_dict()}
    assert any(key.startswith("teacher") for key in checkpoint["state_dict"])
    model.on_save_checkpoint(checkpoint)
    student = [f"backbone.{key}" for key in model.backbone.state_dict()]
    assert list(checkpoint["state_dict"]) == student
    trained = list(model.configure_optimizers()[0][0].param_groups[0]["params"])
    assert {id(p) for p in trained} == {id(p) for p in model.backbone.parameters()}


@pytest.mark.parametrize(("name", "base"), [("distillation", "duo_base"), ("sdtt", "mdlm")])
def test_validation_of_a_distillation_is_the_bound(build, attach, name, base):
    model, base = ready(build, attach, name).eval(), build(base, 3)
    base.backbone.load_state_dict(model.backbone.state_dict())
    losses = []
    for one in (model, base):
        torch.manual_seed(0)
        losses.append(one.nll(X0, None))
    assert torch.equal(*losses)


# consistency distillation ----------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["kl-fwd", "kl-bwd"])
def test_the_student_matches_the_teacher_one_delta_earlier(build, attach, direction):
    """KL(teacher || student), or the other way round; both see one path at their own times."""
    model = ready(build, attach, "distillation", f"algo.loss_type={direction}", "algo.T=4")
    u = torch.tensor([0.2, 0.6])
    model._sample_t = lambda n, step: u if (n, step) == (2, 5) else None
    path = {}

    def trajectory(x0, t, s):
        assert torch.equal(x0, X0)
        torch.testing.assert_close(t, 1 / 4 + 3 / 4 * u)
        torch.testing.assert_close(s, t - 1 / 4)
        path.update(t=t, s=s)
        return XT % 3, X0

    model._sample_trajectory = trajectory
    nll = model.nll(X0, None, 5, True)
    student, teacher = (
        network(x, -model.gaussian(path[time])[0].log().float()).log_softmax(-1)
        for network, x, time in ((model.backbone, XT % 3, "t"), (model.teacher, X0, "s"))
    )
    p, q = (teacher, student) if direction == "kl-fwd" else (student, teacher)
    wanted = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(nll, wanted)
    nll.sum().backward()
    assert nll.min() > 0
    assert all(p.grad is None for p in model.teacher.parameters())
    assert any((p.grad != 0).any() for p in model.backbone.parameters())


def test_both_times_share_one_noise(build, monkeypatch):
    model, noises = build("distillation", 3, *GAUSSIAN), []
    torch.manual_seed(0)
    real = torch.randn_like
    monkeypatch.setattr(torch, "randn_like", lambda x: noises.append(real(x)) or noises[-1])
    x0, t, s = torch.randint(3, (50, 9)), torch.rand(50), torch.rand(50)
    xt, xs = model._sample_trajectory(x0, t, s)
    assert len(noises) == 1
    for tokens, time in ((xt, t), (xs, s)):
        a, scale = (value[:, None, None].float() for value in model.gaussian.scales(time))
        w = a * one_hot(x0, 3).float() + scale * noises[0]
        assert torch.equal(tokens, w.argmax(-1))
    assert not torch.equal(xt, xs)


# self-distillation through time ----------------------------------------------------------------


def dense_targets(model, z, t, dt, first_draw, steps=2):
    """Targets by their definition, a position at a time; z (L,), t and dt numbers.

    At each ancestral step a masked position becomes v with probability f_v (a_s - a_t) / (1 - a_t)
    and stays with (1 - a_s) / (1 - a_t). A position's target is log f of the step that unmasked it,
    of the last step if none did. Also returned: the probabilities of the first draw, (L, V).
    """
    targets, moves = one_hot(z, 4).log().clamp_min(-1e6), []
    for i in range(steps):
        a_t, a_s = (1 - 0.999 * (t - k * dt) for k in (i, i + 1))
        sigma = torch.tensor([-math.log(a_t) if model.time_conditioning else 0.0]).double()
        log_f = model.teacher(z[None], sigma)[0, :, :3].log_softmax(-1)
        moves.append(one_hot(z, 4))
        for l in range(len(z)):
            if z[l] == 3:
                moves[i][l, :3] = log_f[l].exp() * (a_s - a_t) / (1 - a_t)
                moves[i][l, 3] = (1 - a_s) / (1 - a_t)
        z_next = first_draw if i == 0 else torch.multinomial(moves[i], 1)[:, 0]
        for l in range(len(z)):
            if z[l] == 3 and (z_next[l] != 3 or i == steps - 1):
                targets[l, :3], targets[l, 3] = log_f[l], -1e6
        z = z_next
    return targets, moves[0]


@pytest.mark.parametrize("timed", ["false", "true"])
def test_a_target_is_the_teachers_of_the_step_that_unmasks(build, attach, drawn, timed):
    model = ready(build, attach, "sdtt", f"algo.time_conditioning={timed}")
    model.backbone.double()
    model.teacher.double()
    t, dt = 0.25 + 0.75 * column(range(30)) / 29, 0.125
    draws, update = [], model._ancestral_update

    def ancestral_update(*arguments):
        draws.append(update(*arguments))
        return draws[-1]

    model._ancestral_update = ancestral_update
    zt = torch.cat([XT] * 15)
    targets = model._targets(zt, t, dt)
    ((_, zs),), (moves,) = draws, drawn
    for b in range(30):
        wanted, wanted_moves = dense_targets(model, zt[b], t[b].item(), dt, zs[b])
        torch.testing.assert_close(targets[b], wanted, rtol=1e-12, atol=1e-12)
        masked = zt[b] == 3
        torch.testing.assert_close(moves[b][masked], wanted_moves[masked], rtol=1e-12, atol=1e-12)
    still_masked = zs[zt == 3] == 3
    assert 10 < still_masked.sum() < len(still_masked) - 10


@pytest.mark.parametrize("direction", ["kl-fwd", "kl-bwd"])
@pytest.mark.parametrize(("T", "dt"), [(8, 1 / 8), (1, 1 / 2)])
def test_one_step_of_the_student_matches_two_of_the_teacher(build, attach, direction, T, dt):
    """KL(teacher || student), or the other way round, at the masked positions of one z_t."""
    model = ready(build, attach, "sdtt", f"algo.loss_type={direction}", f"algo.T={T}")
    model.backbone.double()
    u = torch.tensor([0.2, 0.6]).double()
    t = (2 * dt + (1 - 2 * dt) * u)[:, None]
    model._sample_t = lambda n, step: u if (n, step) == (2, 5) else None
    taught = model._process_model_output(torch.randn(2, 3, 4).double(), XT, None)

    def corrupt(x, alpha_t):
        assert torch.equal(x, X0)
        torch.testing.assert_close(alpha_t, 1 - 0.999 * t)
        return XT

    def targets(zt, time, step):
        assert torch.equal(zt, XT) and step == dt
        torch.testing.assert_close(time, t)
        return taught

    model.q_xt, model._targets = corrupt, targets
    nll = model.nll(X0, None, 5, True)
    student = model.backbone(XT, torch.zeros(2).double())[..., :3].log_softmax(-1)
    for b, l in itertools.product(range(2), range(3)):
        if XT[b, l] != 3:
            assert nll[b, l] == 0
            continue
        p, q = student[b, l], taught[b, l, :3]
        p, q = (q, p) if direction == "kl-fwd" else (p, q)
        torch.testing.assert_close(nll[b, l], sum(p[v].exp() * (p[v] - q[v]) for v in range(3)))


def test_the_student_alone_learns_from_its_teacher(build, attach):
    model = ready(build, attach, "sdtt", "algo.T=4")
    nll = model.nll(X0, None, 0, True)
    assert nll.min() > -1e-6 and nll.max() > 1e-3
    nll.sum().backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    gradients = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert any((g != 0).any() for g in gradients) and all(g.isfinite().all() for g in gradients)


# autoregression --------------------------------------------------------------------------------


def test_the_loss_of_ar_is_cross_entropy(build):
    model = build("ar", 5)
    x, valid = torch.randint(5, (3, 7)), torch.ones(3, 7, dtype=torch.int64)
    valid[1, 4:] = 0
    losses = model._loss(x, valid)
    total = count = 0
    for b in range(3):
        for l in range(1, 7 if b != 1 else 4):
            logits = model.backbone(x[b : b + 1, :l], None)[0, -1]
            total += torch.nn.functional.cross_entropy(logits, x[b, l]).item()
            count += 1
    torch.testing.assert_close(losses.loss.item(), total / count)
    assert losses.num_tokens == count


def test_ar_samples_from_its_conditionals_after_the_bos(build, frequencies_match):
    model = build("ar", 3, "model.length=3")
    space = torch.cartesian_prod(torch.tensor([1]), torch.arange(3), torch.arange(3))
    with torch.no_grad():
        log_probs = model.forward(space[:, :-1]).gather(-1, space[:, 1:, None])[..., 0]
    torch.manual_seed(0)
    samples = model.generate_samples(20_000)
    assert (samples[:, 0] == 1).all()
    codes = samples[:, 1] * 3 + samples[:, 2]
    frequencies_match(codes.bincount(minlength=9), log_probs.sum(-1).exp())
