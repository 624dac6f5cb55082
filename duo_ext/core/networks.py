"""A denoiser as the core sees it: tokens and alpha in, features or logits out."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from duo_ext.core import sums
from duo_ext.core.losses import wide
from duo_ext.core.precision import running_in


@dataclass(frozen=True)
class Mixture:
    """Soft tokens that mix k tokens each: tokens (B, L, k) with weights (B, L, k) of sum 1."""

    tokens: Tensor
    weights: Tensor


class Denoiser:
    """A DIT whose body and head can be evaluated apart, the head on chosen rows only.

    ``backbone(x, sigma)`` is any network with Duo's names: x are token ids (B, L), or logits
    (B, L, V) of soft tokens; its last layer is ``output_layer.linear``. One that embeds tokens by
    ``vocab_embed`` takes a ``Mixture`` as well. A network without ``time_conditioning`` gets
    sigma = 0. Nothing of the backbone is changed or copied.

    An autocast that lies around the call does not reach the backbone. Embeddings and time
    conditioning run in the precision of the weights, as in Duo's own forward pass. Blocks and head
    run in ``precision`` ("float32" or "bf16"); where it is None, under the autocast that the
    backbone opens for them.
    """

    def __init__(
        self, backbone: torch.nn.Module, time_conditioning: bool, precision: str | None = None
    ):
        self.backbone = backbone
        self.time_conditioning = time_conditioning
        self.precision = precision
        self._autocast = {"device_type": "cpu", "enabled": False}

    def __call__(self, x: Tensor | Mixture, alpha_B: Tensor) -> Tensor:
        """Logits (B, L, V), at least float32."""
        return wide(self.head(self.features(x, alpha_B)))

    def features(self, x: Tensor | Mixture, alpha_B: Tensor) -> Tensor:
        """The input (B, L, D) of the last linear layer."""
        with running_in(self.backbone, self.precision):
            found, self._autocast = input_of(self._last_layer, lambda: self._run(x, alpha_B))
        return found

    def _run(self, x, alpha_B):
        with torch.autocast(alpha_B.device.type, enabled=False):
            if isinstance(x, Mixture):
                with embedded_as(x, self.backbone.vocab_embed):
                    self.backbone(x.tokens[..., 0], self._sigma(alpha_B))
            else:
                self.backbone(x, self._sigma(alpha_B))

    @property
    def takes_mixtures(self) -> bool:
        """Whether ``features`` takes a ``Mixture``."""
        return hasattr(self.backbone, "vocab_embed")

    def head(self, features: Tensor) -> Tensor:
        """Logits (..., V) of features (..., D) that ``features`` gave, as rounded as they are."""
        with torch.autocast(**self._autocast):
            return self._last_layer(features)

    @property
    def head_parameters(self) -> list[torch.nn.Parameter]:
        """The last layer's weight (V, D) and, where it has one, bias (V,)."""
        return list(self._last_layer.parameters())

    @property
    def vocab_size(self) -> int:
        """V, the number of logits of a position."""
        return self._last_layer.out_features

    @torch.no_grad()
    def head_backward(
        self, features_RD: Tensor, gradient_RV: Tensor, scale_R: Tensor, into: list[Tensor | None]
    ) -> Tensor:
        """The gradient (R, D) of the features; adds the gradients of the head's parameters.

        The gradient of the logits is gradient_RV times scale_R. ``into`` has a tensor for each of
        ``head_parameters``, to which its gradient is added, or None.
        """
        if type(self._last_layer) is not torch.nn.Linear:
            return self._differentiated(features_RD, gradient_RV * scale_R[:, None], into)
        weight_VD, *_ = self.head_parameters
        scale_R = scale_R.to(weight_VD.dtype)
        rounded = self._autocast["dtype"] if self._autocast["enabled"] else weight_VD.dtype
        gradient_RV = gradient_RV.to(rounded)  # once, for both products
        with torch.autocast(**self._autocast):
            for total, parameter in zip(into, self.head_parameters, strict=True):
                if total is None:
                    continue
                if parameter.ndim == 1:
                    total += scale_R @ gradient_RV
                elif self._autocast["enabled"]:
                    total += gradient_RV.T @ (features_RD * scale_R[:, None])
                else:  # in place: no second (V, D)
                    total.addmm_(gradient_RV.T, features_RD * scale_R[:, None])
            return (gradient_RV @ weight_VD) * scale_R[:, None]

    def _differentiated(self, features_RD, gradient_RV, into):
        """As ``head_backward``, of a last layer with adapters: its logits are formed once more."""
        both = zip(self.head_parameters, into, strict=True)
        wanted = [(parameter, total) for parameter, total in both if total is not None]
        with torch.enable_grad():
            features_RD = features_RD.detach().requires_grad_()
            logits = self.head(features_RD)
        inputs = [features_RD, *(parameter for parameter, _ in wanted)]
        of_features, *found = torch.autograd.grad(logits, inputs, gradient_RV.to(logits.dtype))
        for (_, total), gradient in zip(wanted, found, strict=True):
            total += gradient
        return of_features

    @property
    def _last_layer(self):
        return self.backbone.output_layer.linear

    def _sigma(self, alpha_B):
        if not self.time_conditioning:
            alpha_B = torch.ones_like(alpha_B)
        dtype = next(self.backbone.parameters()).dtype
        return -alpha_B.log().to(dtype)


