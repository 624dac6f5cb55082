"""What a process owes the samplers. Shapes: see ``process``."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from duo_ext.core.networks import Denoiser


class Sampled(Protocol):
    """A process as ``samplers`` see it; a dataclass, so that one of other random numbers is made of
    it by ``dataclasses.replace``."""

    def schedule(self, t_B: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, d alpha_t / dt) of times (B,) in (0, 1]; float64 (B,) each."""

    def corrupt(self, x0_BL: Tensor, alpha_B: Tensor, given_BL: Tensor) -> Tensor:
        """Tokens z_t ~ p_t(. | x0), (B, L), where alpha_t is alpha_B (B,)."""

    def prior(self, x0_BL: Tensor, given_BL: Tensor) -> Tensor:
        """Tokens z_1 (B, L), of the noise alone; x0 where given."""

    changes_once: bool  # whether a position changes in one step alone, from the mask to a token
    uniforms: Callable  # uniforms(shape (B, ...), device): the random numbers (``rows.uniforms``)

    def reverse(
        self,
        student: Denoiser,
        z_BL: Tensor,
        alpha_t: Tensor,
        alpha_s: Tensor,
        given_BL: Tensor,
        changes_BL: Tensor | None = None,
    ) -> Tensor:
        """Tokens z_s ~ q(. | z_t, xhat) (B, L): a step of ancestral sampling from t to s, xhat the
        student's output. May write into z_BL. alpha_t < alpha_s are scalars; 1 is clean data.

        ``changes_BL`` (B, L), uniform on [0, 1): a position changes where its number is below the
        probability of a change; by default independent ones.
        """

    def law(self, logits_RV: Tensor, z_R: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """The probabilities (R, V) of z_s in such a step, from z_t = z_R and the student's logits.
        Overwrites the logits."""

    def greedy(self, student: Denoiser, z_BL: Tensor, alpha_t: Tensor, given_BL: Tensor) -> Tensor:
        """The likeliest clean tokens (B, L). May write into z_BL."""
