"""IDLM and its kin: a host's algorithm class, distilled by the core.

A class here joins the host's own class of the teacher's family, whose network output, sampler,
metrics and checkpoint stay unchanged, with ``Distillation``, which trains it by the core's
alternation. A new family is a class of this form and an entry of ``families.FAMILIES``.
"""

import algo
import hydra
import torch
import trainer_base
from omegaconf import DictConfig
from torch import Tensor

from duo_ext import Refused
from duo_ext.core import adapters, rollout, samplers
from duo_ext.core.distiller import World
from duo_ext.core.networks import Tempered
from duo_ext.data.texts import Tokenizer
from duo_ext.families import FAMILIES
from duo_ext.measuring.subject import HOST, trained_for
from duo_ext.settings import check_idlm, inputs, require_whole
from duo_ext.training import loaders
from duo_ext.training.average import average
from duo_ext.training.looks import Watched, process_of
from duo_ext.training.opponents import Opponents
from duo_ext.training.recompute import prepare_blocks
from duo_ext.training.resuming import Resumed
from duo_ext.values import choose
from duo_ext.weights import pretrained


class Distillation(Watched, Resumed, trainer_base.Diffusion):
    """Inverse distillation of ``algo.teacher_path`` into a few-step student of the same shape.

    The student is ``self.backbone``, so checkpoints, EMA and sampling are the host's. What a
    resumed run needs besides lies under the checkpoint's key ``idlm`` (``training.resuming``). The
    looks at the student are in ``training.looks``. Raises Refused for settings that no distillation
    can have, and for a teacher that does not fit.
    """

    family = None  # ``families.Family``, which each subclass names
    teachers = None  # names of algorithms whose checkpoints may teach; None: the family's

    def __init__(self, config: DictConfig, tokenizer: Tokenizer):
        self._require_own(config.algo.process)
        super().__init__(config, tokenizer)
        self.automatic_optimization = False
        check_idlm(config.algo, self.num_tokens)
        require_whole(config.trainer.get("precision"))
        if path := config.training.get("finetune_path"):
            raise Refused(
                f"training.finetune_path is '{path}'; algo.teacher_path is what is distilled, "
                "so it must be empty"
            )
        prepare_blocks(self.backbone, config.algo)  # the other networks are its copies
        noising = choose("algo.noising", config.algo.noising, self.family.noisings)
        self.process = noising(self, **inputs(config.algo))
        samplers.require_masks(config.algo.sampler, self.process)
        rollout.require_masks(config.algo.rollout_target, self.process)
        self.require_looks()
        self.opponents = self.distiller = self.watch = self.resumed = self.unwatched = None

    def _require_own(self, process):
        if choose("algo.process", process, FAMILIES) is not self.family:
            own = next(name for name, family in FAMILIES.items() if family is self.family)
            raise Refused(f"algo.process is '{process}'; {type(self).__name__} distils '{own}'")

    # set-up ----------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Load the teacher; student, its average and fake start as its copies."""
        if stage != "fit":
            return
        self.sweep()
        self.opponents = self._read_opponents()
        if self.ema:
            self.ema.shadow_params = [p.detach().clone() for p in self._get_parameters()]
        loaders.order_blocks(self.trainer, self.config)

    def _read_opponents(self):
        settings, key = self.config.algo, "algo.teacher_path"
        saved = pretrained.load(settings.teacher_path, key, settings.trust_checkpoint)
        trained_as = saved.config.get("algo", {}).get("name")
        teachers = self.teachers or self.family.teachers
        if trained_as is not None and trained_as not in teachers:
            raise Refused(
                f"{key} is '{settings.teacher_path}', a checkpoint of algo={trained_as}; "
                f"algo={settings.name} takes {', '.join(teachers)}"
            )
        return Opponents.read(saved, self.backbone, self.config, key, settings.teacher_ema)

    def _get_parameters(self):
        """What the host's optimizer and average are of: of the student what is trained."""
        return (p for p in super()._get_parameters() if p.requires_grad)

    def on_train_start(self) -> None:
        """Make the distiller and the guard, and go on where a resumed run was."""
        with loaders.kept(self.trainer):
            super().on_train_start()  # Duo puts loaders of its own there
        self.opponents.teacher.to(self.device)
        self.opponents.fake.to(self.device)
        self.distiller = self._make_distiller()
        self.watch = self.make_watch()
        if self.resumed:
            self.distiller.load_state_dict(self.resumed["distiller"])
        self.resumed = None  # a fake and its moments, which would stay in memory
        if self.watch and self.watch.guard.stops:  # before the run was started again
            self.trainer.should_stop = True

    def _make_distiller(self):
        settings, optim = self.config.algo, self.config.optim
        fake_optimizer = torch.optim.AdamW(
            adapters.trained(self.opponents.fake),
            lr=settings.fake_lr or optim.lr,
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
        fake_scheduler = hydra.utils.instantiate(self.config.lr_scheduler, optimizer=fake_optimizer)
        return self.opponents.distiller(
            self.process,
            self.backbone,
            settings,
            optimizers=(
                (self.optimizers(), self.lr_schedulers()),
                (fake_optimizer, fake_scheduler),
            ),
            time_conditioning=self.time_conditioning,
            world=World(self.trainer.global_rank, self.trainer.world_size, average),
            backward=self.manual_backward,
            accumulate=self.config.trainer.accumulate_grad_batches,
            clip=self.config.trainer.gradient_clip_val or 0.0,
            clip_by=self.config.trainer.get("gradient_clip_algorithm") or "norm",
            seed=self.config.seed,
        )

    # sampling --------------------------------------------------------------------------------

    def generate_samples(
        self, num_samples: int, num_steps: int | None = None, **others: object
    ) -> Tensor:
        """Tokens (num_samples, L), as the host's commands ask for them: by the host's sampler, or
        by the core's that ``algo.sampler`` and ``algo.grid`` name."""
        settings = self.config.algo
        if trained_for(settings) == HOST:
            return super().generate_samples(num_samples, num_steps=num_steps, **others)
        process, nucleus = process_of(self), self.config.sampling.p_nucleus
        network = self.backbone, self.time_conditioning
        student = Tempered.of(process, *network, nucleus=nucleus)
        times_K = samplers.grids.times(settings.grid, num_steps or self.config.sampling.steps)
        way = self.num_tokens, times_K, self.config.sampling.noise_removal
        return samplers.drawing(settings.sampler, process, student, *way)(num_samples)

    # training --------------------------------------------------------------------------------

    @property
    def given_length(self) -> int:
        """How many tokens at a text's start are given, not written."""
        return max(self.config.algo.prompt_length, int(self.ignore_bos))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Give the distiller one micro-batch; after a pair, update the student's average."""
        x0_BL = batch["input_ids"]
        given_BL = ~batch["attention_mask"].bool()
        given_BL[:, : self.given_length] = True
        with self.optimizers().toggle_model(sync_grad=False):
            update = self.distiller.step(x0_BL, given_BL)
        self._pair_done = update is not None and update.ends_pair
        if update is None:
            return
        self.log_dict(update.logs)
        if self._pair_done and self.ema:
            self.ema.update(self._get_parameters())


class IDLM(Distillation, algo.DUO_BASE):
    """IDLM on a teacher of the uniform process: Duo, UDLM."""

    family = FAMILIES["uniform"]


class IDLMMDLM(Distillation, algo.MDLM):
    """IDLM on a teacher of the absorbing process: MDLM."""

    family = FAMILIES["absorbing"]


class IDLMDCD(IDLM):
    """IDLM on a teacher that discrete consistency distillation (Duo-DCD) has made."""

    teachers = ("distillation",)
