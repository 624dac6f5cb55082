"""What is trained: SEDD itself, or IDLM with a SEDD teacher. Both fill SEDD's checkpoint.

A ``state`` is SEDD's: {optimizer, scaler, model, noise, ema, step}. ``step(x_BL)`` takes one
micro-batch and returns what a person would plot when it completes an update that counts.
"""

import contextlib
import copy
import itertools

import torch

from duo_ext import Refused
from duo_ext.core import distiller
from duo_ext.core.networks import Denoiser, Tempered
from duo_ext.core.precision import PRECISIONS
from duo_ext.core.samplers import ancestral
from duo_ext.measuring import batches, draws, metrics
from duo_ext.ranks import Ranks
from duo_ext.settings import LASTING, check_idlm, chosen
from duo_ext.training.guard import Watch
from duo_ext.training.recompute import recompute
from duo_ext.weights import checkpoints
from sedd_ext import data, host, runs

SEED_STRIDE = 1_000_003


def new_state(parts):
    """SEDD's training state of a model."""
    config, tree = parts.config, host.active()
    parameters = itertools.chain(parts.model.parameters(), parts.noise.parameters())
    average = tree.module("model.ema").ExponentialMovingAverage
    return {
        "optimizer": tree.module("losses").get_optimizer(config, parameters),
        "scaler": torch.amp.GradScaler("cuda", enabled=False),
        "model": parts.model,
        "noise": parts.noise,
        "ema": average(parts.model.parameters(), decay=config.training.ema),
        "step": 0,
    }


class Score:
    """SEDD's own training step, its gradients averaged over the processes."""

    identity = {}
    counts = phase = "step"

    def __init__(self, parts, state, world):
        self.parts, self.state, self.world = parts, state, world
        losses = host.active().module("losses")
        self.optimize = losses.optimization_manager(parts.config)
        accum = parts.config.training.accum
        self.train = losses.get_step_fn(parts.noise, parts.graph, True, self._optimize, accum)
        self.micro = 0

    def _optimize(self, optimizer, scaler, params, step):
        params = list(params)
        self.world.average([p.grad for p in params])
        self.norm = torch.nn.utils.get_total_norm([p.grad for p in params])
        self._require_finite("gradient", self.norm)
        self.optimize(optimizer, scaler, params, step=step)

    def step(self, x_BL):
        before, accum = self.state["step"], self.parts.config.training.accum
        place = (before * accum + self.micro) * self.world.size + self.world.rank
        torch.manual_seed(self.parts.config.seed * SEED_STRIDE + place)
        loss = self.train(self.state, x_BL)
        self.micro = (self.micro + 1) % accum
        if self.state["step"] == before:
            return None
        self.world.average([loss])
        self._require_finite("loss", loss)
        return {"training_loss": loss.item(), "gradient_norm": self.norm.item()}

    def _require_finite(self, what, value):
        if not torch.isfinite(value):
            raise Refused(
                f"the {what} of step {self.state['step']} is {value.item()}; the last checkpoint "
                "is kept"
            )

    @property
    def updates(self):
        return self.state["step"]

    def to_come(self, steps):
        """{phase: how many updates are left until so many steps are done}."""
        return {self.phase: max(0, steps - self.updates)}

    @property
    def whole(self):
        """Whether a checkpoint would hold all: SEDD's has no place for half an update."""
        return self.micro == 0

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        """SEDD's checkpoint holds all."""

    def begin(self, tokenizer, valid):
        """No guard."""

    def look(self):
        return None


