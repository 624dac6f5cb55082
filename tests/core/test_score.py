"""The process of SEDD: the loss (4) with all its terms, the student's gradient, the schedule."""

import pytest
import torch

from benchmarks import dense
from duo_ext.core import schedules
from duo_ext.core.score import ScoreProcess

V, B, L = 6, 5, 7
MASK = V - 1
GEOMETRIC = schedules.Geometric(1e-3, 5.0)
SETTINGS = {"scaled": {}, "unscaled": {"scaled": False}, "geometric": {"schedule": GEOMETRIC}}
PROCESSES = {name: ScoreProcess(V, MASK, **more) for name, more in SETTINGS.items()}
DENSE = {name: dense.Score(V, MASK, **more) for name, more in SETTINGS.items()}


@pytest.fixture
def batch():
    torch.manual_seed(0)
    x0 = torch.randint(0, MASK, (B, L))
    given = torch.zeros(B, L, dtype=torch.bool)
    given[:, :2] = True
    return x0, given


@pytest.fixture(params=SETTINGS)
def name(request):
    return request.param


@pytest.mark.parametrize("loss", ["fake_loss", "student_loss"])
def test_the_losses_are_score_entropy_with_a_relaxed_token(name, networks, batch, loss):
    """With all terms of (4) and every tensor (B, L, V); the student's is up to its constant."""
    student, fake, teacher = networks
    trained, others = {"fake_loss": (fake, ()), "student_loss": (student, (teacher,))}[loss]
    found = []
    for process in (PROCESSES[name], DENSE[name]):
        torch.manual_seed(1)
        value = getattr(process, loss)(student, fake, *others, *batch)
        found.append([value] if loss == "fake_loss" else [])
        found[-1] += torch.autograd.grad(value, list(trained.backbone.parameters()))
    for ours, textbook in zip(*found, strict=True):
        torch.testing.assert_close(ours, textbook, rtol=1e-10, atol=1e-12)


def test_the_loss_is_zero_at_the_true_scores_and_positive_elsewhere():
    """s_y = r f_y for the true f: at a one-hot token, f = that token."""
    process = PROCESSES["unscaled"]
    alpha = torch.tensor([0.3, 0.8], dtype=torch.float64)
    weight = -torch.ones(2, dtype=torch.float64)
    r = alpha / (1 - alpha)
    f = torch.tensor([[0.2, 0.1, 0.3, 0.15, 0.25, 0.0]], dtype=torch.float64).expand(2, V)

    def loss(log_s):
        return process.soft(f.log(), log_s, alpha, weight)[0]

    entropy = -(f[:, :MASK] * f[:, :MASK].log()).sum(-1)
    at_truth = loss((r[:, None] * f).log().nan_to_num(neginf=0.0))
    torch.testing.assert_close(at_truth, entropy)  # what a relaxed token leaves
    for seed in range(5):
        generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
        noise = torch.randn(2, V, generator=generator)
        assert (loss((r[:, None] * f).log().nan_to_num(neginf=0.0) + noise) > at_truth).all()


def test_the_geometric_schedule_and_its_slope():
    t = torch.linspace(0.01, 1, 7, dtype=torch.float64, requires_grad=True)
    alpha, dalpha = GEOMETRIC(t)
    torch.testing.assert_close(alpha, torch.exp(-(1e-3 ** (1 - t) * 5.0**t)))
    torch.testing.assert_close(dalpha, torch.autograd.grad(alpha.sum(), t)[0])
