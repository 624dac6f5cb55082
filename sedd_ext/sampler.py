"""Texts by SEDD's own sampler, with what it has no setting for: precision, temperature, mass."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from torch import Tensor

from duo_ext import Refused
from duo_ext.measuring.draws import Draw
from sedd_ext import host
from sedd_ext.parts import Parts


@dataclass(frozen=True)
class Way:
    """How texts are drawn."""

    steps: int  # of the predictor: a network evaluation each
    predictor: str  # SEDD's name of a step: "euler" or "analytic"
    noise_removal: bool  # whether the last step draws what is masked still
    renormalise: bool = False  # whether masked positions' scores get the mass of the process
    temperature: float = 1.0  # of the scores at masked positions
    float64: bool = True  # whether scores are float64, or as the model gives them

    @classmethod
    def configured(cls, sampling: DictConfig) -> "Way":
        """The way that the section ``sampling`` of a configuration asks for."""
        named = ("steps", "predictor", "noise_removal", "renormalise")
        return cls(**{key: sampling[key] for key in named})


class Scores(torch.nn.Module):
    """A model as SEDD's sampler sees it: its log-scores as a ``Way`` asks for them.

    Called with x (B, L) and sigma (B,) it gives log-scores (B, L, V). ``calls`` is a list that
    grows by one with each evaluation.
    """

    def __init__(self, parts: Parts, way: Way):
        super().__init__()
        self.parts, self.way, self.calls = parts, way, []

    def forward(self, x_BL: Tensor, sigma_B: Tensor) -> Tensor:
        """Log-scores (B, L, V)."""
        self.calls.append(1)
        with torch.autocast(x_BL.device.type, enabled=False):  # as in ``networks.Denoiser``
            log_s = self.parts.model(x_BL, sigma_B)
        log_s = log_s.double() if self.way.float64 else log_s
        if self.way.temperature == 1 and not self.way.renormalise:
            return log_s
        return self._tempered(log_s, x_BL, sigma_B.to(log_s.dtype))

    def _tempered(self, log_s, x_BL, sigma_B):
        """Sharpen the tokens' log-scores where x is masked.

        The sum r of a position's scores is kept, or with ``renormalise`` made the one that the
        process has: 1 / (exp(sigma) - 1).
        """
        mask = self.parts.graph.dim - 1
        total = log_s[..., :mask].logsumexp(-1, keepdim=True)
        if self.way.renormalise:
            total = -torch.expm1(sigma_B).log()[:, None, None].expand_as(total)
        tokens = (log_s[..., :mask] / self.way.temperature).log_softmax(-1) + total
        tempered = torch.cat([tokens, log_s[..., -1:]], -1)
        return torch.where((x_BL == mask)[..., None], tempered, log_s)


def sampler(
    parts: Parts, way: Way, project: Callable[[Tensor], Tensor] = lambda x_BL: x_BL
) -> tuple[Draw, list]:
    """(draw, calls): draw(size) -> tokens (size, L) by SEDD's own sampler.

    ``calls`` is a list that grows by one with each network evaluation. ``project(x)`` is what the
    sampler makes of the tokens before every step and at the end: it puts a prompt back. Raises
    Refused for a predictor that SEDD does not have, and for a temperature on the uniform graph.
    """
    sampling, scores = host.active().module("sampling"), Scores(parts, way)
    check_way(way, parts.graph)
    try:
        sampling.get_predictor(way.predictor)
    except KeyError as error:
        raise Refused(
            f"sampling.predictor is '{way.predictor}'; it must be one of SEDD's: euler, analytic"
        ) from error

    def draw(size):
        sample = sampling.get_pc_sampler(
            parts.graph,
            parts.noise,
            (size, parts.config.model.length),
            way.predictor,
            way.steps,
            denoise=way.noise_removal,
            device=parts.device,
            proj_fun=project,
        )
        return project(sample(scores))

    return draw, scores.calls


def check_way(way: Way, graph: object) -> None:
    """Raise Refused for what a graph of SEDD's has not: a temperature on the uniform one."""
    if not graph.absorb and (way.renormalise or way.temperature != 1):
        raise Refused(
            "graph.type is 'uniform'; a temperature and renormalised scores are for absorb"
        )
