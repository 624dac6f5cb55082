"""The process of SEDD: the loss (4) with all its terms, the student's gradient, the schedule."""

import math

import pytest
import torch
from torch.nn.functional import one_hot

from duo_ext.core import processes, schedules

V, B, L = 6, 5, 7
MASK = V - 1
GEOMETRIC = schedules.Geometric(1e-3, 5.0)
PROCESSES = {
    "scaled": processes.ScoreProcess(V, MASK),
    "unscaled": processes.ScoreProcess(V, MASK, scaled=False),
    "geometric": processes.ScoreProcess(V, MASK, schedule=GEOMETRIC),
}


@pytest.fixture
def networks(toy):
    return [toy(V, L, seed=seed) for seed in (1, 2, 3)]


@pytest.fixture
def batch():
    torch.manual_seed(0)
    x0 = torch.randint(0, MASK, (B, L))
    given = torch.zeros(B, L, dtype=torch.bool)
    given[:, :2] = True
    return x0, given


@pytest.fixture(params=PROCESSES)
def process(request):
    return PROCESSES[request.param]


def log_scores(process, logits, sigma_B11):
    """SEDD's network: its output minus log(exp(sigma) - 1) minus log(number of tokens)."""
    if not process.scaled:
        return logits
    return logits - torch.expm1(sigma_B11).log() - math.log(V - 1)


def score_entropy(process, logits, xhat, alpha_B):
    """sum_y s_y - r xhat_y log s_y + r (log r - 1) over the tokens y, (B, L); r = 1/expm1(sigma)"""
    sigma = -alpha_B.log()[:, None, None]
    r = 1 / torch.expm1(sigma)
    log_s = log_scores(process, logits, sigma)[..., :MASK]
    sums = (log_s.exp() - r * xhat[..., :MASK] * log_s).sum(-1)
    return sums + (r * (r.log() - 1))[..., 0]


def drawn(process, student, x0, given):
    """(x_s, xhat with gradient, alpha_s, d sigma / ds, where x_s is masked) of the next loss."""
    z, alpha_t, hidden, alpha_s, weight = process._draw(student, x0, given)
    logits = student(z, alpha_t)
    with torch.no_grad():
        x = process._renoise(z, hidden, student, student.features(z, alpha_t))
    probs = logits[..., :MASK].softmax(-1)
    probs = torch.cat([probs, torch.zeros(B, L, 1, dtype=probs.dtype)], -1)
    xhat = torch.where((z == MASK)[..., None], probs, one_hot(z, V).double())
    dsigma = -weight * (1 - alpha_s[:, None]) / alpha_s[:, None]
    return x, xhat, alpha_s, dsigma, hidden


def test_the_fake_loss_is_score_entropy_with_a_relaxed_token(process, networks, batch):
    student, fake, _ = networks
    torch.manual_seed(1)
    loss = process.fake_loss(student, fake, *batch)
    torch.manual_seed(1)
    x, xhat, alpha, dsigma, hidden = drawn(process, student, *batch)
    per_token = dsigma * score_entropy(process, fake(x, alpha), xhat.detach(), alpha)
    dense = (per_token * hidden).sum() / (~batch[1]).sum()
    torch.testing.assert_close(loss, dense, rtol=1e-10, atol=1e-12)
    for found in zip(*(gradients(value, fake) for value in (loss, dense)), strict=True):
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_the_students_gradient_is_that_of_teacher_minus_fake(process, networks, batch):
    student, fake, teacher = networks
    torch.manual_seed(1)
    loss = process.student_loss(student, fake, teacher, *batch)
    torch.manual_seed(1)
    x, xhat, alpha, dsigma, hidden = drawn(process, student, *batch)
    teachers, fakes = (score_entropy(process, f(x, alpha), xhat, alpha) for f in (teacher, fake))
    dense = (dsigma * (teachers - fakes) * hidden).sum() / (~batch[1]).sum()
    for found in zip(*(gradients(value, student) for value in (loss, dense)), strict=True):
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def gradients(loss, network):
    return torch.autograd.grad(loss, list(network.backbone.parameters()))


def test_the_loss_is_zero_at_the_true_scores_and_positive_elsewhere():
    """s_y = r f_y for the true f: at a one-hot token, f = that token."""
    process = PROCESSES["unscaled"]
    alpha = torch.tensor([0.3, 0.8], dtype=torch.float64)
    weight = -torch.ones(2, dtype=torch.float64)
    r = alpha / (1 - alpha)
    f = torch.tensor([[0.2, 0.1, 0.3, 0.15, 0.25, 0.0]], dtype=torch.float64).expand(2, V)

    def loss(log_s):
        log_s = process.log_f(log_s, alpha)
        soft = processes.absorbing_loss(log_s, f, weight)
        return soft + process.mass(log_s, alpha, weight)

    entropy = -(f[:, :MASK] * f[:, :MASK].log()).sum(-1)
    at_truth = loss((r[:, None] * f).log().nan_to_num(neginf=0.0))
    torch.testing.assert_close(at_truth, entropy)  # what a relaxed token leaves
    for seed in range(5):
        noise = torch.randn(2, V, generator=torch.Generator().manual_seed(seed))
        assert (loss((r[:, None] * f).log().nan_to_num(neginf=0.0) + noise) > at_truth).all()


def test_the_geometric_schedule_and_its_slope():
    t = torch.linspace(0.01, 1, 7, dtype=torch.float64, requires_grad=True)
    alpha, dalpha = GEOMETRIC(t)
    torch.testing.assert_close(alpha, torch.exp(-(1e-3 ** (1 - t) * 5.0**t)))
    torch.testing.assert_close(dalpha, torch.autograd.grad(alpha.sum(), t)[0])
