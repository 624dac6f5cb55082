"""Linear layers that hold a frozen weight in bf16, which takes half of its memory.

A product is formed in the dtype of its input, as with any weight. So the weight alone is rounded,
once and for all networks that share it; how these differ is not.
"""

import torch
from torch import Tensor


class _Linear(torch.autograd.Function):
    """x W^T + b of a weight that no gradient is of. W in the dtype of x lives as long as a product:
    the backward pass forms it again."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(weight)
        return torch.nn.functional.linear(x, weight.to(x.dtype), bias)

    @staticmethod
    def backward(ctx, gradient):
        (weight,) = ctx.saved_tensors
        of_x = gradient @ weight.to(gradient.dtype) if ctx.needs_input_grad[0] else None
        of_bias = gradient.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None
        return of_x, None, of_bias


class Halved(torch.nn.Linear):
    """A linear layer whose weight is frozen and held in bf16."""

    def forward(self, x: Tensor) -> Tensor:
        return _Linear.apply(x, self.weight, self.bias)


def halved(weight: Tensor) -> torch.nn.Parameter:
    """A weight as ``Halved`` holds it: rounded to bf16, without a gradient."""
    return torch.nn.Parameter(weight.bfloat16(), requires_grad=False)


def linear(
    cls: type[torch.nn.Linear], like: torch.nn.Linear, weight: torch.nn.Parameter
) -> torch.nn.Linear:
    """A layer of a class with a weight, and all else as in another layer, whose bias it shares."""
    made = cls(like.in_features, like.out_features, device="meta")
    made.weight, made.bias = weight, like.bias
    return made.train(like.training)
