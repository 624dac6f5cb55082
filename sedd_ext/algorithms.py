"""The algorithms that ``train.Run`` drives, by ``algo.name``."""

from collections.abc import Hashable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from duo_ext.core.distiller import World
from duo_ext.data.texts import Tokenizer
from duo_ext.training.guard import Watch
from sedd_ext.idlm import IDLM
from sedd_ext.parts import Parts
from sedd_ext.score import Score


class Algorithm(Protocol):
    """What an algorithm owes a run. It is made of (parts, world)."""

    parts: Parts
    state: dict  # SEDD's training state (``runs.new_state``); its "step" counts what a run limits
    world: World
    counts: str  # what a step is called: "step", or "pair" of a fake and a student update
    watch: Watch | None  # the guard's, once ``begin`` has made it

    def begin(self, tokenizer: Tokenizer, valid: torch.utils.data.Dataset) -> None:
        """Get ready for the first step, once a checkpoint is loaded, if there is one.

        ``valid`` is the validation text (``data.blocks``).
        """

    def step(self, x_BL: Tensor, given_BL: Tensor | None) -> dict[str, float] | None:
        """Take one micro-batch of tokens; what to plot of the update that it completes, or None.
        ``given_BL`` marks those that are given, None for whole texts.

        Raises Refused, before the update, where a loss or a gradient is not finite.
        """

    def look(self) -> tuple[dict[int, dict], bool, bool] | None:
        """({steps: metrics of the student}, best so far, stop) where the guard is due, else None.

        The three are the same in all workers.
        """

    @property
    def updates(self) -> int:
        """How many updates are done."""

    @property
    def phase(self) -> Hashable:
        """The kind of the next update, as ``to_come`` names it."""

    def to_come(self, steps: int) -> Mapping:
        """{phase: how many updates are left until this many steps are done}."""

    @property
    def whole(self) -> bool:
        """Whether a checkpoint would now hold all that is done, half an update included."""

    def state_dict(self) -> dict:
        """What a run goes on from besides SEDD's own checkpoint."""

    def load_state_dict(self, state: dict) -> None:
        """Go on from what ``state_dict`` gave."""

    @property
    def identity(self) -> dict:
        """{name: value}: what no run changes when it goes on, besides ``train.OF_THE_RUN``."""


ALGORITHMS = {"sedd": Score, "idlm": IDLM}
