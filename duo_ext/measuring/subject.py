"""A model that can be sampled, and the settings that it is sampled under."""

import functools
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from duo_ext import Refused
from duo_ext.core import samplers
from duo_ext.core.samplers import auto, blank, grids
from duo_ext.data import prompts
from duo_ext.data.pairs import Form
from duo_ext.data.texts import Tokenizer
from duo_ext.files import write_whole
from duo_ext.measuring import draws

PATHS = 16  # texts by which a grid is found
REMOVALS = ("ancestral", "greedy", "none")
HOST = ("host", "host")  # the host's own sampler on its own times


@dataclass(frozen=True)
class Setting:
    """One way of sampling."""

    steps: int
    sampler: str = "host"  # the host's own, or one of the core (``samplers.find``)
    grid: str = "host"  # the core's times (``grids.times``), or "auto", found for the checkpoint
    predictor: str = "ancestral"  # the host's name of a step
    noise_removal: str = "ancestral"  # the last step
    temperature: float = 1.0
    nucleus: float = 1.0

    @property
    def by_host(self) -> bool:
        """Whether the host's own sampler draws."""
        return self.sampler == "host"

    def require(self, precision: str) -> None:
        """Raise Refused for what no checkpoint can be sampled under."""
        for name, fits, wanted in (
            ("steps", self.steps >= 1, "at least 1"),
            ("temperature", 0 < self.temperature < math.inf, "above 0"),
            ("nucleus", 0 < self.nucleus <= 1, "above 0, at most 1"),
            ("noise_removal", self.noise_removal in REMOVALS, f"one of {', '.join(REMOVALS)}"),
        ):
            if not fits:
                raise Refused(f"{name} is {getattr(self, name)}; it must be {wanted}")
        if self.by_host:
            if self.grid != "host":
                raise Refused(f"--grid is '{self.grid}'; --sampler host has a grid of its own")
            return
        samplers.find(self.sampler)
        if precision != "float64":
            raise Refused(
                f"--precision is '{precision}'; --sampler {self.sampler} draws in float64"
            )
        if self.grid != "auto":
            grids.times(self.grid, self.steps)
        elif self.sampler == "comb":
            raise Refused("--grid is 'auto'; --sampler comb takes equal steps, as of --grid linear")
        elif self.steps >= auto.FINE:
            raise Refused(f"--steps is {self.steps}; --grid auto has at most {auto.FINE - 1}")


def grid_of(sampler: str) -> str:
    """The grid of a sampler that is asked for without one: the host's for the host's algorithm,
    else equal steps, of which the last evaluation too has its share."""
    return "host" if sampler in ("host", "ancestral") else "linear"


def trained_for(algo: Mapping) -> tuple[str, str]:
    """(sampler, grid) that a student was trained for, as the section ``algo`` of its configuration
    says; the host's where it says nothing."""
    found = algo.get("sampler", "ancestral"), algo.get("grid", "host")
    return HOST if found == ("ancestral", "host") else found


@dataclass
class Subject:
    """A checkpoint to sample.

    A host's subject adds ``seed(seed)``; ``sampler(setting, precision)``, a context that gives
    (draw(size) -> tokens (size, L), a list that grows with each network evaluation);
    ``held_out()``, the validation data of its own (``HeldOut``); and ``core(setting)``, the core's
    process for its family and the network as a ``Tempered``.
    """

    role: str  # teacher, student or judge
    path: str  # as the user gave it
    algo: str  # the algorithm that made it
    sha256: str
    tokenizer: Tokenizer
    vocab_size: int
    length: int
    data: dict
    trained_for: tuple = field(default=HOST, kw_only=True)  # (sampler, grid)
    ends: tuple = field(
        default=((), ()), kw_only=True
    )  # the tokens that each text begins, ends with

    def require(self, setting: Setting, precision: str) -> None:
        """Raise Refused for a setting that this checkpoint cannot be sampled under."""
        setting.require(precision)
        if setting.by_host and self.form:
            raise Refused(
                f"--sampler is host, which knows no prompts, and the data of '{self.path}' has "
                f"them; it must be one of ours: {samplers.WANTED}"
            )
        if not setting.by_host:
            samplers.require_masks(setting.sampler, self.core(setting)[0])

    def takes(self, sampler: str) -> bool:
        """Whether it can be drawn by a sampler, as far as that depends on its process."""
        return sampler == "host" or samplers.suits(sampler, self.core(Setting(1, sampler))[0])

    @property
    def form(self) -> Form | None:
        """How its data makes texts of pairs; None for whole texts."""
        return Form.configured(self.data)

    @property
    def ways(self) -> tuple[str, str]:
        """(sampler, grid) that it is drawn by unless another is asked for."""
        return self.plain if self.trained_for == HOST else self.trained_for

    @property
    def plain(self) -> tuple[str, str]:
        """(sampler, grid) of plain sampling: the host's own, which knows no prompts, or ours."""
        return ("ancestral", "host") if self.form else HOST

    @property
    def frame(self) -> prompts.Frame:
        """What its texts are, for prompts."""
        size = self.length, self.vocab_size
        return prompts.Frame(self.tokenizer, *size, *self.ends, form=self.form)

    def by_core(self, setting: Setting) -> tuple[draws.Draw, list]:
        """What ``sampler`` gives, by a sampler of the core. draw takes the random numbers of its
        texts (``draws.of_texts``) and what of them is given, too (``samplers.drawing``)."""
        process, student = self.core(setting)
        way = self.length, self.times(setting), setting.noise_removal
        return samplers.drawing(setting.sampler, process, student, *way), student.calls

    def times(self, setting: Setting) -> torch.Tensor:
        """The times (steps + 1,) at which a sampler of the core evaluates the network."""
        if setting.grid != "auto":
            return grids.times(setting.grid, setting.steps)
        key = f"{setting.sampler} {setting.predictor} {setting.steps}"
        if key not in self._found:
            times_M, costs = self._costs(setting)
            self._found[key] = times_M[auto.least(costs, setting.steps + 1)].tolist()
            if self._beside:
                content = {"checkpoint_sha256": self.sha256, "times": self._found}
                write_whole(self._beside, (json.dumps(content, indent=1) + "\n").encode())
        return torch.tensor(self._found[key], dtype=torch.float64)

    def _costs(self, setting):
        """``auto.costs`` for a sampler, of the same texts each time."""
        order = samplers.order(setting.sampler)
        key = order, setting.predictor
        if key not in self._costs_found:
            process, student = self.core(replace(setting, temperature=1.0, nucleus=1.0))
            process = replace(process, uniforms=draws.of_texts(0, 0, PATHS))
            start = blank(student, (PATHS, self.length))
            self._costs_found[key] = auto.costs(process, student, *start, order)
        return self._costs_found[key]

    @property
    def _beside(self):
        """The file of the times that were found, beside a checkpoint in a folder of the user's."""
        folder = os.path.dirname(os.path.abspath(self.path))
        writable = os.path.exists(self.path) and os.access(folder, os.W_OK)
        return f"{self.path.rstrip('/')}.times.json" if writable else None

    @functools.cached_property
    def _costs_found(self):
        return {}

    @functools.cached_property
    def _found(self):
        """{sampler, predictor, steps: times}: of this process, or before for the same weights."""
        if not (self._beside and os.path.exists(self._beside)):
            return {}
        try:
            with open(self._beside) as file:
                kept = json.load(file)
            return kept["times"] if kept["checkpoint_sha256"] == self.sha256 else {}
        except (ValueError, KeyError, TypeError):  # damaged: they are found again
            return {}
