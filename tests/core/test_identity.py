"""The IDLM loss is a KL divergence: exact statements on enumerated spaces (method.md).

With the exact optimal networks of p* and of the student's p, the loss integrated over s is
KL(p || p*). The student here is a table over whole sequences, so xhat is one-hot.
"""

import numpy
import pytest
import torch
from torch.nn.functional import one_hot, pad

from duo_ext.core.losses import absorbing_hard, mix, uniform_loss

SIZES = [(2, 1), (3, 1), (2, 2), (3, 2), (2, 3), (3, 3)]


def random_distribution(V, N, seed):
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    logits = torch.randn(V**N, generator=generator, dtype=torch.float64)
    return logits.softmax(0)


def gauss_legendre(n):
    x, w = numpy.polynomial.legendre.leggauss(n)
    return torch.tensor((x + 1) / 2), torch.tensor(w / 2)


def kl(p, q):
    return (p * (p / q).log()).sum()


def masked_posterior(p, space, x, hidden, V):
    """p(x_l | the tokens of x that are not hidden) for each hidden l, (hidden, V)."""
    visible = [l for l in range(len(x)) if l not in hidden]
    weight = p * (space[:, visible] == x[visible]).all(1)
    rows = [torch.stack([weight[space[:, l] == v].sum() for v in range(V)]) for l in hidden]
    return torch.stack(rows) / weight.sum()


def absorbing_losses(fake, teacher, space, V):
    """Teacher's loss minus fake's for each sequence, integrated over alpha_s = 1 - s, (V^N,)."""
    N = space.shape[1]
    s, weights = gauss_legendre(8)
    losses = torch.zeros(len(space), dtype=torch.float64)
    for subset in range(1, 2**N):
        hidden = [l for l in range(N) if subset >> l & 1]
        m = len(hidden)
        # dalpha / (1 - alpha) = -1 / s, and this mask has probability s^m (1 - s)^(N - m)
        weight = (weights * -1 / s * s**m * (1 - s) ** (N - m)).sum()
        for index, x in enumerate(space):
            values = [
                absorbing_hard(
                    pad(masked_posterior(p, space, x, hidden, V).log(), (0, 1)),  # and the mask
                    weight.expand(m), x[hidden], mask=V,
                )[0]
                for p in (teacher, fake)
            ]  # fmt: skip
            losses[index] += (values[0] - values[1]).sum()
    return losses


def leave_one_out(p, space, keep, V):
    """p(x_l | z without z_l) for all z, (V^N, N, V); keep = the transition matrix of a token."""
    return _posterior(p, space, keep, V, own_token=False)


def own_token_posterior(p, space, keep, V):
    """p(x_l | z), which is not what the uniform loss is optimal at."""
    return _posterior(p, space, keep, V, own_token=True)


def _posterior(p, space, keep, V, own_token):
    likelihood = keep[space[:, None, :], space[None, :, :]]  # [x, z, l]
    columns = []
    for l in range(space.shape[1]):
        seen = [k for k in range(space.shape[1]) if own_token or k != l]
        joint = p[:, None] * likelihood[:, :, seen].prod(-1)
        rows = torch.stack([joint[space[:, l] == v].sum(0) for v in range(V)], -1)
        columns.append(rows / rows.sum(-1, keepdim=True))
    return torch.stack(columns, 1)


def uniform_losses(fake, teacher, space, V, nodes=64, posterior=leave_one_out):
    """The same for the uniform process, integrated over alpha (dalpha/dt = -1)."""
    N = space.shape[1]
    losses = torch.zeros(len(space), dtype=torch.float64)
    rows = len(space) * N
    z = space.reshape(-1)
    for alpha, weight in zip(*gauss_legendre(nodes), strict=True):
        keep = alpha * torch.eye(V, dtype=torch.float64) + (1 - alpha) / V
        probability = keep[space[:, None, :], space[None, :, :]].prod(-1)  # [x, z]
        bars = [mix(posterior(p, space, keep, V).reshape(-1, V), alpha) for p in (teacher, fake)]
        for index, x in enumerate(space):
            xbar = mix(one_hot(x, V).double(), alpha).expand(len(space), N, V)
            values = [
                uniform_loss(fbar, xbar.reshape(-1, V), z, alpha, -torch.ones(rows).double())
                for fbar in bars
            ]
            per_z = (values[0] - values[1]).view(-1, N).sum(-1)
            losses[index] += weight * (probability[index] * per_z).sum()
    return losses


LOSSES = {"absorbing": absorbing_losses, "uniform": uniform_losses}


@pytest.mark.parametrize("V, N", SIZES)
@pytest.mark.parametrize("process", LOSSES)
def test_loss_is_the_kl(space, process, V, N):
    p, p_star = (random_distribution(V, N, seed) for seed in (1, 2))
    idlm = (p * LOSSES[process](p, p_star, space(V, N), V)).sum()
    assert abs(idlm - kl(p, p_star)) < 1e-10


def test_uniform_identity_needs_the_leave_one_out_posterior(space):
    p, p_star = (random_distribution(2, 2, seed) for seed in (1, 2))
    losses = uniform_losses(p, p_star, space(2, 2), 2, posterior=own_token_posterior)
    assert abs((p * losses).sum() - kl(p, p_star)) > 1e-2


@pytest.mark.parametrize("process", LOSSES)
def test_zero_only_at_the_teacher(space, process):
    points, p_star = space(2, 2), random_distribution(2, 2, 0)
    assert LOSSES[process](p_star, p_star, points, 2).abs().max() == 0
    for seed in range(1, 11):
        p = random_distribution(2, 2, seed)
        assert (p * LOSSES[process](p, p_star, points, 2)).sum() > 1e-4


@pytest.mark.parametrize("process", LOSSES)
def test_descent_reaches_the_teacher(space, process):
    """Gradient descent on the table; the fake is exact and fixed within a step."""
    options = {"nodes": 8} if process == "uniform" else {}
    points, p_star = space(2, 2), random_distribution(2, 2, 0)
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(200):
        p = logits.softmax(0)
        losses = LOSSES[process](p.detach(), p_star, points, 2, **options)
        optimizer.zero_grad()
        (p * losses).sum().backward()
        optimizer.step()
    assert kl(logits.softmax(0).detach(), p_star) < 1e-5
