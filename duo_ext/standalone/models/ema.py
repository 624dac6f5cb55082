"""Exponential moving average of parameters, in Duo's (and SEDD's) checkpoint layout."""

import torch

from duo_ext import Refused


class ExponentialMovingAverage:
    """shadow <- decay_n shadow + (1 - decay_n) parameter, with decay_n = min(decay, (1+n)/(10+n)).

    ``shadow_params`` is a list in the order of ``parameters`` (those that require a gradient); the
    checkpoint holds ``decay``, ``num_updates`` and this list, without names.
    """

    def __init__(self, parameters, decay, use_num_updates=True):
        if not 0.0 <= decay <= 1.0:
            raise Refused(f"training.ema is {decay}; it must lie between 0 and 1")
        self.decay = decay
        self.num_updates = 0 if use_num_updates else None
        self.shadow_params = [p.clone().detach() for p in parameters if p.requires_grad]
        self.collected_params = []

    def move_shadow_params_to_device(self, device):
        self.shadow_params = [s.to(device) for s in self.shadow_params]

    @torch.no_grad()
    def update(self, parameters):
        decay = self.decay
        if self.num_updates is not None:
            self.num_updates += 1
            decay = min(decay, (1 + self.num_updates) / (10 + self.num_updates))
        current = [p.detach() for p in parameters if p.requires_grad]
        torch._foreach_lerp_(self.shadow_params, current, 1 - decay)

    @torch.no_grad()
    def copy_to(self, parameters):
        """Write the averages into the parameters."""
        wanted = [p for p in parameters if p.requires_grad]
        for shadow, parameter in zip(self.shadow_params, wanted, strict=True):
            parameter.copy_(shadow)

    def store(self, parameters):
        """Remember the parameters, for ``restore``."""
        self.collected_params = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def restore(self, parameters):
        for stored, parameter in zip(self.collected_params, parameters, strict=True):
            parameter.copy_(stored)
        self.collected_params = []

    def state_dict(self):
        return {
            "decay": self.decay,
            "num_updates": self.num_updates,
            "shadow_params": self.shadow_params,
        }

    def load_state_dict(self, state_dict):
        shadow = state_dict["shadow_params"]
        shapes = [tuple(s.shape) for s in self.shadow_params]
        if [tuple(s.shape) for s in shadow] != shapes:
            raise Refused(
                "the checkpoint's EMA weights have other shapes than this model: "
                "check model.* and the tokenizer against the run that wrote it"
            )
        self.decay = state_dict["decay"]
        self.num_updates = state_dict["num_updates"]
        self.shadow_params = [s.detach().clone() for s in shadow]
