"""A trained model from Python: loaded once, sampled as often as one likes."""

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from duo_ext import Refused, ranks
from duo_ext.commands import evaluation, options, streams
from duo_ext.commands.line import hush
from duo_ext.core import samplers
from duo_ext.data import corpus, prompts
from duo_ext.measuring.subject import Setting, grid_of


class Student:
    """A checkpoint as an object that writes texts.

    ``load_student`` of ``duo_ext`` and of ``sedd_ext`` makes one. ``length`` is the number of
    tokens of a text, ``tokenizer`` the model's own, ``algo`` the algorithm that made it, and
    ``host`` the tree that it runs in.

    All methods that write take the same ``way``: ``prompt``, what each text begins with, or
    ``infill``, a text with holes written ``___``; ``sampler`` and ``grid`` (by default those that
    the student was trained for), ``noise_removal``, ``temperature``, ``nucleus``, ``predictor``, as
    in ``evaluate``. They raise Refused for what cannot be sampled.
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
        self._options.device = ranks.device_of(self._options.device)
        self.host = side.activate(host)
        hush()  # a checkout's modules use what torch calls deprecated
        corpus.register_resolvers()
        self._subject = side.load("student", str(path), self._options)
        self.tokenizer, self.length = self._subject.tokenizer, self._subject.length
        self.algo = self._subject.algo

    @property
    def frame(self) -> prompts.Frame:
        """What the texts are: their length, and the tokens at their ends."""
        return self._subject.frame

    @property
    def mask(self) -> int | None:
        """The token of a position that is not written yet; None for a process without one."""
        process, _ = self._subject.core(Setting(1))
        return getattr(process, "mask_index", None)

    def require(self, steps: int = 8, seed: int = 1, **way) -> None:
        """Raise Refused for a way in which no text can be written."""
        self._way(steps, way)

    def sample(self, count: int = 1, steps: int = 8, seed: int = 1, **way) -> list[str]:
        """``count`` texts, each in ``steps`` steps; the same for the same seed. BOS and EOS at
        their ends are left out."""
        return self.frame.decode(self.sample_tokens(count, steps, seed, **way))

    def sample_tokens(self, count: int = 1, steps: int = 8, seed: int = 1, **way) -> Tensor:
        """The texts of ``sample`` as tokens (count, length) on the CPU, BOS and EOS with them."""
        return torch.cat(list(self.batches(count, steps, seed, **way)))

    def batches(
        self,
        count: int = 1,
        steps: int = 8,
        seed: int = 1,
        batch_size: int | None = None,
        see: Callable[[Tensor], None] = lambda z_BL: None,
        **way,
    ) -> Iterator[Tensor]:
        """The same, some texts (batch, length) at a time, as they are finished. ``see`` is called
        before each evaluation of the network, with its input: the texts that this step changes."""
        setting, given_L = self._way(steps, way)
        own = {"samples": count, "seed": seed, "batch_size": batch_size}
        told = argparse.Namespace(**vars(self._options) | own)
        options.require_numbers(told, samples=1, batch_size=1, seed=0)
        given = given_L and tuple(x_L.expand(count, -1) for x_L in given_L)
        _, network = self._subject.core(Setting(steps))

        def shown(module, inputs, named):  # a host gives its network the texts in either way
            see(next(iter((*inputs, *named.values()))))

        hook = network.backbone.register_forward_pre_hook(shown, with_kwargs=True)
        try:
            for stream in streams.Stream.of_row(0, self._subject, setting, told):
                found, _, _ = stream.draw(self._subject, setting, told, given)
                yield torch.cat(found)
        finally:
            hook.remove()

    def _way(self, steps, way):
        """(the ``Setting``, what is given, (L,) each, or None)."""
        way = dict(way)
        given = {key: way.pop(key, None) for key in ("prompt", "infill")}
        wanted = [(key, text) for key, text in given.items() if text is not None]
        if len(wanted) > 1:
            raise Refused("prompt and infill are both given; a text has one of them")
        given_L = next((getattr(self.frame, key)(text, key) for key, text in wanted), None)
        sampler, grid = self._subject.ways
        if "sampler" in way:
            sampler, grid = way["sampler"], grid_of(way["sampler"])
        elif sampler == "host":  # a text of the core's samplers can be drawn alone, and watched
            sampler = "ancestral"
        own = {"sampler": sampler, "grid": grid, "predictor": self._options.predictor_of(sampler)}
        setting = Setting(steps, **own | way)
        self._subject.require(setting, self._options.precision)
        if wanted and setting.by_host:
            raise Refused(
                f"--sampler is host, which knows no {wanted[0][0]}; it must be one of ours: "
                f"{samplers.WANTED}"
            )
        return setting, given_L