class IDLM:
    """Inverse distillation of ``teacher`` into a student of the same shape."""

    counts = "pair"

    def __init__(self, parts, state, world):
        check_idlm(parts.config.algo, parts.config.model.length)
        if parts.config.algo.guard.every:
            way_of_looks(parts.config)
        self.parts, self.state, self.world = parts, state, world
        self.watch = self.saved_guard = None
        if parts.config.algo.recompute_blocks:
            recompute(parts.model)  # the other networks are its copies
        teacher, self.teacher_sha256 = load_teacher(parts)
        self.teacher = teacher
        parts.model.load_state_dict(teacher.state_dict())
        state["ema"].shadow_params = [p.detach().clone() for p in parts.model.parameters()]
        self.distiller = self._make_distiller(world)

    def _make_distiller(self, world):
        config, parts = self.parts.config, self.parts
        fake = copy.deepcopy(self.teacher)
        fake_optimizer = host.active().module("losses").get_optimizer(config, fake.parameters())
        for group in fake_optimizer.param_groups:
            group["lr"] = config.algo.fake_lr or config.optim.lr
        recipe = distiller.Recipe.configured(
            config.algo,
            accumulate=config.training.accum,
            clip=max(0.0, config.optim.grad_clip),
            seed=config.seed,
        )
        own, compared = PRECISIONS[config.algo.precision]
        student = Denoiser(parts.model, True, own)
        return distiller.Distiller(
            parts.process(on_policy=config.algo.on_policy),
            student=(student, *self._scheduled(self.state["optimizer"])),
            fake=(Denoiser(fake, True, own), *self._scheduled(fake_optimizer)),
            teacher=Denoiser(self.teacher, True, compared),
            recipe=recipe,
            world=world,
        )

    def _scheduled(self, optimizer):
        """The optimizer with SEDD's schedule: linear warm-up, then constant."""
        warmup = self.parts.config.optim.warmup
        return optimizer, torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, 1.0) if warmup > 0 else 1.0
        )

    def step(self, x_BL):
        given_BL = torch.zeros_like(x_BL, dtype=torch.bool)
        given_BL[:, : self.parts.config.algo.prompt_length] = True
        update = self.distiller.step(x_BL, given_BL)
        if update is None:
            return None
        if update.ends_pair:
            self.state["step"] += 1
            self.state["ema"].update(self.parts.model.parameters())
        return update.logs

    @property
    def updates(self):
        return self.distiller.updates

    @property
    def phase(self):
        return self.distiller.phase

    def to_come(self, pairs):
        """{phase: how many updates are left until so many pairs are done}."""
        return self.distiller.to_come(pairs)

    @property
    def whole(self):
        """Whether a checkpoint would hold all: half an update of one process, not of several."""
        return self.world.size == 1 or self.distiller.micro == 0

    def begin(self, tokenizer, valid):
        """Make the guard, where one is asked for: measure the teacher, or go on after a stop.

        ``valid`` are the blocks of the validation text.
        """
        config, parts = self.parts.config, self.parts
        if config.algo.guard.every:
            self.watch = Watch(
                settings=config.algo.guard,
                sampler=self._sampler,
                batch_size=batches.of_a_look(config.model.length, config.model.hidden_size),
                decode=tokenizer.batch_decode,
                judge=parts.judge(),
                reference=metrics.Reference(data.held_out(valid), parts.graph.dim),
                seed=config.seed,
                ranks=Ranks(self.world.rank, self.world.size),
            ).begin(self.saved_guard)

    @contextlib.contextmanager
    def _sampler(self, steps, teacher):
        """draw(size) -> tokens (size, L) of the EMA student, or of the teacher."""
        config, removal = self.parts.config, way_of_looks(self.parts.config)
        precision, _ = PRECISIONS[config.algo.precision]
        process = self.parts.process(renormalised=config.sampling.renormalise)
        with self._network(teacher) as network:
            drawn = Tempered(network, True, precision=precision)
            length = config.model.length
            yield lambda size: ancestral.sample(process, drawn, (size, length), steps, removal)

    def _network(self, teacher):
        """The network to draw from, in evaluation."""
        if teacher:
            return contextlib.nullcontext(self.teacher.eval())
        return averaged(self.parts.model, self.state["ema"])

    def look(self):
        """({steps: metrics}, best so far, stop) where the guard is due, else None."""
        pair = self.state["step"]
        return self.watch.look(pair) if self.watch and self.watch.due(pair) else None

    def state_dict(self):
        return {
            "guard": self.watch.guard.state_dict() if self.watch else None,
            "distiller": self.distiller.state_dict(),
            "student_scheduler": self.distiller.schedulers[distiller.STUDENT].state_dict(),
        }

    def load_state_dict(self, state):
        self.saved_guard = state["guard"]
        self.distiller.load_state_dict(state["distiller"])
        self.distiller.schedulers[distiller.STUDENT].load_state_dict(state["student_scheduler"])

    @property
    def identity(self):
        """What makes another run of it, besides seed and batch."""
        return {"teacher": self.teacher_sha256, **chosen(self.parts.config, LASTING)}


@contextlib.contextmanager
def averaged(model, ema):
    """The model in evaluation with its EMA weights, for the length of a with block."""
    parameters, training = list(model.parameters()), model.training
    ema.store(parameters)
    ema.copy_to(parameters)
    model.eval()
    try:
        yield model
    finally:
        ema.restore(parameters)
        ema.collected_params = []  # SEDD's average keeps a copy of the weights here
        model.train(training)


def way_of_looks(config):
    """noise_removal of the core's sampler, by which the guard draws.

    Raises Refused for settings of sampling that it does not know. For log-linear noise SEDD's Euler
    predictor is its analytic one.
    """
    known = ("analytic", "euler") if config.noise.type == "loglinear" else ("analytic",)
    draws.require_of_guard("sampling.predictor", config.sampling.predictor, known)
    return "ancestral" if config.sampling.noise_removal else "none"


ALGORITHMS = {"sedd": Score, "idlm": IDLM}


def load_teacher(parts):
    """(the teacher's network with its EMA weights, its fingerprint)."""
    config = parts.config
    saved = runs.denoiser(config.teacher, "teacher")
    parts.check(saved, "teacher")
    teacher = copy.deepcopy(parts.model)
    checkpoints.load(teacher, saved)
    return teacher, checkpoints.fingerprint(teacher)
