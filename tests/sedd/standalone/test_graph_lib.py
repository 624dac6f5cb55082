"""The two graphs against their rate matrix, and the score entropy against its definition."""

import math

import pytest
import torch

SIGMA = 0.7


def columns(function, dim):
    """A matrix from a function that gives its columns."""
    return function(torch.arange(dim)[None])[0].double().T


# the forward process ---------------------------------------------------------------------------


def test_rates_are_those_of_the_rate_matrix(world):
    w = world()
    assert w.graph.dim == w.dim
    torch.testing.assert_close(columns(w.graph.rate, w.dim), w.Q, rtol=0, atol=1e-7)
    torch.testing.assert_close(columns(w.graph.transp_rate, w.dim), w.Q.T, rtol=0, atol=1e-7)
    assert w.Q.sum(0).abs().max() < 1e-15


@pytest.mark.parametrize("shape", [(1,), (1, 1), None])
def test_transitions_are_the_matrix_exponential(world, shape):
    """sigma is that of a sequence, (B,) or (B, 1), or of a token, (B, L)."""
    w = world()
    sigma = torch.full(shape or (1, w.dim), SIGMA, dtype=torch.float64)
    kernel = w.kernel(SIGMA)
    forth = columns(lambda i: w.graph.transition(i, sigma), w.dim)
    back = columns(lambda i: w.graph.transp_transition(i, sigma), w.dim)
    torch.testing.assert_close(forth, kernel, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(back, kernel.T, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(forth.sum(0), torch.ones(w.dim).double(), rtol=0, atol=1e-14)


def test_each_sequence_has_its_own_noise(world):
    w = world()
    i = torch.arange(w.dim).repeat(2, 1)
    sigma = torch.tensor([0.2, 3.0], dtype=torch.float64)
    for row, s in enumerate(sigma):
        found = w.graph.transp_transition(i, sigma)[row]
        torch.testing.assert_close(found, w.kernel(s), rtol=1e-13, atol=1e-14)


def test_small_noise_keeps_its_precision_in_float32(world):
    w, sigma = world(), torch.tensor([1e-6])
    moved = w.graph.transition(torch.zeros(1, 1, dtype=torch.int64), sigma)[0, 0, -1]
    torch.testing.assert_close(moved.double(), w.kernel(1e-6)[-1, 0], rtol=1e-6, atol=0)


def test_samples_of_the_forward_process(world, frequencies_match):
    w, count = world(), 20_000
    torch.manual_seed(0)
    for start in range(w.dim):
        for sigma in (0.3, 2.0):
            x = w.graph.sample_transition(
                torch.full((count, 2), start), torch.full((count, 1), sigma)
            )
            frequencies_match(x.flatten().bincount(minlength=w.dim), w.kernel(sigma)[:, start])


def test_the_limit(world, frequencies_match):
    w = world()
    torch.manual_seed(0)
    x = w.graph.sample_limit(1000, 7)
    assert x.shape == (1000, 7) and x.dtype == torch.int64
    frequencies_match(x.flatten().bincount(minlength=w.dim), w.kernel(60)[:, 0].round(decimals=9))


# the way back ----------------------------------------------------------------------------------


def test_the_reverse_rate_is_the_score_times_the_rate_of_the_way_forth(world):
    w = world()
    x, sigma = w.states, torch.full((len(w.states),), SIGMA, dtype=torch.float64)
    score = w.score(x, sigma)
    rate = w.graph.reverse_rate(x, score)
    for row, tokens in enumerate(x.tolist()):
        for l, i in enumerate(tokens):
            for y in range(w.dim):
                if y != i:
                    wanted = w.Q[i, y] * score[row, l, y]
                    torch.testing.assert_close(rate[row, l, y], wanted, rtol=1e-6, atol=1e-12)
    assert rate.sum(-1).abs().max() < 1e-12
    assert rate.dtype == torch.float64


def test_the_reverse_rate_is_the_derivative_of_the_reverse_posterior(world):
    w, step = world(), 1e-5
    sigma = torch.full((len(w.states),), SIGMA, dtype=torch.float64)
    rate = w.graph.reverse_rate(w.states, w.score(w.states, sigma))
    stay = torch.nn.functional.one_hot(w.states, w.dim)
    slope = (w.reverse(w.states, SIGMA - step, SIGMA) - stay) / step
    torch.testing.assert_close(rate, slope, rtol=1e-3, atol=1e-3)


def test_a_rate_is_sampled_from_where_the_token_is(world, frequencies_match):
    w = world()
    x = torch.ones(20_000, 1, dtype=torch.int64)
    rate = torch.full((w.dim,), 0.1)
    rate[1] = -0.1 * (w.dim - 1)
    torch.manual_seed(0)
    drawn = w.graph.sample_rate(x, rate.expand(len(x), 1, -1))
    rate[1] += 1
    frequencies_match(drawn.flatten().bincount(minlength=w.dim), rate)


def test_the_staggered_score_is_that_of_less_noise(world):
    """p_{sigma - dsigma}(x with y at l, the others as noisy as before) / p_sigma(x)."""
    w, dsigma = world(L=1), 0.3
    sigma = torch.full((len(w.states),), SIGMA, dtype=torch.float64)
    found = w.graph.staggered_score(
        w.score(w.states, sigma), torch.full((len(w.states), 1), dsigma, dtype=torch.float64)
    )
    wanted = w.at(SIGMA - dsigma) / w.at(SIGMA)[:, None]
    torch.testing.assert_close(found[:, 0], wanted, rtol=1e-12, atol=1e-14)


def test_the_staggered_score_leaves_the_score_as_it_is(world):
    w = world()
    score = torch.rand(2, 3, w.dim)
    before = score.clone()
    w.graph.staggered_score(score, torch.full((2, 1), 0.4))
    assert torch.equal(score, before)


# the score entropy -----------------------------------------------------------------------------


def every_pair(w):
    """All (x, x0) of one position, x0 a token that is no mask, x reachable from it."""
    pairs = [(x, x0) for x0 in range(w.V) for x in range(w.dim)]
    return [pair for pair in pairs if w.kernel(SIGMA)[pair] > 0]


def definition(w, x, x0, log_score, sigma):
    """sum_{y != x} Q(x, y) [s_y - r_y log s_y + K(r_y)], r_y = p(y | x0) / p(x | x0)."""
    kernel, total = w.kernel(sigma), 0.0
    for y in range(w.dim):
        if y != x and w.Q[x, y] > 0:
            r = (kernel[y, x0] / kernel[x, x0]).item()
            K = r * (math.log(r) - 1) if r > 0 else 0.0
            total += w.Q[x, y] * (log_score[y].exp() - r * log_score[y] + K)
    return total


def test_the_score_entropy_is_its_definition(world):
    w = world(V=4)
    pairs = every_pair(w)
    x, x0 = (torch.tensor(column)[None] for column in zip(*pairs, strict=True))
    torch.manual_seed(0)
    log_score = torch.randn(1, len(pairs), w.dim, dtype=torch.float64)
    sigma = torch.full((1, 1), SIGMA, dtype=torch.float64)
    found = w.graph.score_entropy(log_score, sigma, x, x0)
    wanted = [
        definition(w, *pair, row, SIGMA) for pair, row in zip(pairs, log_score[0], strict=True)
    ]
    torch.testing.assert_close(found[0], torch.tensor(wanted).double(), rtol=1e-12, atol=1e-12)
    assert (found >= 0).all() and found.max() > 0.1


def test_the_score_entropy_is_zero_at_the_true_ratios_and_flat(world):
    w = world(V=4)
    kernel = w.kernel(SIGMA)
    pairs = [pair for pair in every_pair(w) if w.kind == "uniform" or pair[0] == w.V]
    sigma = torch.full((1, 1), SIGMA, dtype=torch.float64)
    for x, x0 in pairs:
        ratios = (kernel[:, x0] / kernel[x, x0]).clamp_min(1e-30)
        log_score = ratios.log()[None, None].requires_grad_()
        entropy = w.graph.score_entropy(log_score, sigma, torch.tensor([[x]]), torch.tensor([[x0]]))
        assert entropy.abs().item() < 1e-13
        (slope,) = torch.autograd.grad(entropy.sum(), log_score)
        assert slope.abs().max() < 1e-13


def test_the_mean_over_clean_tokens_is_least_at_the_score(world):
    """Denoising: the minimum of E[entropy | x] is p_t(y) / p_t(x), which no x0 has alone."""
    w = world(L=1)
    sigma = torch.full((1, 1), SIGMA, dtype=torch.float64)
    for x in range(w.dim) if w.kind == "uniform" else [w.V]:
        log_score = w.score(torch.tensor([[x]]), sigma[0]).log().requires_grad_()
        posterior = w.reverse(torch.tensor([[x]]), 0.0, SIGMA)[0, 0]
        mean = sum(
            posterior[x0] * w.graph.score_entropy(log_score, sigma, *torch.tensor([[[x]], [[x0]]]))
            for x0 in range(w.V)
        )
        (slope,) = torch.autograd.grad(mean.sum(), log_score)
        slope[..., w.V :] = 0  # the mask's own score is no output
        assert slope.abs().max() < 1e-13
        assert mean > 1e-3


def test_positions_that_are_not_masked_cost_nothing(sedd):
    graph = sedd.graph_lib.Absorbing(3)
    x0, x = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 3, 2]])
    log_score = torch.randn(1, 3, 4, requires_grad=True)
    entropy = graph.score_entropy(log_score, torch.tensor([[0.5]]), x, x0)
    assert entropy[0, 0] == entropy[0, 2] == 0 < entropy[0, 1]
    (slope,) = torch.autograd.grad(entropy.sum(), log_score)
    assert (slope[0, [0, 2]] == 0).all() and (slope[0, 1, :3] != 0).all() and slope[0, 1, 3] == 0


