"""algo=sedd: SEDD itself, as its own training step trains it."""

import torch
from torch import Tensor

from duo_ext import Refused
from duo_ext.core.distiller import World
from duo_ext.data.texts import Tokenizer
from sedd_ext import host, runs
from sedd_ext.given import Given
from sedd_ext.parts import Parts

SEED_STRIDE = 1_000_003


class Score:
    """An ``algorithms.Algorithm``: SEDD's own training step.

    Gradients are averaged over the workers. Each micro-batch has a seed of its own, so that a
    resumed run repeats what a run that was never stopped does.
    """

    identity = {}
    counts = phase = "step"
    watch = None

    def __init__(self, parts: Parts, world: World):
        self.parts, self.state, self.world = parts, runs.new_state(parts), world
        losses = host.active().module("losses")
        self.optimize = losses.optimization_manager(parts.config)
        accum = parts.config.training.accum
        self.graph = Given(parts.graph)
        self.train = losses.get_step_fn(parts.noise, self.graph, True, self._optimize, accum)
        self.micro = 0

    def _optimize(self, optimizer, scaler, params, step):
        params = list(params)
        self.world.average([p.grad for p in params])
        self.norm = torch.nn.utils.get_total_norm([p.grad for p in params])
        self._require_finite("gradient", self.norm)
        self.optimize(optimizer, scaler, params, step=step)

    def step(self, x_BL: Tensor, given_BL: Tensor | None) -> dict[str, float] | None:
        """Give SEDD's training step one micro-batch; Refused where the result is not finite."""
        self.graph.given_BL = given_BL
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
    def updates(self) -> int:
        return self.state["step"]

    def to_come(self, steps: int) -> dict[str, int]:
        return {self.phase: max(0, steps - self.updates)}

    @property
    def whole(self) -> bool:
        """SEDD's checkpoint has no place for half an update."""
        return self.micro == 0

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        """SEDD's checkpoint holds all."""

    def begin(self, tokenizer: Tokenizer, valid: torch.utils.data.Dataset) -> None:
        """No guard."""

    def look(self) -> None:
        return None
