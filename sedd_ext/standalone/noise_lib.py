"""Noise schedules: sigma_t, the total noise after time t in [0, 1], and its rate d sigma_t / dt."""

import math

import torch
from torch import nn

from duo_ext import Refused


def get_noise(config):
    """The schedule that ``noise.type`` names."""
    if config.noise.type == "loglinear":
        return LogLinearNoise()
    if config.noise.type == "geometric":
        return GeometricNoise(config.noise.sigma_min, config.noise.sigma_max)
    raise Refused(f"noise.type is '{config.noise.type}'; it must be loglinear or geometric")


class Noise(nn.Module):
    """``noise(t)`` is (total_noise(t), rate_noise(t)), in the shape and the precision of t."""

    def __init__(self):
        super().__init__()
        # SEDD's optimizer lists this parameter after the model's: without it, the optimizer states
        # of its checkpoints would not fit. It has no gradient.
        self.empty = nn.Parameter(torch.zeros(()))

    def forward(self, t):
        return self.total_noise(t), self.rate_noise(t)


class LogLinearNoise(Noise):
    """sigma_t = -log(1 - (1 - eps) t): the share of replaced tokens is linear in t."""

    def __init__(self, eps=1e-3):
        super().__init__()
        self.eps = eps

    def total_noise(self, t):
        return -torch.log1p((self.eps - 1) * t)

    def rate_noise(self, t):
        return (1 - self.eps) / (1 + (self.eps - 1) * t)


class GeometricNoise(Noise):
    """sigma_t = sigma_min^(1 - t) sigma_max^t."""

    def __init__(self, sigma_min=1e-3, sigma_max=1.0):
        super().__init__()
        if not 0 < sigma_min < sigma_max:
            raise Refused(
                f"noise.sigma_min is {sigma_min} and noise.sigma_max is {sigma_max}; "
                "0 < sigma_min < sigma_max is needed"
            )
        self.sigma_min = sigma_min
        self.log_growth = math.log(sigma_max / sigma_min)

    def total_noise(self, t):
        return self.sigma_min * torch.exp(self.log_growth * t)

    def rate_noise(self, t):
        return self.log_growth * self.total_noise(t)
