"""The training loop: SEDD's keys and files, any device, one process or torchrun's."""

import contextlib
import functools
import logging
import os

import torch
import tqdm
from omegaconf import DictConfig

from duo_ext import Refused
from duo_ext.data.texts import Tokenizer
from duo_ext.files import sweep, write_whole
from duo_ext.measuring import draws
from duo_ext.ranks import Ranks
from duo_ext.settings import chosen
from duo_ext.training.guard import Watch, logged
from duo_ext.training.interrupt import Interrupt
from duo_ext.training.order import ResumableLoader
from duo_ext.training.progress import Progress
from duo_ext.values import choose
from duo_ext.weights import checkpoints
from duo_ext.weights.saves import Saves
from sedd_ext import data, given, host, looks, runs, workers
from sedd_ext.algorithms import ALGORITHMS, Algorithm
from sedd_ext.parts import Parts
from sedd_ext.sampler import Way, sampler

# What no run changes when it goes on, besides an algorithm's own ``identity``.
OF_THE_RUN = ("seed", "training.batch_size", "training.ema", "optim", "precision", "model.dropout")
OF_THE_RUN += ("model.scale_by_sigma", "graph.type", "noise")


def train(config: DictConfig, folder: str) -> None:
    """Train ``algo.name`` up to step ``training.n_iters``, as ``mode=train`` does.

    The run goes on from the last checkpoint in ``folder``, if there is one. Raises Refused for
    settings that cannot work, and where a loss or a gradient is not finite.
    """
    device, world = workers.join(config.device)
    ranks = Ranks(world.rank, world.size)
    shared = ranks.agree(lambda: folder)  # by default it is named by the time
    batch_size = _batch_size(config, world)
    tokenizer = data.tokenizer_of(config)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
    torch.use_deterministic_algorithms(config.deterministic)
    torch.manual_seed(config.seed)
    algorithm = choose("algo.name", config.algo.name, ALGORITHMS)
    parts = Parts.build(config, device)
    trained = algorithm(parts, world)

    def blocks(split):
        return ranks.in_turn(lambda: data.blocks(config, split, tokenizer))

    loader = ResumableLoader(
        blocks("train"),
        batch_size,
        config.seed,
        world.rank,
        world.size,
        config.training.accum,
    )
    run = Run(trained, loader, tokenizer, blocks("validation"), shared)
    run.restore()
    run.begin()
    run.loop()


def _batch_size(config, world):
    """How many texts a micro-batch of this worker has.

    Sets ``training.accum`` where ``training.micro_batch`` is given, which decides it.
    """
    settings, key, parts = config.training, "training.accum", config.training.accum
    if settings.micro_batch is not None:
        key, parts = "training.micro_batch", settings.micro_batch
    if settings.batch_size % (parts * world.size):
        raise Refused(
            f"training.batch_size is {settings.batch_size}; it must be a multiple of "
            f"{key} x the number of processes = {parts * world.size}"
        )
    share = settings.batch_size // world.size
    if settings.micro_batch is not None:
        settings.accum = share // settings.micro_batch
    return share // settings.accum


