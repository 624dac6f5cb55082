"""The families of teachers: one table.

A family is a process of the core and a class of Duo's. A new family is an entry of ``FAMILIES``, a
process as ``core.process`` says, and a class in ``algorithms``.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from duo_ext import Refused
from duo_ext.core import gaussian, schedules
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.uniform import UniformProcess
from duo_ext.values import require, require_positive


@dataclass(frozen=True)
class Family:
    """A family of teachers.

    ``noisings`` is {algo.noising: make}. make(model, **inputs) gives the core's process for a model
    of the host's class; ``inputs`` is what ``settings.inputs`` says of the student's inputs.
    """

    host_name: str  # the host's class in its module algo
    teachers: tuple  # the algorithms whose checkpoints may teach, and are sampled by that class
    noisings: dict[str, Callable]

    @property
    def host_class(self) -> type:
        """The class of the host that is active in this process."""
        return getattr(importlib.import_module("algo"), self.host_name)

    @property
    def masked(self) -> bool:
        """Whether the host samples it by filling masks: as its MDLM, whose noise is of masks."""
        return issubclass(self.host_class, importlib.import_module("algo").MDLM)


def _absorbing(model, **inputs):
    return AbsorbingProcess(model.vocab_size, model.mask_index, **inputs)


def _categorical(model, **inputs):
    posterior = model.config.algo.get("posterior", False)  # a teacher that is sampled has none
    require("algo.posterior", posterior, (True, False))
    return UniformProcess(model.vocab_size, posterior=posterior, **inputs)


def _gaussian(model, **inputs):
    settings = model.config.algo
    if inputs["on_policy"] > 0:
        raise Refused(
            f"algo.on_policy is {inputs['on_policy']}; algo.noising=gaussian has inputs that no "
            "sampling makes, so it must be 0"
        )
    if settings.shared_forward:
        raise Refused(
            "algo.shared_forward is true; algo.noising=gaussian differentiates the student's loss "
            "through the fake, so it must be false"
        )
    if settings.get("posterior", False):
        raise Refused(
            "algo.posterior is true; algo.noising=gaussian takes the network's output for the "
            "student's, so it must be false"
        )
    require_positive(model.config, ("algo.tau",))
    schedule = schedules.GaussianSchedule.configured(
        model.vocab_size, settings.gamma_min, settings.gamma_max
    )
    return gaussian.GaussianUniformProcess(model.vocab_size, schedule, tau=settings.tau)


FAMILIES = {
    "absorbing": Family("MDLM", ("mdlm", "sdtt", "idlm_mdlm"), {"categorical": _absorbing}),
    "uniform": Family(
        "DUO_BASE",
        ("duo_base", "duo", "distillation", "idlm", "idlm_dcd"),
        {"categorical": _categorical, "gaussian": _gaussian},
    ),
}


def of(name: str, named: str) -> tuple[str, Family]:
    """(the name of the process, the ``Family``) of the algorithm ``name``.

    Raises Refused where no family has it; ``named`` is how the sentence begins.
    """
    for process, family in FAMILIES.items():
        if name in family.teachers:
            return process, family
    raise Refused(f"{named} a checkpoint of algo={name}, which no family here samples")