@contextlib.contextmanager
def embedded_as(x: Mixture, layer: torch.nn.Module) -> Iterator[None]:
    """In it, ``layer`` gives the mean embeddings (B, L, D) of a mixture, whatever tokens it gets.

    ``layer.embedding`` is (V, D). A hook does it from outside, since of the hosts' forward passes
    only that of Duo's main takes mixtures.
    """

    def mean(module, arguments, found):
        weights = x.weights.flatten(0, 1).to(module.embedding.dtype)
        tokens = x.tokens.flatten(0, 1)
        bags = F.embedding_bag(tokens, module.embedding, per_sample_weights=weights, mode="sum")
        return bags.view(*x.tokens.shape[:2], -1)

    hook = layer.register_forward_hook(mean)
    try:
        yield
    finally:
        hook.remove()


def input_of(layer: torch.nn.Module, call: Callable[[], object]) -> tuple[Tensor, dict]:
    """(what ``call()`` gives ``layer`` as its input, the autocast that is in force there).

    The call ends at the layer, by an exception that a hook raises and that is caught here. A host's
    forward pass has no other way to stop before its last layer. That layer's logits of all
    positions and tokens are most of a pair's memory, and are wanted at some positions alone. The
    autocast, as keyword arguments of ``torch.autocast``, is the host's own, opened inside its
    forward pass; the layer needs it when it is applied later.
    """

    class Reached(Exception):
        pass

    def reach(module, arguments):
        raise Reached(arguments[0], _autocast_here(arguments[0].device.type))

    hook = layer.register_forward_pre_hook(reach)
    try:
        call()
    except Reached as reached:
        return reached.args
    finally:
        hook.remove()
    raise AssertionError("the network did not call its last layer")


def _autocast_here(kind):
    """The autocast that is in force for a kind of device, as ``torch.autocast`` takes it."""
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return {"device_type": kind, "dtype": dtype, "enabled": enabled}


class Tempered(Denoiser):
    """A denoiser as it is sampled: logits in float64, at a temperature, -inf outside the nucleus.
    ``mask`` is a token that is no output and has no part in it. ``calls`` grows by one with each
    evaluation."""

    def __init__(
        self,
        backbone: torch.nn.Module,
        time_conditioning: bool,
        temperature: float = 1.0,
        nucleus: float = 1.0,
        mask: int | None = None,
        precision: str | None = None,
    ):
        super().__init__(backbone, time_conditioning, precision)
        self.temperature, self.nucleus, self.mask, self.calls = temperature, nucleus, mask, []

    @classmethod
    def of(cls, process: object, *given: object, **settings: object) -> "Tempered":
        """As the class itself, for the tokens of a process (``sampled.Sampled``)."""
        return cls(*given, mask=getattr(process, "mask_index", None), **settings)

    def features(self, x: Tensor | Mixture, alpha_B: Tensor) -> Tensor:
        """The input (B, L, D) of the last linear layer; one more in ``calls``."""
        self.calls.append(1)
        return super().features(x, alpha_B)

    def head(self, features: Tensor) -> Tensor:
        """Logits (..., V) divided by the temperature, float64."""
        logits = super().head(features).double() / self.temperature
        return logits if self.nucleus == 1 else self._in_nucleus(logits)

    def _in_nucleus(self, logits):
        """-inf outside the smallest set of tokens that has the mass ``nucleus`` or more."""
        if self.mask is not None:
            logits[..., self.mask].fill_(-torch.inf)
        ordered, order = logits.softmax(-1).sort(-1, descending=True)
        outside = sums.cumulated(ordered) - ordered >= self.nucleus
        return logits.masked_fill_(outside.scatter(-1, order, outside), -torch.inf)
