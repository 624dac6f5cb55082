"""Holes: texts of which one span is written and the rest is given, as inputs of a distillation.

A student that fills holes meets tokens on both sides of what it writes. Any share of inputs may be
such texts, because the teacher is a model of every conditional law of its data.
"""

import torch
from torch import Tensor


def opened(given_BL: Tensor, share: float) -> Tensor:
    """``given_BL``, where in a share of the texts all is given but a random span.

    The span is what of the text was not given before between two uniform places. A text in which
    nothing would be left to write stays as it was.
    """
    B, L = given_BL.shape
    first_B, last_B = (torch.rand(2, B, device=given_BL.device) * L).long().sort(0).values
    place_L = torch.arange(L, device=given_BL.device)
    outside_BL = (place_L < first_B[:, None]) | (place_L > last_B[:, None])
    hole_BL = given_BL | outside_BL
    chosen_B = (torch.rand(B, device=given_BL.device) < share) & ~hole_BL.all(1)
    return torch.where(chosen_B[:, None], hole_BL, given_BL)
