"""Sample SEDD checkpoints and measure the samples: ``python -m sedd_ext.evaluate --help``.

Every model is sampled by SEDD's own sampler, or by the core's (--sampler ancestral).
``duo_ext.commands.evaluation`` says what is written. --predictor renormalised is the analytic
predictor on scores to which the mass of the process is given, because a student's loss leaves their
mass free.
"""

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import omegaconf
import torch

from duo_ext import Refused, values
from duo_ext.commands import evaluation, line
from duo_ext.core.networks import Tempered
from duo_ext.core.score import ScoreProcess
from duo_ext.measuring import held_out, subject
from duo_ext.measuring.draws import Draw
from duo_ext.weights import checkpoints
from sedd_ext import data, host, runs
from sedd_ext.__main__ import hydra_arguments
from sedd_ext.parts import Parts
from sedd_ext.sampler import Way, check_way, sampler

SECTIONS = ("tokens", "graph", "noise", "model", "data")  # of a checkpoint's configuration
# {value of --predictor: (SEDD's name of the predictor, whether scores are renormalised)}
PREDICTORS = {"analytic": ("analytic", False), "euler": ("euler", False)}
PREDICTORS["renormalised"] = ("analytic", True)
REMOVALS = ("ancestral", "none")  # of SEDD's own sampler


@dataclass
class Subject(subject.Subject):
    """A SEDD checkpoint, ready to sample: the objects of its configuration with its weights."""

    parts: Parts

    def seed(self, seed: int) -> None:
        """Seed torch: the tokens are then those of ``mode=sample`` with this seed."""
        torch.manual_seed(seed)

    @contextlib.contextmanager
    def sampler(self, setting: subject.Setting, precision: str) -> Iterator[tuple[Draw, list]]:
        """(draw, calls) under a ``Setting``; see ``subject.Subject``."""
        own = self._hosts(setting, precision) if setting.by_host else self.by_core(setting)
        yield own

    def core(self, setting: subject.Setting) -> tuple[ScoreProcess, Tempered]:
        """The core's process and the network, at the setting's temperature."""
        process = self.parts.process(renormalised=setting.predictor == "renormalised")
        return process, Tempered.of(process, self.parts.model, True, setting.temperature)

    def require(self, setting: subject.Setting, precision: str) -> None:
        """Raise Refused for a setting that this checkpoint cannot be sampled under."""
        super().require(setting, precision)
        predictor = setting.predictor
        values.require("--predictor", predictor, PREDICTORS)
        if setting.nucleus != 1:
            raise Refused(f"nucleus is {setting.nucleus}; with SEDD's models it must be 1: none")
        if setting.by_host:
            values.require("--noise-removal", setting.noise_removal, REMOVALS)
            check_way(self._way(setting, precision), self.parts.graph)
            return
        if setting.sampler != "ancestral" and predictor != "renormalised":
            raise Refused(
                f"--predictor is {predictor}; --sampler {setting.sampler} says itself which masks "
                "are filled, so it must be renormalised"
            )
        if predictor == "euler":
            raise Refused(
                "--predictor is euler; --sampler ancestral has analytic (for log-linear noise the "
                "same) and renormalised"
            )
        if setting.temperature != 1 and predictor == "analytic":
            raise Refused(
                f"--temperature is {setting.temperature}; --sampler ancestral takes one with "
                "--predictor renormalised alone; --sampler spread and comb take any"
            )

    def _hosts(self, setting, precision):
        return sampler(self.parts, self._way(setting, precision))

    def _way(self, setting, precision):
        predictor, renormalise = PREDICTORS[setting.predictor]
        removal, float64 = setting.noise_removal == "ancestral", precision == "float64"
        return Way(setting.steps, predictor, removal, renormalise, setting.temperature, float64)

    def held_out(self) -> held_out.HeldOut:
        """The validation data, with which samples are compared."""
        valid = data.blocks(self.parts.config, "validation", self.tokenizer)
        return held_out.of(valid, data.batches(valid), self.tokenizer, self.vocab_size)


def load(role: str, path: str, options: argparse.Namespace) -> Subject:
    """The ``Subject`` of a checkpoint, for ``evaluation.Side``.

    ``role`` is "teacher" or "student", ``path`` as the command line gives it, ``options`` are those
    of the command. Raises Refused where the checkpoint or an option does not fit.
    """
    resolved, key = runs.in_run(line.resolve(path)), f"--{role}"
    saved = runs.denoiser(resolved, key, options.trust_checkpoint)
    config = _config(saved, options, f"{key} is '{path}'")
    tokenizer = data.tokenizer_of(config)
    with host.active().refusing():
        parts = Parts.trained(config, torch.device(options.device), saved, key)
    return Subject(
        role=role,
        path=path,
        algo=config.algo.name,
        sha256=checkpoints.sha256(resolved, parts.model),
        tokenizer=tokenizer,
        vocab_size=parts.graph.dim,
        length=config.model.length,
        data=config.data,
        parts=parts,
        trained_for=subject.trained_for(saved.config.get("algo", {})),
    )


def _config(saved, options, named):
    """SEDD's configuration with what the checkpoint says of its model and its data.

    Overrides of the command line stand in for a checkpoint that says nothing, and win over one
    that does; its algorithm alone is the checkpoint's in any case. ``named`` is how a sentence
    calls the checkpoint.
    """
    if not (saved.config or {"model", "data"} <= line.groups(options.overrides)):
        raise Refused(
            f"{named}; it carries no configuration to sample it with; give SEDD's settings: "
            "tokens=..., model=..., data=..."
        )
    config = host.active().compose(hydra_arguments(options.overrides))
    config.algo = omegaconf.OmegaConf.merge(config.algo, saved.config.get("algo", {}))
    line.as_trained(config, saved.config, SECTIONS, options.overrides)
    return config


def _add_options(parser):
    parser.add_argument("--predictor", nargs="+", choices=PREDICTORS)
    parser.add_argument("--noise-removal", nargs="+", choices=REMOVALS, default=["ancestral"])
    parser.set_defaults(nucleus=[1.0], predictor_of=_predictor_of)


def _predictor_of(sampler):
    """That of a sampler where --predictor is not given."""
    return "analytic" if sampler in ("host", "ancestral") else "renormalised"


SIDE = evaluation.Side(
    module="sedd_ext.evaluate",
    host="SEDD",
    add_options=_add_options,
    activate=lambda path: host.find(path).activate(),
    load=load,
)


def main(arguments: list[str] | None = None) -> None:
    """The command, with the words of the command line unless others are given."""
    evaluation.main(SIDE, arguments)


if __name__ == "__main__":
    main()
