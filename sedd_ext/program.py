"""What every mode builds of a configuration: graph, noise and model, the data, the sampler."""

from dataclasses import dataclass

import torch

from duo_ext import Refused
from duo_ext.data import texts
from duo_ext.measuring import batches, metrics
from duo_ext.measuring.judge import Judge
from duo_ext.weights import checkpoints
from sedd_ext import host


@dataclass
class Parts:
    """SEDD's objects for one configuration, on one device."""

    config: object
    device: torch.device
    graph: object
    noise: torch.nn.Module
    model: torch.nn.Module


def build(config, device):
    """Graph, noise and a fresh model. Raises Refused if SEDD knows no such graph or noise."""
    tree = host.active()
    graph = tree.module("graph_lib").get_graph(config, device)
    noise = tree.module("noise_lib").get_noise(config).to(device)
    model = tree.module("model").SEDD(config).to(device)
    return Parts(config, device, graph, noise, model)


def tokenizer_of(config):
    """``data.tokenizer``, whose length must be ``tokens``."""
    name = config.data.tokenizer
    tokenizer = texts.tokenizer(name, "data.tokenizer")
    if tokenizer.eos_token_id is None:
        raise Refused(f"data.tokenizer is '{name}': it has no EOS token")
    if len(tokenizer) != config.tokens:
        raise Refused(f"tokens is {config.tokens}; data.tokenizer '{name}' has {len(tokenizer)}")
    texts.require_ids(tokenizer, config.tokens, "data.tokenizer")
    return tokenizer


class _Given:
    """Has ``from_pretrained`` of a tokenizer class and gives the one tokenizer."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def from_pretrained(self, name):
        return self.tokenizer


def blocks(config, split, tokenizer):
    """The blocks (L,) of ``data.train`` or ``data.valid`` by SEDD's own data module.

    SEDD's module names the hub's gpt2 in its source, which is found nowhere offline; for this call
    the name means ``tokenizer``.
    """
    folder = config.data.train if split == "train" else config.data.valid
    data = host.active().module("data")
    own, data.GPT2TokenizerFast = data.GPT2TokenizerFast, _Given(tokenizer)
    try:
        return data.get_dataset(
            folder,
            split,
            cache_dir=config.data.cache_dir,
            block_size=config.model.length,
            num_proc=1,
        )
    except Exception:  # datasets raises the tokenizer's own, of no class
        texts.explain(folder, split, tokenizer, "data.tokenizer")
        raise
    finally:
        data.GPT2TokenizerFast = own


def held_out(blocks):
    """Blocks (N, L) of those of ``data.valid``, as many as statistics need."""
    return metrics.first_blocks(block["input_ids"][None] for block in blocks)


def judge(config, device):
    """``eval.judge``, ready to score texts."""
    return Judge(config.eval.judge, device, config.eval.perplexity_batch_size, key="eval.judge")


def at_a_time(config, graph):
    """``eval.batch_size``, or as many texts as fit a step of SEDD's own sampler if that is less."""
    bytes_of_a_text = batches.of_hosts_sampler(config.model.length, graph.dim)
    return min(config.eval.batch_size, batches.fitted(bytes_of_a_text, batches.BESIDE))


@dataclass(frozen=True)
class Way:
    """How texts are drawn: SEDD's sampling keys, the temperature, whether scores are renormalised,
    the precision of the scores."""

    steps: int
    predictor: str
    noise_removal: bool
    renormalise: bool = False
    temperature: float = 1.0
    float64: bool = True

    @classmethod
    def configured(cls, sampling, steps=None):
        """That of a configuration's ``sampling``, with another number of steps if one is given."""
        named = {key: sampling[key] for key in ("predictor", "noise_removal", "renormalise")}
        return cls(steps or sampling.steps, **named)


class Scores(torch.nn.Module):
    """A model as the sampler sees it: its log-scores in another precision, at a temperature, and
    renormalised: with the mass that the process has at a masked position.

    ``calls`` grows by one with each evaluation.
    """

    def __init__(self, parts, way):
        super().__init__()
        self.parts, self.way, self.calls = parts, way, []

    def forward(self, x_BL, sigma_B):
        self.calls.append(1)
        with torch.autocast(x_BL.device.type, enabled=False):  # as in ``networks.Denoiser``
            log_s = self.parts.model(x_BL, sigma_B)
        log_s = log_s.double() if self.way.float64 else log_s
        if self.way.temperature == 1 and not self.way.renormalise:
            return log_s
        return self._tempered(log_s, x_BL, sigma_B.to(log_s.dtype))

    def _tempered(self, log_s, x_BL, sigma_B):
        """The tokens' log-scores sharpened at masked positions, their sum kept or made r."""
        mask = self.parts.graph.dim - 1
        total = log_s[..., :mask].logsumexp(-1, keepdim=True)
        if self.way.renormalise:
            total = -torch.expm1(sigma_B).log()[:, None, None].expand_as(total)
        tokens = (log_s[..., :mask] / self.way.temperature).log_softmax(-1) + total
        tempered = torch.cat([tokens, log_s[..., -1:]], -1)
        return torch.where((x_BL == mask)[..., None], tempered, log_s)


def sampler(parts, way, project=lambda x_BL: x_BL):
    """(draw(size) -> tokens (size, L) by SEDD's own sampler, the list of network evaluations)."""
    sampling, scores = host.active().module("sampling"), Scores(parts, way)
    _check_way(way, parts.graph)
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


def _check_way(way, graph):
    if not graph.absorb and (way.renormalise or way.temperature != 1):
        raise Refused(
            "graph.type is 'uniform'; a temperature and renormalised scores are for absorb"
        )


def check(saved, parts, key):
    """Raise Refused if a file's weights do not fit the model."""
    checkpoints.check(saved, parts.model, key)
    checkpoints.check_config(saved, parts.config, key)
