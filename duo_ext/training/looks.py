"""How a Duo run looks at its student: by a sampler of the core, as ``evaluate --sampler`` does.

A host's sampler forms several tensors (B, L, V) in float64, 26 GB each for 64 texts of OpenWebText;
the core's forms none. The texts of both have the same law. Settings that the core's sampler does
not know are refused before the training.
"""

import contextlib

import dataloader
import trainer_base

from duo_ext import Refused
from duo_ext.core import adapters
from duo_ext.core.sampled import Sampled
from duo_ext.measuring import batches, draws, held_out, judge
from duo_ext.measuring.subject import REMOVALS
from duo_ext.ranks import Ranks
from duo_ext.training.guard import Watch, logged
from duo_ext.training.resuming import BEST, LAST
from duo_ext.training.sampler import Sampler

JUDGE = "eval.gen_ppl_eval_model_name_or_path"


def process_of(model: trainer_base.Diffusion) -> Sampled:
    """The core's process of a model's family, which samples.

    Raises Refused for settings of sampling that the core's sampler does not know.
    """
    process, sampling = model.family.noisings["categorical"](model), model.config.sampling
    for key, values in (
        ("predictor", ("ancestral", "ancestral_cache")),  # one law, and one sampler in the core
        ("use_float64", (True,)),
        ("noise_removal", REMOVALS),
    ):
        draws.require_of_guard(f"sampling.{key}", sampling[key], values)
    if not draws.is_log_linear(model.noise, process):
        raise Refused(
            "noise is not log-linear, which the guard needs; algo.guard.every=0: no guard"
        )
    return process


def make(model: trainer_base.Diffusion) -> Watch:
    """The ``Watch`` of a running distillation, ready to begin."""
    config, ranks = model.config, Ranks(model.trainer.global_rank, model.trainer.world_size)
    _, valid = dataloader.get_dataloaders(config, model.tokenizer, skip_train=True)
    return Watch(
        settings=config.algo.guard,
        sampler=Sampler(
            process=process_of(model),
            network=lambda teacher: _network(model, teacher),
            length=model.num_tokens,
            sampler=config.algo.sampler,
            grid=config.algo.grid,
            noise_removal=config.sampling.noise_removal,
            precision=config.algo.precision,
            time_conditioning=model.time_conditioning,
            nucleus=config.sampling.p_nucleus,
        ),
        batch_size=batches.of_a_look(model.num_tokens, config.model.hidden_size),
        judge=judge.Judge(
            getattr(config.eval, JUDGE.removeprefix("eval.")),
            model.device,
            config.eval.perplexity_batch_size,
            key=JUDGE,
        ),
        held_out=held_out.of(
            valid.dataset, valid, model.tokenizer, model.vocab_size, model.given_length
        ),
        seed=config.seed,
        ranks=ranks,
    )


@contextlib.contextmanager
def _network(model, teacher):
    """The network to draw from, in evaluation."""
    if teacher:
        yield model.opponents.teacher.eval()
        return
    model._eval_mode()
    try:
        yield adapters.merged(model.backbone)
    finally:
        model._train_mode()
        if model.ema:
            model.ema.collected_params = []  # the hosts' averages keep a copy of the weights here


class Watched:
    """The looks of a distillation (``algorithms.Distillation``) and what becomes of them.

    ``watch`` is the ``Watch``, None without a guard.
    """

    def require_looks(self) -> None:
        """Raise Refused for settings under which a guard that is asked for could not sample."""
        if self.config.algo.guard.every:
            process_of(self)

    def make_watch(self) -> Watch | None:
        """The ``Watch``, begun where a resumed run left it; None without a guard."""
        if not self.config.algo.guard.every:
            return None
        return make(self).begin(self.resumed and self.resumed["guard"])

    def look_if_due(self) -> None:
        """After a micro-batch, before it is saved: look at the student, if a look is due."""
        if self.watch and self._pair_done and self.watch.due(self.distiller.pairs):
            self._look()

    def _look(self):
        pair = self.distiller.pairs
        rows, best, stop = self.watch.look(pair)
        self.log_dict(logged(rows, self.distiller))
        self.watch.record(self.file("guard.json"), pair, stop)
        if best:
            self.trainer.save_checkpoint(self.file(BEST))
        if stop:
            self.trainer.should_stop = True

    def on_train_end(self) -> None:
        """Tell which student was kept."""
        if self.watch:
            self.watch.conclude(self.file(BEST), self.file(LAST))

    def file(self, name: str) -> str:
        """The path of one of the run's files."""
        return f"{self.config.checkpointing.save_dir}/{name}"
