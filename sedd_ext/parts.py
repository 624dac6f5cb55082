"""SEDD's objects for one configuration: graph, noise, model, and the core's process of them."""

from dataclasses import dataclass

import torch
from omegaconf import DictConfig

from duo_ext import Refused
from duo_ext.core import schedules
from duo_ext.core.score import ScoreProcess
from duo_ext.measuring import batches
from duo_ext.measuring.judge import Judge
from duo_ext.weights import checkpoints
from sedd_ext import host


@dataclass
class Parts:
    """What every mode works with, on one device."""

    config: DictConfig
    device: torch.device
    graph: object  # of SEDD's graph_lib
    noise: torch.nn.Module  # of SEDD's noise_lib
    model: torch.nn.Module  # SEDD's network of log-scores

    @classmethod
    def build(cls, config: DictConfig, device: torch.device) -> "Parts":
        """Make graph, noise and a fresh model of a configuration.

        What SEDD raises of a graph or a noise that it does not know passes through.
        """
        tree = host.active()
        graph = tree.module("graph_lib").get_graph(config, device)
        noise = tree.module("noise_lib").get_noise(config).to(device)
        model = tree.module("model").SEDD(config).to(device)
        return cls(config, device, graph, noise, model)

    @classmethod
    def trained(
        cls, config: DictConfig, device: torch.device, saved: checkpoints.Saved, key: str
    ) -> "Parts":
        """As ``build``, with the EMA weights of a file (``Saved``), in evaluation.

        ``key`` is the setting that named the file. Raises Refused where its weights do not fit.
        """
        parts = cls.build(config, device)
        checkpoints.fill(parts.model, saved, config, key)
        parts.model.eval()
        return parts

    def process(self, **settings) -> ScoreProcess:
        """The core's process of graph and noise; ``settings`` are its further arguments.

        The distillation and ``--sampler ancestral`` need it. Raises Refused for the uniform graph.
        """
        config = self.config
        if not self.graph.absorb:
            raise Refused(
                "graph.type is 'uniform'; algo=idlm and the core's samplers take absorb: a network "
                "of scores of the uniform graph gives no distribution of clean tokens"
            )
        if config.noise.type == "geometric":
            schedule = schedules.Geometric(config.noise.sigma_min, config.noise.sigma_max)
        else:
            schedule = schedules.LogLinear()
        return ScoreProcess(
            vocab_size=self.graph.dim,
            mask_index=self.graph.dim - 1,
            schedule=schedule,
            scaled=config.model.scale_by_sigma,
            **settings,
        )

    def judge(self) -> Judge:
        """The language model ``eval.judge``, ready to score texts."""
        settings = self.config.eval
        return Judge(settings.judge, self.device, settings.perplexity_batch_size, key="eval.judge")

    @property
    def at_a_time(self) -> int:
        """How many texts SEDD's sampler and loss take at a time.

        ``eval.batch_size``, or as many as fit a step of the sampler if that is less.
        """
        bytes_of_a_text = batches.of_hosts_sampler(self.config.model.length, self.graph.dim)
        return min(self.config.eval.batch_size, batches.fitted(bytes_of_a_text, batches.BESIDE))
