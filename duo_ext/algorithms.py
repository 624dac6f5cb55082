"""IDLM and IDLMDCD: a host's algorithm class joined with the core.

``IDLM(config, tokenizer)`` is the host's own class of the teacher's family (its network output,
sampler, metrics and checkpoint unchanged) trained by the core's alternation.
"""

import copy
import os
from dataclasses import dataclass

import hydra
import omegaconf
import torch
import tqdm
import trainer_base

from duo_ext import Refused
from duo_ext.core import distiller
from duo_ext.core.networks import Denoiser
from duo_ext.core.precision import PRECISIONS
from duo_ext.families import FAMILIES
from duo_ext.files import sweep
from duo_ext.machine import cores
from duo_ext.settings import LASTING, check_idlm, choose, chosen, require_whole
from duo_ext.trainer import BEST, LAST
from duo_ext.training import looks
from duo_ext.training.average import average
from duo_ext.training.guard import logged
from duo_ext.training.order import ResumableLoader
from duo_ext.training.recompute import recompute
from duo_ext.weights import checkpoints, pretrained

# What no run changes when it goes on.
OF_THE_RUN = (*LASTING, "seed", "loader.global_batch_size", "loader.batch_size", "training.ema")
OF_THE_RUN += ("optim", "lr_scheduler", "trainer.gradient_clip_val")
OF_THE_RUN += ("trainer.gradient_clip_algorithm",)


@dataclass
class Opponents:
    """The networks besides the student. No submodules of the algorithm: a checkpoint's state_dict,
    the EMA and the host's optimizer see the student alone."""

    teacher: torch.nn.Module
    fake: torch.nn.Module
    teacher_sha256: str


