"""A trained model from Python: loaded once, sampled as often as one likes."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from duo_ext.commands import evaluation, options
from duo_ext.commands.line import hush
from duo_ext.data import corpus
from duo_ext.measuring.subject import Setting


class Student:
    """A checkpoint as an object that writes texts.

    ``load_student`` of ``duo_ext`` and of ``sedd_ext`` makes one. ``length`` is the number of
    tokens of a text, ``tokenizer`` the model's own, ``host`` the tree that it runs in.
    """

    def __init__(
        self,
        side: evaluation.Side,
        path: str | Path,
        overrides: Iterable[str],
        host: str | None,
        device: str | None,
        trust_checkpoint: bool,
    ):
        words = ["--student", str(path), "--output", ""]
        words += ["--device", device] if device else []
        words += ["--trust-checkpoint"] if trust_checkpoint else []
        self._options = options.parse(side, [*words, *overrides])
        self.host = side.activate(host)
        hush()  # a checkout's modules use what torch calls deprecated
        corpus.register_resolvers()
        self._subject = side.load("student", str(path), self._options)
        self.tokenizer, self.length = self._subject.tokenizer, self._subject.length

    def sample(self, count: int = 1, steps: int = 8, seed: int = 1, **way) -> list[str]:
        """``count`` texts, each in ``steps`` steps; the same for the same seed.

        ``way``: ``sampler`` and ``grid`` (by default those that the student was trained for),
        ``noise_removal``, ``temperature``, ``nucleus``, ``predictor``, as in ``evaluate``. Raises
        Refused for what cannot be sampled.
        """
        return self.tokenizer.batch_decode(self.sample_tokens(count, steps, seed, **way))

    def sample_tokens(self, count: int = 1, steps: int = 8, seed: int = 1, **way) -> Tensor:
        """The texts of ``sample`` as tokens (count, length) on the CPU."""
        self._options.samples, self._options.seed = count, seed
        sampler, grid = self._subject.trained_for
        if "sampler" in way:
            sampler, grid = way["sampler"], "host"
        own = {"sampler": sampler, "grid": grid, "predictor": self._options.predictor_of(sampler)}
        setting = Setting(steps, **own | way)
        self._subject.require(setting, self._options.precision)
        [(tokens_NL, _, _)] = evaluation.sample([(self._subject, setting)], self._options)
        return tokens_NL
