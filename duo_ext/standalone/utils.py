"""Learning-rate schedules, and checks with one clear sentence."""

import math

import torch

from duo_ext import Refused


class CosineDecayWarmupLRScheduler(torch.optim.lr_scheduler.LambdaLR):
    """Linear from ``warmup_lr_init`` to the base rate in ``warmup_t`` steps, then a half cosine
    of ``t_initial`` steps down to ``lr_min``."""

    def __init__(self, optimizer, t_initial, warmup_t=0, warmup_lr_init=0.0, lr_min=0.0):
        base = optimizer.param_groups[0]["lr"]

        def factor(step):
            if step < warmup_t:
                return (warmup_lr_init + (base - warmup_lr_init) * step / warmup_t) / base
            progress = min(1.0, (step - warmup_t) / max(1, t_initial))
            return (lr_min + (base - lr_min) * (1 + math.cos(math.pi * progress)) / 2) / base

        super().__init__(optimizer, factor)


def gradient_norm(parameters):
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def stop_if_not_finite(value, name, step):
    if not torch.isfinite(value):
        raise Refused(
            f"the {name} at step {step} is {value.item()}: training stops before the update, "
            "the last checkpoint is kept"
        )
