"""The networks of a distillation besides the student: the teacher, and the fake that follows it."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from torch import Tensor

from duo_ext.core import adapters
from duo_ext.core.distiller import Distiller, Recipe, World
from duo_ext.core.networks import Denoiser
from duo_ext.core.precision import PRECISIONS
from duo_ext.core.process import Process
from duo_ext.weights import checkpoints


@dataclass
class Opponents:
    """Teacher and fake of one student.

    They are no submodules of the student's algorithm, so that a checkpoint's state_dict, the EMA
    and the host's optimizer see the student alone.
    """

    teacher: torch.nn.Module
    fake: torch.nn.Module
    teacher_sha256: str  # the teacher's fingerprint

    @classmethod
    def read(
        cls,
        saved: checkpoints.Saved,
        student: torch.nn.Module,
        config: DictConfig,
        key: str,
        average: bool = True,
    ) -> "Opponents":
        """Let ``student``, teacher and fake start as a file's weights (``Saved``).

        All have the shape of ``student``, the network of ``config``. Where ``algo.adapter`` says
        so, student and fake become adapters on the teacher's weights (``core.adapters``).
        ``average`` asks for the EMA weights, ``key`` is the setting that named the file. Raises
        Refused where the weights do not fit.
        """
        checkpoints.fill(student, saved, config, key, average)
        sha256 = checkpoints.fingerprint(student)
        if config.algo.adapter.rank:
            teacher = adapters.adapt(student, config.algo.adapter, config.seed)
        else:
            teacher = copy.deepcopy(student)
        return cls(teacher, adapters.twin(student), sha256)

    def distiller(
        self,
        process: Process,
        student: torch.nn.Module,
        settings: DictConfig,
        *,
        optimizers: Iterable[tuple],
        time_conditioning: bool,
        world: World,
        backward: Callable[[Tensor], None] | None = None,
        **others,
    ) -> Distiller:
        """The ``Distiller`` of a configuration; ``settings`` is its section ``algo``.

        ``optimizers`` are (optimizer, scheduler) of the student and of the fake;
        ``time_conditioning`` says whether the networks read the time; ``others`` are the values of
        ``Recipe`` that hosts keep elsewhere. ``algo.precision`` names two precisions: in the second
        one teacher and fake are compared.
        """
        own, compared = PRECISIONS[settings.precision]
        of_student, of_fake = optimizers
        return Distiller(
            process,
            student=(Denoiser(student, time_conditioning, own), *of_student),
            fake=(Denoiser(self.fake, time_conditioning, own), *of_fake),
            teacher=Denoiser(self.teacher, time_conditioning, compared),
            recipe=Recipe.configured(settings, **others),
            world=world,
            backward=backward,
        )
