"""How a SEDD run looks at its student: by a sampler of the core, as ``evaluate --sampler`` does.

A look's texts have the law of SEDD's own sampler, which forms several float64 (B, L, V). What the
core's sampler cannot do is refused before the training.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig

from duo_ext.core import adapters
from duo_ext.core.score import ScoreProcess
from duo_ext.data.texts import Tokenizer
from duo_ext.measuring import batches, draws, held_out
from duo_ext.ranks import Ranks
from duo_ext.training.guard import Watch
from duo_ext.training.sampler import Sampler
from sedd_ext import data
from sedd_ext.parts import Parts

if TYPE_CHECKING:
    from sedd_ext.idlm import IDLM  # which imports this module


def noise_removal_of(config: DictConfig) -> str:
    """The core's ``noise_removal`` for the section ``sampling`` of a configuration.

    Raises Refused for settings of sampling that the core's sampler does not know. For log-linear
    noise SEDD's Euler predictor is its analytic one.
    """
    known = ("analytic", "euler") if config.noise.type == "loglinear" else ("analytic",)
    draws.require_of_guard("sampling.predictor", config.sampling.predictor, known)
    return "ancestral" if config.sampling.noise_removal else "none"


def process_of(parts: Parts) -> ScoreProcess:
    """The core's process that draws as the sections ``sampling`` and ``algo`` say: its samplers
    beside ancestral say themselves which masks are filled, so that scores need their mass."""
    config = parts.config
    renormalised = config.sampling.renormalise or config.algo.sampler != "ancestral"
    return parts.process(renormalised=renormalised)


def make(idlm: "IDLM", tokenizer: Tokenizer, valid: torch.utils.data.Dataset) -> Watch:
    """The ``Watch`` of a distillation (``algorithms.IDLM``), ready to begin.

    ``valid`` is the data set of the validation text (``data.blocks``).
    """
    config, parts, world = idlm.parts.config, idlm.parts, idlm.world

    def network(teacher):
        if teacher:
            return contextlib.nullcontext(idlm.opponents.teacher.eval())
        return averaged(parts.model, idlm.state["ema"])

    return Watch(
        settings=config.algo.guard,
        sampler=Sampler(
            process=process_of(parts),
            network=network,
            length=config.model.length,
            sampler=config.algo.sampler,
            grid=config.algo.grid,
            noise_removal=noise_removal_of(config),
            precision=config.algo.precision,
            time_conditioning=True,
        ),
        batch_size=batches.of_a_look(config.model.length, config.model.hidden_size),
        judge=parts.judge(),
        held_out=held_out.of(
            valid, data.batches(valid), tokenizer, parts.graph.dim, config.algo.prompt_length
        ),
        seed=config.seed,
        ranks=Ranks(world.rank, world.size),
    )


@contextlib.contextmanager
def averaged(model: torch.nn.Module, ema: object) -> Iterator[torch.nn.Module]:
    """The model in evaluation with its EMA weights, for the length of a with block.

    Adapters are merged into it.
    """
    parameters, training = adapters.trained(model), model.training
    ema.store(parameters)
    ema.copy_to(parameters)
    model.eval()
    try:
        yield adapters.merged(model)
    finally:
        ema.restore(parameters)
        ema.collected_params = []  # SEDD's average keeps a copy of the weights here
        model.train(training)