class Run:
    """A training with its files.

    ``trained`` is an ``algorithms.Algorithm``, ``valid`` the data set of the validation text.
    ``restore``, ``begin`` and ``loop`` are called in this order.
    """

    def __init__(
        self,
        trained: Algorithm,
        loader: ResumableLoader,
        tokenizer: Tokenizer,
        valid: torch.utils.data.Dataset,
        folder: str,
    ):
        self.trained, self.parts, self.state = trained, trained.parts, trained.state
        self.config, self.world = trained.parts.config, trained.world
        self.loader, self.tokenizer, self.valid = loader, tokenizer, valid
        self.folder, self.saves, self.stopped = folder, Saves(), False
        self.log = _logger(folder, silent=self.world.rank > 0)

    # files -----------------------------------------------------------------------------------

    @property
    def last(self) -> str:
        """The path of the run's last checkpoint."""
        return f"{self.folder}/{runs.LAST}"

    def restore(self) -> None:
        """Go on from the run's last checkpoint, if it has one.

        Raises Refused if another run has written it.
        """
        if self.world.rank == 0:
            for name in (runs.LAST, runs.BEST, "guard.json"):
                sweep(os.path.dirname(f"{self.folder}/{name}"))
        if os.path.exists(self.last):
            key = "hydra.run.dir"
            checkpoint = runs.read(self.last, key)
            extra = checkpoints.ours(checkpoint, key)
            if differing := checkpoints.differing(extra and extra["run"], self._identity()):
                raise Refused(
                    f"{key}: the run folder holds a checkpoint of another run ({differing}); use "
                    "another folder"
                )
            runs.load(checkpoint, self.state, key)
            self.loader.load_state_dict(extra["loader"])
            self.trained.load_state_dict(extra["trained"])
            self.saves = Saves(self.loader.state_dict(), self.last)
            self.log.info("resumed at step %d", self.state["step"])

    def _identity(self):
        """What must be the same for a checkpoint to be this run's."""
        return {
            "algo": self.config.algo.name,
            "micro-batch": self.loader.batch_size,
            **chosen(self.config, OF_THE_RUN),
            **self.trained.identity,
        }

    def save(self, path: str) -> None:
        """Have the run's present state at ``path``; it is written once, however many paths ask."""
        if self.world.rank == 0:
            write = functools.partial(self._write, path)
            self.saves.save(self.loader.state_dict(), path, write)

    def _write(self, path):
        extra = {
            "format": checkpoints.FORMAT,
            "run": self._identity(),
            "loader": self.loader.state_dict(),
            "trained": self.trained.state_dict(),
        }
        runs.save(path, self.state, extra)

    # the loop --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the guard; a run that it has stopped before stays stopped."""
        if self.config.training.snapshot_sampling:
            sampler(self.parts, Way.configured(self.config.sampling))  # what it refuses, at once
        self.trained.begin(self.tokenizer, self.valid)
        self.stopped = bool(self.watch and self.watch.guard.stops)

    def loop(self) -> None:
        """Train until ``training.n_iters`` steps are done or the guard stops the run, and save.

        When a signal asks one of the workers to stop, all save and end as soon as a checkpoint
        would be whole.
        """
        with contextlib.closing(self._progress()) as progress, Interrupt() as interrupt:
            for x_BL, given_BL in self._batches():
                before, kind = self.state["step"], self.trained.phase
                progress.begin()
                with self._precision():
                    logs = self.trained.step(x_BL, given_BL)
                progress.end(kind if logs else None, self.state["step"], logs)
                if self.state["step"] > before:
                    self._after(logs)
                if self.trained.whole and self._one_says(interrupt.asked):
                    self.save(self.last)
                    if self.world.rank == 0:
                        done = f"interrupted after {self.state['step']} steps: {self.last}"
                        tqdm.tqdm.write(done)
                        interrupt.requeue()
                    self._one_says(False)  # a worker that ends first has the others killed
                    raise KeyboardInterrupt
        self.save(self.last)
        if self.watch:
            self.watch.conclude(f"{self.folder}/{runs.BEST}", self.last)

    def _progress(self):
        total = self.config.training.n_iters
        return Progress(
            self.trained.to_come(total),
            self.trained.updates,
            self.trained.counts,
            lambda: self.watch.seconds_to_come(self.state["step"], total) if self.watch else 0.0,
            show=self.world.rank == 0,
        )

    @property
    def watch(self) -> Watch | None:
        """The guard's, if there is one."""
        return self.trained.watch

    @property
    def _going(self):
        return self.state["step"] < self.config.training.n_iters and not self.stopped

    def _one_says(self, yes):
        """Whether ``yes`` is true in one of the workers. All of them call this."""
        if self.world.size == 1:
            return yes  # without waiting for the device
        said = torch.tensor([float(yes)], device=self.parts.device)
        self.world.average([said])
        return said.item() > 0

    def _batches(self):
        while self._going:
            for batch in self.loader:
                yield given.of(batch, self.parts.device)
                if not self._going:
                    return

    def _precision(self):
        wanted = self.config.precision == "bf16"
        return torch.autocast(self.parts.device.type, torch.bfloat16, enabled=wanted)

    # after a step ----------------------------------------------------------------------------

    def _after(self, logs):
        """Do what is due after a step."""
        settings, step = self.config.training, self.state["step"]
        if step % settings.log_freq == 0:
            self._log(logs)
        if step % settings.eval_freq == 0:
            self._log({"evaluation_loss": self._evaluate(step // settings.eval_freq)})
        if look := self.trained.look():
            self._looked(*look)
        if step % settings.snapshot_freq_for_preemption == 0:
            self.save(self.last)
        if step % settings.snapshot_freq == 0:
            self._snapshot(step // settings.snapshot_freq)

    def _log(self, logs):
        shown = ", ".join(f"{name}: {value:.5e}" for name, value in logs.items())
        self.log.info("step: %d, %s", self.state["step"], shown)

    def _evaluate(self, number):
        """SEDD's loss of the EMA model on a batch of the validation text; ``number`` picks it."""
        start = number * self.config.eval.batch_size
        places = [n % len(self.valid) for n in range(start, start + self.config.eval.batch_size)]
        batch = torch.utils.data.default_collate([self.valid[n] for n in places])
        graph = given.Given(self.parts.graph)
        x_BL, graph.given_BL = given.of(batch, self.parts.device)
        torch.manual_seed(self.config.seed)
        loss = host.active().module("losses").get_loss_fn(self.parts.noise, graph, False)
        with looks.averaged(self.parts.model, self.state["ema"]), torch.no_grad():
            return loss(self.parts.model, x_BL).mean().item()

    def _looked(self, measured, best, stop):
        """Keep what a look at the student has found: ({steps: metrics}, best so far, stop)."""
        self._log(logged(measured, self.trained.distiller))
        self.watch.record(f"{self.folder}/guard.json", self.state["step"], stop)
        if best:
            self.save(f"{self.folder}/{runs.BEST}")
        self.stopped = stop

    def _snapshot(self, number):
        """Save SEDD's numbered checkpoint, and texts beside it if training.snapshot_sampling."""
        self.save(f"{self.folder}/checkpoints/checkpoint_{number}.pth")
        if not self.config.training.snapshot_sampling:
            return
        draw, _ = sampler(self.parts, Way.configured(self.config.sampling))
        torch.manual_seed(self.config.seed + self.world.rank)
        with looks.averaged(self.parts.model, self.state["ema"]):
            tokens_NL = draws.stream(draw, self.config.eval.batch_size, self.parts.at_a_time)
            texts = self.tokenizer.batch_decode(tokens_NL)
        place = f"{self.folder}/samples/iter_{self.state['step']}/sample_{self.world.rank}.txt"
        write_whole(place, "\n\n".join(texts).encode())


def _logger(folder, silent):
    """A logger that writes the run's file ``logs``, as SEDD does, or with ``silent`` nothing."""
    os.makedirs(folder, exist_ok=True)
    logger = logging.getLogger("sedd_ext")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = logging.NullHandler() if silent else logging.FileHandler(f"{folder}/logs")
    handler.setFormatter(logging.Formatter("%(asctime)s - %(message)s"))
    logger.handlers = [handler]
    return logger