class IDLM(trainer_base.Diffusion):
    """Inverse distillation of ``algo.teacher_path`` into a few-step student of the same shape.

    The student is ``self.backbone``, so checkpoints, EMA and sampling are the host's. What a
    resumed run needs besides lies under the checkpoint's key ``idlm``.
    """

    def __new__(cls, config, tokenizer):
        """An instance of this class and of the host's class for ``algo.process``."""
        family = choose("algo.process", config.algo.process, FAMILIES)
        joined = type(cls.__name__, (cls, family.host_class), {"family": family})
        return super().__new__(joined)

    def __init__(self, config, tokenizer):
        super().__init__(config, tokenizer)
        self.automatic_optimization = False
        check_idlm(config.algo, self.num_tokens)
        require_whole(config.trainer.get("precision"))
        if config.algo.recompute_blocks:
            recompute(self.backbone)  # the other networks are its copies
        noising = choose("algo.noising", config.algo.noising, self.family.noisings)
        self.process = noising(self, config.algo.on_policy)
        if config.algo.guard.every:
            looks.process_of(self)
        self.opponents = self.distiller = self.watch = self._resumed = None

    @property
    def teachers(self):
        """The algorithms whose checkpoints may teach."""
        return self.family.teachers

    # set-up ----------------------------------------------------------------------------------

    def setup(self, stage):
        """Load the teacher; student and fake start as its copies."""
        if stage != "fit":
            return
        self._sweep()
        teacher = self._load_teacher()
        sha256 = checkpoints.fingerprint(teacher)
        self.opponents = Opponents(teacher, copy.deepcopy(teacher), sha256)
        self.backbone.load_state_dict(teacher.state_dict())
        if self.ema:
            self.ema.shadow_params = [p.detach().clone() for p in self._get_parameters()]
        self._order_blocks()

    def _sweep(self):
        """Remove what a killed run left half-written."""
        if self.trainer.is_global_zero:
            for name in (LAST, "guard.json"):
                sweep(os.path.dirname(self.file(name)))

    def _order_blocks(self):
        """Give the host's data the order of ``training.order``, with which a run is resumed."""
        source, settings = self.trainer.fit_loop._data_source, self.config.loader
        # The hosts ask for a worker for each core on each rank: with 8 ranks, 8 times the cores.
        workers = min(settings.num_workers, max(1, cores() // self.trainer.num_devices))
        source.instance = ResumableLoader(
            source.instance.dataset,
            settings.batch_size,
            self.config.seed,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            accumulate=self.config.trainer.accumulate_grad_batches,
            num_workers=workers,
            pin_memory=settings.pin_memory,
            persistent_workers=workers > 0,
        )

    def _load_teacher(self):
        settings, key = self.config.algo, "algo.teacher_path"
        saved = pretrained.load(settings.teacher_path, key, settings.trust_checkpoint)
        trained_as = saved.config.get("algo", {}).get("name")
        if trained_as is not None and trained_as not in self.teachers:
            raise Refused(
                f"{key} is '{settings.teacher_path}', a checkpoint of algo={trained_as}; "
                f"algo={settings.name} takes {', '.join(self.teachers)}"
            )
        checkpoints.check(saved, self.backbone, key)
        checkpoints.check_config(saved, self.config, key)
        teacher = copy.deepcopy(self.backbone)
        checkpoints.load(teacher, saved, average=settings.teacher_ema)
        return teacher

    def on_train_start(self):
        loaders = self.trainer.fit_loop._combined_loader.flattened
        super().on_train_start()  # Duo puts loaders of its own there
        self.trainer.fit_loop._combined_loader.flattened = loaders
        self.opponents.teacher.to(self.device)
        self.opponents.fake.to(self.device)
        self.distiller = self._make_distiller()
        self.watch = self._make_watch()
        if self._resumed:
            self.distiller.load_state_dict(self._resumed["distiller"])
        self._resumed = None  # a fake and its moments, which would stay in memory
        if self.watch and self.watch.guard.stops:  # before the run was started again
            self.trainer.should_stop = True

    def _make_distiller(self):
        settings, optim = self.config.algo, self.config.optim
        fake_optimizer = torch.optim.AdamW(
            self.opponents.fake.parameters(),
            lr=settings.fake_lr or optim.lr,
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
        fake_scheduler = hydra.utils.instantiate(self.config.lr_scheduler, optimizer=fake_optimizer)
        recipe = distiller.Recipe.configured(
            settings,
            accumulate=self.config.trainer.accumulate_grad_batches,
            clip=self.config.trainer.gradient_clip_val or 0.0,
            clip_by=self.config.trainer.get("gradient_clip_algorithm") or "norm",
            seed=self.config.seed,
        )
        own, compared = PRECISIONS[settings.precision]
        student, fake, teacher = (
            Denoiser(network, self.time_conditioning, precision)
            for network, precision in (
                (self.backbone, own),
                (self.opponents.fake, own),
                (self.opponents.teacher, compared),
            )
        )
        return distiller.Distiller(
            self.process,
            student=(student, self.optimizers(), self.lr_schedulers()),
            fake=(fake, fake_optimizer, fake_scheduler),
            teacher=teacher,
            recipe=recipe,
            processes=distiller.Processes(
                self.trainer.global_rank, self.trainer.world_size, average
            ),
            backward=self.manual_backward,
        )

    # training --------------------------------------------------------------------------------

    def training_step(self, batch, batch_idx):
        x0_BL = batch["input_ids"]
        given_BL = ~batch["attention_mask"].bool()
        given_BL[:, : self.config.algo.prompt_length] = True
        if self.ignore_bos:
            given_BL[:, 0] = True
        with self.optimizers().toggle_model(sync_grad=False):
            update = self.distiller.step(x0_BL, given_BL)
        self._pair_done = update is not None and update.ends_pair
        if update is None:
            return
        self.log_dict(update.logs)
        if self._pair_done and self.ema:
            self.ema.update(self._get_parameters())

    def look_if_due(self):
        """What is due of the guard after a micro-batch, before it is saved."""
        if self.watch and self._pair_done and self.watch.due(self.distiller.pairs):
            self._look()

    def on_train_end(self):
        if self.watch and self.trainer.is_global_zero:
            kept = self.watch.guard.kept
            print(
                f"kept the student after {kept} pairs: {self.file(BEST)}"
                if kept
                else f"no student was inside the guard's bounds; the last is {self.file(LAST)}"
            )

    def file(self, name):
        """The path of one of the run's files."""
        return f"{self.config.checkpointing.save_dir}/{name}"

    # the guard -------------------------------------------------------------------------------

    def _make_watch(self):
        if not self.config.algo.guard.every:
            return None
        return looks.make(self).begin(self._resumed and self._resumed["guard"])

    def _look(self):
        pair = self.distiller.pairs
        rows, best, stop = self.watch.look(pair)
        self.log_dict(logged(rows, self.distiller))
        if self.trainer.is_global_zero:
            self.watch.guard.write(self.file("guard.json"))
            if stop:
                tqdm.tqdm.write(f"the guard stops the distillation after {pair} pairs")
        if best:
            self.trainer.save_checkpoint(self.file(BEST))
        if stop:
            self.trainer.should_stop = True

    # checkpoints -----------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint):
        """The student as a plain checkpoint of the host's, and what a resumed run needs besides.

        Duo counts progress by the optimizer steps of automatic optimisation, which are none here,
        and pickles its configuration: Lightning's counts and plain values stay in their place.
        """
        loops = copy.deepcopy(checkpoint["loops"])
        super().on_save_checkpoint(checkpoint)
        config = omegaconf.OmegaConf.to_container(self.config, resolve=False)
        checkpoint |= {"loops": loops, "hyper_parameters": {"config": config}}
        checkpoint["idlm"] = {
            "format": checkpoints.FORMAT,
            "run": self._identity(),
            "distiller": self.distiller.state_dict(),
            "guard": self.watch.guard.state_dict() if self.watch else None,
        }

    def on_load_checkpoint(self, checkpoint):
        super().on_load_checkpoint(checkpoint)
        if self.opponents is None:
            return
        saved = checkpoints.ours(checkpoint, "checkpointing.resume_ckpt_path")
        if differing := checkpoints.differing(saved and saved["run"], self._identity()):
            raise Refused(
                "checkpointing.resume_ckpt_path: the checkpoint belongs to another run "
                f"({differing}); use another run folder, or checkpointing.resume_from_ckpt=false"
            )
        self._resumed = saved

    def _identity(self):
        """What must be the same for a checkpoint to be this run's."""
        return {"teacher": self.opponents.teacher_sha256, **chosen(self.config, OF_THE_RUN)}


class IDLMDCD(IDLM):
    """IDLM on a teacher that discrete consistency distillation (Duo-DCD) has made."""

    teachers = ("distillation",)
