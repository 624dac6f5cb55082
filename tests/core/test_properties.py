"""What holds for any vocabulary, length, batch, mask, time and logits: losses are finite, and not
negative where they are divergences; probabilities lie on the simplex; schedules keep to their ends.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duo_ext.core import gaussian, losses, rows, schedules
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.process import sample_times
from duo_ext.core.score import ScoreProcess
from duo_ext.core.uniform import UniformProcess

# log-probabilities of any size, but scores are exponentials: beyond this float32 has none
LARGEST = {"absorbing": 1e6, "on_policy": 1e6, "score": 60.0, "uniform": 1e6, "gaussian": 1e6}


class Table:
    """A network that says the same whatever it is shown: its weights are its logits (B, L, V)."""

    head_parameters, takes_mixtures = (), False

    def __init__(self, logits_BLV):
        self.logits_BLV = logits_BLV.requires_grad_()

    def features(self, x, alpha_B):
        return self.logits_BLV[: len(x)]

    def head(self, features):
        return features.clone()

    def head_backward(self, features, gradient, scale_R, into):
        return gradient * scale_R[:, None]

    def __call__(self, x, alpha_B):
        return self.features(x, alpha_B)

    @property
    def vocab_size(self):
        return self.logits_BLV.shape[-1]


def make(name, V):
    """The process of this name for a vocabulary of V, where the mask is the last token."""
    if name == "gaussian":
        schedule = schedules.GaussianSchedule.configured(V, None, None)
        return gaussian.GaussianUniformProcess(V, schedule, tau=1e-3)
    return {
        "absorbing": lambda: AbsorbingProcess(V, V - 1),
        "on_policy": lambda: AbsorbingProcess(V, V - 1, on_policy=1.0),
        "score": lambda: ScoreProcess(V, V - 1),
        "uniform": lambda: UniformProcess(V),
    }[name]()


@st.composite
def worlds(draw, largest):
    """(V, x0, given, logits of student, fake and teacher): anything, all tokens given too."""
    V, B, L = draw(st.integers(2, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 6))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.0, 1.0, 0.5 * largest, largest]))
    logits = [scale * (2 * torch.rand(B, L, V) - 1) for _ in range(3)]
    if draw(st.booleans()):  # a student that is certain of what the others exclude
        logits[0] = scale * torch.nn.functional.one_hot(logits[1].argmin(-1), V).float()
    share = draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    return V, torch.randint(0, V - 1, (B, L)), torch.rand(B, L) < share, logits


@pytest.mark.parametrize("name", LARGEST)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_losses_and_gradients_are_finite(name, data):
    V, x0, given_BL, logits = data.draw(worlds(LARGEST[name]))
    process, (student, fake, teacher) = make(name, V), map(Table, logits)
    losses = {
        fake: process.fake_loss(student, fake, x0, given_BL),
        student: process.student_loss(student, fake, teacher, x0, given_BL),
    }
    for network, loss in losses.items():
        assert loss.isfinite(), name
        (gradient,) = torch.autograd.grad(loss, network.logits_BLV, allow_unused=True)
        assert gradient is None or gradient.isfinite().all()
        if given_BL.all():
            assert loss == 0
    if name in ("absorbing", "on_policy", "score"):  # cross-entropy; score entropy
        assert losses[fake] >= -1e-5 * max(1.0, losses[fake].abs().item())


@settings(max_examples=200, deadline=None)
@given(data=st.data(), t=st.one_of(st.sampled_from([1e-3, 1.0]), st.floats(1e-3, 1.0)))
def test_the_uniform_loss_is_a_divergence_of_f_from_xhat(data, t):
    """(6) with all its terms is not negative at any xhat on the simplex: l(f) >= l(xhat)."""
    _, x0, _, logits = data.draw(worlds(1e6))
    f, xhat = (value.double().flatten(0, 1).softmax(-1) for value in logits[:2])
    alpha, dalpha = schedules.LogLinear()(torch.full((len(f),), t, dtype=torch.float64))
    xbar = losses.mix(xhat, alpha[:, None])
    z = x0.flatten()
    at_f, at_xhat = (
        losses.uniform_loss(losses.mix(value, alpha[:, None]), xbar, z, alpha, dalpha)
        for value in (f, xhat)
    )
    assert at_f.isfinite().all() and at_xhat.isfinite().all()
    assert (at_f - at_xhat >= -1e-9 * at_xhat.abs().clamp_min(1)).all()


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_probabilities_lie_on_the_simplex(data):
    V, x0, given_BL, logits = data.draw(worlds(1e6))
    absorbing, uniform = make("absorbing", V), make("uniform", V)
    xhat = absorbing.probs(logits[0])
    assert (xhat[..., V - 1] == 0).all()
    z = uniform.corrupt(x0, torch.rand(len(x0)), given_BL)
    assert torch.equal(z[given_BL], x0[given_BL])
    assert (xhat >= 0).all()
    torch.testing.assert_close(xhat.sum(-1), torch.ones(x0.shape))
    drawn = rows.sample_tokens(xhat, rows.uniforms(x0.shape, torch.get_default_device()))
    assert (xhat.gather(-1, drawn[..., None]) > 0).all()


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 50), eps=st.sampled_from([1e-12, 1e-5, 1e-3, 0.1]), seed=st.integers(0, 99))
def test_times_keep_away_from_zero_and_reach_one_at_most(n, eps, seed):
    torch.manual_seed(seed)
    times = sample_times(n, eps, torch.get_default_device())
    assert (times >= eps).all() and (times <= 1).all()


SCHEDULES = {
    "log-linear": lambda V: schedules.LogLinear(),
    "geometric": lambda V: schedules.Geometric(1e-3, 5.0),
    "Duo's own": lambda V: schedules.GaussianSchedule.configured(V, None, None),
    "wide": lambda V: schedules.GaussianSchedule(V, -14.0, 14.0),
}


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=20, deadline=None)
@given(V=st.sampled_from([2, 3, 24, 32, 2048, 50258]))
def test_alpha_stays_between_its_ends_and_falls(name, V):
    near = torch.logspace(-12, -1, 24, dtype=torch.float64)
    times = torch.cat([torch.zeros(1), near, 1 - near.flip(0), torch.ones(1)]).double()
    alpha, dalpha = SCHEDULES[name](V)(times)
    assert alpha.isfinite().all() and dalpha.isfinite().all()
    assert (alpha >= 0).all() and (alpha <= 1).all()
    assert (alpha.diff() <= 1e-12).all() and (dalpha <= 0).all()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_nan_where_alpha_is_one_or_zero(data):
    """At the ends themselves a loss may be infinite, but it is a number."""
    _, _, _, logits = data.draw(worlds(1e6))
    f, xhat = (value.flatten(0, 1).softmax(-1) for value in logits[:2])
    for end in (0.0, 1.0):
        alpha = torch.full((len(f),), end)
        xbar = losses.mix(xhat, alpha[:, None])
        fbar = losses.mix(f, alpha[:, None])
        assert (fbar > 0).all()
        z = rows.sample_tokens(
            xbar, rows.uniforms(len(f), torch.get_default_device())
        )  # what is drawn has a probability
        if end == 1.0:
            loss = losses.uniform_loss(fbar, xbar, z, alpha, -torch.ones_like(alpha))
            assert not loss.isnan().any()
