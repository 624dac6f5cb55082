"""The families of teachers that Duo's class hierarchy holds: one table.

A new family is an entry of ``FAMILIES`` and a process in core/.
"""

from collections.abc import Callable
from dataclasses import dataclass

import algo

from duo_ext import Refused
from duo_ext.core import gaussian, processes, schedules


@dataclass(frozen=True)
class Family:
    """The host's class for a process, the algorithms whose checkpoints may teach, the noisings."""

    host_class: type
    teachers: tuple
    noisings: dict[str, Callable]


def _absorbing(model, on_policy=0.0):
    return processes.AbsorbingProcess(model.vocab_size, model.mask_index, on_policy=on_policy)


def _categorical(model, on_policy=0.0):
    return processes.UniformProcess(model.vocab_size, on_policy=on_policy)


def _gaussian(model, on_policy=0.0):
    settings = model.config.algo
    if on_policy > 0:
        raise Refused(
            f"algo.on_policy is {on_policy}; algo.noising=gaussian has inputs that no "
            "sampling makes, so it must be 0"
        )
    if settings.shared_forward:
        raise Refused(
            "algo.shared_forward is true; algo.noising=gaussian differentiates the student's loss "
            "through the fake, so it must be false"
        )
    schedule = schedules.GaussianSchedule.configured(
        model.vocab_size, settings.gamma_min, settings.gamma_max
    )
    return gaussian.GaussianUniformProcess(model.vocab_size, schedule, tau=settings.tau)


FAMILIES = {
    "absorbing": Family(algo.MDLM, ("mdlm", "sdtt", "idlm_mdlm"), {"categorical": _absorbing}),
    "uniform": Family(
        algo.DUO_BASE,
        ("duo_base", "duo", "distillation", "idlm", "idlm_dcd"),
        {"categorical": _categorical, "gaussian": _gaussian},
    ),
}


def of(name, named):
    """(process, ``Family``) of an algorithm ``name``; Refused, with what the user ``named``, where
    no family has it."""
    for process, family in FAMILIES.items():
        if name in family.teachers:
            return process, family
    raise Refused(f"{named} a checkpoint of algo={name}, which no family here samples")
