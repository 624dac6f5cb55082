"""Samplers: the reverse process in steps, each one function of the score.

Every draw is ``sample_categorical``'s, one for each predictor step and one for the last denoising
step, in the precision of the score that the model gives. ``steps`` steps cost as many evaluations
of the network, the denoising step one more.
"""

import torch
from catsample import sample_categorical
from model import utils as mutils

from duo_ext import Refused

_PREDICTORS = {}


def register_predictor(cls=None, *, name=None):
    """Decorator: the class is known to ``get_predictor`` by ``name``, or by its own."""

    def register(cls):
        known = name or cls.__name__
        if known in _PREDICTORS:
            raise ValueError(f"predictor '{known}' is registered already")
        _PREDICTORS[known] = cls
        return cls

    return register if cls is None else register(cls)


def get_predictor(name):
    if name not in _PREDICTORS:
        raise Refused(
            f"sampling.predictor is '{name}'; it must be one of {', '.join(sorted(_PREDICTORS))}"
        )
    return _PREDICTORS[name]


class Predictor:
    """``update_fn(score_fn, x, t, step_size)``: tokens (B, L) at time t (B, 1) one step earlier."""

    def __init__(self, graph, noise):
        self.graph = graph
        self.noise = noise

    def earlier(self, score_fn, x, sigma, dsigma):
        """p(x_{sigma - dsigma} = y at l | x_sigma = x) over y, (B, L, dim): the paper's Tweedie
        formula (exp(-dsigma Q) s)_y exp(dsigma Q)(x, y), exact at each l where the score is."""
        staggered = self.graph.staggered_score(score_fn(x, sigma), dsigma)
        return staggered * self.graph.transp_transition(x, dsigma)


@register_predictor(name="none")
class NonePredictor(Predictor):
    """Leaves the tokens as they are."""

    def update_fn(self, score_fn, x, t, step_size):
        return x


@register_predictor(name="euler")
class EulerPredictor(Predictor):
    """A step along the reverse rate at t, of first order in its length (tau-leaping)."""

    def update_fn(self, score_fn, x, t, step_size):
        sigma, rate = self.noise(t)
        reverse = self.graph.reverse_rate(x, score_fn(x, sigma))
        return self.graph.sample_rate(x, step_size * rate[..., None] * reverse)


@register_predictor(name="analytic")
class AnalyticPredictor(Predictor):
    """The Tweedie step between two noise levels."""

    def update_fn(self, score_fn, x, t, step_size):
        sigma, _ = self.noise(t)
        sigma_earlier, _ = self.noise(t - step_size)
        return sample_categorical(self.earlier(score_fn, x, sigma, sigma - sigma_earlier))


class Denoiser(Predictor):
    """The Tweedie step to no noise at all; the mask is no result."""

    def update_fn(self, score_fn, x, t):
        sigma, _ = self.noise(t)
        probs = self.earlier(score_fn, x, sigma, sigma)
        return sample_categorical(probs[..., :-1] if self.graph.absorb else probs)


def get_sampling_fn(config, graph, noise, batch_dims, eps, device):
    """The sampler that ``sampling`` describes."""
    return get_pc_sampler(
        graph=graph,
        noise=noise,
        batch_dims=batch_dims,
        predictor=config.sampling.predictor,
        steps=config.sampling.steps,
        denoise=config.sampling.noise_removal,
        eps=eps,
        device=device,
    )


def get_pc_sampler(
    graph,
    noise,
    batch_dims,
    predictor,
    steps,
    denoise=True,
    eps=1e-5,
    device="cpu",
    proj_fun=lambda x: x,
):
    """A function model -> tokens ``batch_dims`` = (B, L): from t = 1 in ``steps`` equal steps to
    eps, then, with ``denoise``, to 0.

    ``proj_fun(x)`` comes before every step: it puts back tokens that are given.
    """
    if steps < 1:
        raise Refused(f"sampling.steps is {steps}; it must be 1 or more")
    predictor = get_predictor(predictor)(graph, noise)
    denoiser = Denoiser(graph, noise)

    @torch.no_grad()
    def pc_sampler(model):
        score_fn = mutils.get_score_fn(model, sampling=True)
        x = graph.sample_limit(*batch_dims).to(device)
        times = torch.linspace(1, eps, steps + 1, device=device)
        *before, last = times.expand(len(x), 1, -1).unbind(-1)
        for t in before:
            x = predictor.update_fn(score_fn, proj_fun(x), t, (1 - eps) / steps)
        return denoiser.update_fn(score_fn, proj_fun(x), last) if denoise else x

    return pc_sampler
