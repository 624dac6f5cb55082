"""Sample Duo checkpoints and measure the samples: ``python -m duo_ext.evaluate --help``.

Every model is sampled by Duo's own sampler, or by a sampler of the core (--sampler).
``commands.evaluation`` says what is written.
"""

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from duo_ext import Refused, families, host, values
from duo_ext.commands import evaluation, line
from duo_ext.commands.line import resolve
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.networks import Tempered
from duo_ext.core.sampled import Sampled
from duo_ext.measuring import draws, held_out, subject
from duo_ext.weights import checkpoints, pretrained

PREDICTORS = ("ancestral", "psi")
SECTIONS = ("algo", "model", "data")  # of a checkpoint's configuration; the rest is the host's


@dataclass
class Subject(subject.Subject):
    """A Duo checkpoint in the host's class of its family."""

    model: torch.nn.Module
    # (a seed, the state of the CPU's generator after that seed and after the model was made): there
    # the host's own sample_eval starts to sample
    constructed: tuple[int, Tensor]
    plain_predictor: str  # the host's name of ancestral sampling
    process: Sampled  # the core's, of the family

    def seed(self, seed: int) -> None:
        """Seed torch: the tokens are those of mode=sample_eval with this seed, if --batch-size is
        its loader.eval_batch_size."""
        torch.manual_seed(seed)
        made_with, state = self.constructed
        if seed == made_with:
            torch.set_rng_state(state)

    @contextlib.contextmanager
    def sampler(
        self, setting: subject.Setting, precision: str
    ) -> Iterator[tuple[draws.Draw, list]]:
        """(draw, calls) under one setting, as ``measuring.subject`` says.

        Temperature and precision reach the host's sampler through the model's logits.
        """
        if not setting.by_host:
            yield self.by_core(setting)
            return
        model, calls = self.model, []
        widen = precision == "float64" and host.active().samples_masked_in_float32
        widen = widen and isinstance(self.process, AbsorbingProcess)

        def after(module, inputs, logits):
            calls.append(1)
            logits = logits.double() if widen else logits
            return logits / setting.temperature if setting.temperature != 1 else logits

        plain = setting.predictor == "ancestral"
        model.sampler = self.plain_predictor if plain else setting.predictor
        model.config.sampling.predictor = model.sampler
        model.config.sampling.noise_removal = setting.noise_removal
        model.p_nucleus = setting.nucleus
        hook = model.backbone.register_forward_hook(after)
        try:
            yield lambda size: model.generate_samples(size, num_steps=setting.steps), calls
        finally:
            hook.remove()

    def core(self, setting: subject.Setting) -> tuple[Sampled, Tempered]:
        """The core's process and the network, at the setting's temperature and nucleus."""
        network = self.model.backbone, self.model.time_conditioning
        return self.process, Tempered.of(
            self.process, *network, setting.temperature, setting.nucleus
        )

    def require(self, setting: subject.Setting, precision: str) -> None:
        """Raise Refused for a setting that this checkpoint, or its host, has not."""
        super().require(setting, precision)
        values.require("--predictor", setting.predictor, PREDICTORS)
        if setting.predictor == "psi" and not (
            setting.by_host and "psi" in self.model.config.sampling
        ):
            raise Refused(
                "--predictor is psi, a sampler of Duo's main itself; it takes --sampler host there"
            )
        if not setting.by_host and not draws.is_log_linear(self.model.noise, self.process):
            raise Refused(
                f"--{self.role} is '{self.path}'; its noise is not log-linear, which --sampler "
                f"{setting.sampler} needs"
            )

    def held_out(self) -> held_out.HeldOut:
        """The validation data, with which samples are compared."""
        dataloader = host.active().module("dataloader")
        _, valid = dataloader.get_dataloaders(self.model.config, self.tokenizer, skip_train=True)
        return held_out.of(valid.dataset, valid, self.tokenizer, self.vocab_size)


def load(role: str, given: str, options: argparse.Namespace) -> Subject:
    """The ``Subject`` of a checkpoint, for ``evaluation.Side``.

    ``role`` is "teacher" or "student", ``given`` the path as the command line gives it, ``options``
    are those of the command. Raises Refused where the checkpoint or an option does not fit.
    """
    path, key = pretrained.in_run(resolve(given)), f"--{role}"
    tree = host.active()
    saved = pretrained.load(path, key, options.trust_checkpoint)
    config = _config(tree, saved, options, f"{key} is '{given}'")
    tokenizer = tree.module("dataloader").get_tokenizer(config)
    torch.manual_seed(options.seed)
    _, family = families.of(config.algo.name, f"'{given}' is")
    config.sampling.predictor = tree.predictor(family.masked, config.algo.time_conditioning)
    with tree.refusing():
        model = family.host_class(config, tokenizer)
    constructed = options.seed, torch.get_rng_state()
    if family.masked and tree.samples_masked_in_float64 and options.precision == "float32":
        raise Refused("--precision is 'float32'; Duo's main samples masked tokens in float64")
    checkpoints.fill(model.backbone, saved, config, key)
    model.ema = None
    return Subject(
        role=role,
        path=given,
        algo=config.algo.name,
        sha256=checkpoints.sha256(path, model.backbone),
        tokenizer=tokenizer,
        vocab_size=model.vocab_size,
        length=model.num_tokens,
        data=config.data,
        model=model.to(options.device).eval(),
        constructed=constructed,
        plain_predictor=config.sampling.predictor,
        process=family.noisings["categorical"](model),
        trained_for=subject.trained_for(saved.config.get("algo", {})),
        ends=((tokenizer.bos_token_id,), (tokenizer.eos_token_id,) if config.data.wrap else ()),
    )


def _config(tree, saved, options, named):
    """The host's configuration with what the checkpoint says of its model and its data.

    Overrides of the command line stand in for a checkpoint that says nothing, and win over one
    that does.
    """
    chosen = line.groups(options.overrides)
    if "algo" not in chosen and "name" not in saved.config.get("algo", {}):
        raise Refused(
            f"{named}; it carries no configuration to sample it with; give Duo's settings: "
            "algo=mdlm or algo=duo_base, data=..., model=..."
        )
    config = tree.compose(options.overrides)
    line.as_trained(config, saved.config, SECTIONS, options.overrides)
    config.eval.gen_ppl_eval_model_name_or_path = resolve(options.judge)
    config.algo.loss_type = "elbo"  # DCD's, SDTT's: refused by the class that samples, not used
    config.sampling.use_float64 = options.precision == "float64"
    return config


def _add_options(parser):
    parser.add_argument(
        "--noise-removal", nargs="+", choices=subject.REMOVALS, default=["ancestral"]
    )
    parser.add_argument("--nucleus", nargs="+", type=float, default=[1.0])
    parser.add_argument(
        "--predictor",
        nargs="+",
        choices=PREDICTORS,
        help="the host's: psi, with ReMDM, is Duo main's; its settings are sampling.psi.*",
    )
    parser.set_defaults(predictor_of=_predictor_of)


def _predictor_of(sampler):
    return "ancestral"


SIDE = evaluation.Side(
    module="duo_ext.evaluate",
    host="Duo",
    add_options=_add_options,
    activate=lambda path: host.find(path).activate(),
    load=load,
)


def main(arguments: list[str] | None = None) -> None:
    """The command, with the words of the command line unless others are given."""
    evaluation.main(SIDE, arguments)


if __name__ == "__main__":
    main()
