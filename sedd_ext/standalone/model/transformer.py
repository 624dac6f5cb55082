"""The score network: Duo's and SEDD's transformer, one state dict, with SEDD's output."""

import math

import omegaconf
import torch

from duo_ext import Refused
from duo_ext.standalone.models import dit


def plain(config):
    return omegaconf.OmegaConf.to_container(config, resolve=True)


class SEDD(dit.DIT, coders={omegaconf.DictConfig: (plain, omegaconf.OmegaConf.create)}):
    """Log-scores (B, L, dim) of tokens (B, L) at the total noise sigma (B,), 0 at the token itself.

    dim = ``tokens``, and one more for the mask with graph.type=absorb. The configuration may be a
    plain dict, as ``from_pretrained`` reads it from config.json.
    """

    def __init__(self, config):
        if isinstance(config, dict):
            config = omegaconf.OmegaConf.create(config)
        absorb = config.graph.type == "absorb"
        if config.model.scale_by_sigma and not absorb:
            raise Refused(
                f"model.scale_by_sigma is true; graph.type={config.graph.type} needs false"
            )
        network = {"model": config.model, "algo": {"causal_attention": False}}
        super().__init__(network, config.tokens + absorb)
        self.config, self.absorb = config, absorb
        self.scale_by_sigma = config.model.scale_by_sigma

    def forward(self, indices, sigma):
        log_score = super().forward(indices, sigma)
        if self.scale_by_sigma:  # the mean ratio over the tokens beside the mask, as a start
            log_ratio = -torch.expm1(sigma).log() - math.log(self.vocab_size - 1)
            log_score = log_score + log_ratio[:, None, None].to(log_score)
        return log_score.scatter(-1, indices[..., None], 0.0)
