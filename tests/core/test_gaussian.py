"""Gaussian noise on tokens: the few that count, drawn without the others."""

import copy

import pytest
import torch

from duo_ext.core import gaussian, schedules
from duo_ext.core.networks import Denoiser, Mixture


@pytest.mark.parametrize(("tau", "mixed"), [(1e-3, True), (1.0, False)])
@pytest.mark.parametrize("loss", ["fake_loss", "student_loss"])
def test_mixtures_of_the_largest_are_the_soft_tokens(
    standalone, tiny, monkeypatch, tau, mixed, loss
):
    """Equal to 1e-6, gradients included; a temperature at which the rest counts gets all of V."""
    torch.manual_seed(0)
    dit = standalone.module("models").dit.DIT(tiny("algo=duo_base"), vocab_size=32).double()
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    networks = [Denoiser(copy.deepcopy(dit), True) for _ in range(3)]
    for network in networks:
        torch.nn.init.normal_(network.backbone.vocab_embed.embedding, std=0.2)
    trained = networks[0 if loss == "student_loss" else 1].backbone
    seen, features = [], Denoiser.features
    monkeypatch.setattr(
        Denoiser, "features", lambda self, x, alpha: seen.append(x) or features(self, x, alpha)
    )

    x0, given = torch.randint(0, 32, (4, 16)), torch.zeros(4, 16, dtype=torch.bool)
    given[:, :3] = True
    schedule = schedules.GaussianSchedule(32, -2.0, 2.0)
    process = gaussian.GaussianUniformProcess(32, schedule, tau=tau, top=16)
    found = []
    for whole in (False, True):
        process.mixtures = not whole
        torch.manual_seed(1)
        value = getattr(process, loss)(*networks[: 3 if loss == "student_loss" else 2], x0, given)
        found.append([value, *torch.autograd.grad(value, list(trained.parameters()))])
        assert {isinstance(x, Mixture) for x in seen} == {mixed and not whole}
        seen.clear()
    for sparse, dense in zip(*found, strict=True) if mixed else ():  # else of other noise
        torch.testing.assert_close(sparse, dense, rtol=1e-6, atol=1e-6 * dense.abs().max().item())


def test_the_largest_normals_are_distributed_as_those_of_all():
    """Means and spreads of the three largest of 50; each place as often as another."""
    torch.manual_seed(0)
    values, places = gaussian.largest_normals(40_000, 50, 3, torch.get_default_device())
    whole = torch.randn(40_000, 50, dtype=torch.float64).topk(3).values
    torch.testing.assert_close(values.mean(0), whole.mean(0), atol=0.01, rtol=0)
    torch.testing.assert_close(values.std(0), whole.std(0), atol=0.01, rtol=0)
    torch.testing.assert_close(torch.corrcoef(values.T), torch.corrcoef(whole.T), atol=0.02, rtol=0)
    for places_R in places.T:
        shares = places_R.bincount(minlength=50).double() / 40_000
        assert (shares - 1 / 50).abs().max() < 0.004


@pytest.mark.parametrize("n", [3, 4, 7])
def test_places_are_different_and_in_every_order(n):
    torch.manual_seed(0)
    places = gaussian.different(20_000, n, 3, torch.get_default_device())
    assert ((places >= 0) & (places < n)).all()
    orders, counts = places.unique(dim=0, return_counts=True)
    assert len(orders) == n * (n - 1) * (n - 2)
    assert all(len(set(order)) == 3 for order in orders.tolist())
    assert (counts / 20_000 * len(orders) - 1).abs().max() < 5 * (len(orders) / 20_000) ** 0.5


@pytest.mark.parametrize("K", [2, 5, 16])
def test_noise_on_a_token_is_that_of_all_v(K):
    """How often x0 comes first and second, and the mean of the first and last that are kept."""
    R, V, a, s = 30_000, 12, 0.6, 0.5
    torch.manual_seed(0)
    x0 = torch.randint(0, V, (R,))
    levels = torch.full((R, 1), a), torch.full((R, 1), s)
    w, tokens = gaussian.largest_noised(x0, V, K, *levels)
    whole = s * torch.randn(R, V) + a * torch.nn.functional.one_hot(x0, V)
    wanted, places = whole.topk(min(K, V))
    assert w.shape == wanted.shape
    assert all(len(set(row)) == len(row) for row in tokens[:200].tolist())
    torch.testing.assert_close(w.mean(0), wanted.mean(0), atol=0.015, rtol=0)
    ours, theirs = ((found == x0[:, None]).double().mean(0) for found in (tokens, places))
    torch.testing.assert_close(ours, theirs, atol=0.015, rtol=0)


def test_what_completes_the_largest_is_the_rest_of_the_noise():
    R, V, K, a, s = 20_000, 9, 3, 0.7, 0.5
    torch.manual_seed(0)
    p = torch.softmax(3 * torch.randn(V), 0).expand(R, V)
    levels = torch.full((R, 1), a), torch.full((R, 1), s)
    w = s * torch.randn(R, V) + a * p
    largest, tokens = w.topk(K)
    again = gaussian.completed(p, largest, tokens, *levels, 3)
    found, places = again.topk(K)
    torch.testing.assert_close(found, largest)
    assert (places == tokens).double().mean() > 0.999
    torch.testing.assert_close(again.mean(0), w.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(again.std(0), w.std(0), atol=0.02, rtol=0)