@pytest.mark.parametrize("t", [1e-3, 0.03, 1.0])
def test_a_large_vocabulary_in_float32(sedd, kind, t):
    """At 50257 tokens and little noise, p(y | x0) / p(x0 | x0) is 2e-8: no difference of ones."""
    tokens = 50257
    graph = {"absorb": sedd.graph_lib.Absorbing, "uniform": sedd.graph_lib.Uniform}[kind](tokens)
    x0 = torch.tensor([[5, 6]])
    x = torch.tensor([[5, graph.dim - 1]])
    log_score = torch.randn(1, 2, graph.dim, generator=torch.Generator().manual_seed(0)) / 10
    sigma, _ = sedd.noise_lib.LogLinearNoise()(torch.tensor([[t]], dtype=torch.float64))
    found = graph.score_entropy(log_score, sigma.float(), x, x0)
    wanted = graph.score_entropy(log_score.double(), sigma, x, x0)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)


# by name ---------------------------------------------------------------------------------------


def test_graphs_by_name(sedd, compose):
    graph = sedd.graph_lib.get_graph(compose(), "cpu")
    assert isinstance(graph, sedd.graph_lib.Absorbing) and graph.dim == 6 and graph.absorb
    graph = sedd.graph_lib.get_graph(compose("graph.type=uniform"), "cpu")
    assert isinstance(graph, sedd.graph_lib.Uniform) and graph.dim == 5 and not graph.absorb
    with pytest.raises(ValueError, match=r"graph.type is 'star'; it must be absorb or uniform"):
        sedd.graph_lib.get_graph(compose("graph.type=star"), "cpu")
