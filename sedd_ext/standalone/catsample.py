"""Draws from rows of probabilities, which need not sum to one."""

import torch


def sample_categorical(categorical_probs):
    """One index for each row of (..., V): the winner of a race of exponentials, argmax p_i / E_i.

    E_i = -log U_i, with U drawn in the shape and the precision of the probabilities: those of
    float64 keep tokens that float32 never draws.
    """
    uniform = torch.rand_like(categorical_probs).clamp_min(1e-10)
    return (categorical_probs / -uniform.log()).argmax(-1)
