"""Sums over rows of logits, chunk by chunk: no tensor of all rows and the vocabulary is kept.

The logits (R, V) are by far the largest tensors of a pair. Here a loss is written once, as the
formula of a row, and applied to a few rows at a time. Matrix products are fast with many rows, a
formula with as many as stay in the cache: so rows are taken in chunks, and each chunk in pieces. A
chunk's gradient with respect to its logits is carried on to features and weights of the last layer
in the forward pass already. The backward pass only scales these gradients. The result is what the
formula on all rows would give.

Shapes: R rows, D width, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from duo_ext.core import sums
from duo_ext.core.networks import Denoiser, Mixture

# Logits of a network in a chunk, and in a piece of a chunk. A formula holds about ten tensors of
# the size of a piece. A GPU wants to be filled.
CHUNK = {"cpu": 2**24, "cuda": 2**27}
PIECE = {"cpu": 2**20, "cuda": 2**25}
TILE = 64  # matrix products are fastest where the number of rows is a multiple of this

BLOCK = 256  # tokens whose probabilities ``sample_tokens`` sums first


@dataclass(frozen=True)
class Head:
    """Logits that are not there yet: ``network.head(features)``.

    ``raised`` is (tokens (R,), values (R,)): in each row the token's logit is more by the value.
    """

    network: Denoiser
    features: Tensor  # (R, D); without a gradient where the network is fixed
    raised: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, network: Denoiser, x: Tensor | Mixture, alpha_B: Tensor) -> "Head":
        """A network's logits at all positions, (N, V), N = B L."""
        return cls(network, network.features(x, alpha_B).flatten(0, 1))

    def at(self, rows: Tensor | slice) -> "Head":
        """The logits at some of the rows."""
        raised = self.raised and tuple(values[rows] for values in self.raised)
        return Head(self.network, self.features[rows], raised)

    def logits(self, rows: Tensor | slice) -> Tensor:
        """Those of some of the rows (r, V)."""
        logits = self.network.head(self.features[rows])
        if self.raised:
            tokens, by = (values[rows][:, None] for values in self.raised)
            logits.scatter_(1, tokens, (logits.gather(1, tokens) + by).to(logits.dtype))
        return logits

    def detach(self) -> "Head":
        """The logits without a gradient."""
        return replace(self, features=self.features.detach())

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The last layer's parameters that are trained."""
        if not self.features.requires_grad:
            return []
        return [p for p in self.network.head_parameters if p.requires_grad]


@dataclass(frozen=True)
class Term:
    """sum over rows r of loss(inputs)_r.

    ``loss`` takes the inputs at some rows and gives one value for each row. An input is a Head, of
    which the loss gets the logits, or a tensor (R, ...). The first is logits. The others come in
    the dtype of the logits, in float32 or more, except integers.

    With ``of`` the loss forms its gradients itself, as the functions of ``losses`` do. It then
    takes logits as rounded as the head gives them, gives (loss_R, scale_R), and overwrites the
    inputs that ``of`` numbers with their gradients, divided by scale_R.
    """

    loss: Callable
    inputs: tuple
    of: tuple = ()  # numbers of inputs

    @property
    def tensors(self) -> list[Tensor]:
        """The inputs, each Head by its features."""
        return [_tensor(x) for x in self.inputs]

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters of the heads that are trained."""
        return [p for x in self.inputs if isinstance(x, Head) for p in x.parameters]


def _tensor(x):
    return x.features if isinstance(x, Head) else x


def total(*terms: Term) -> Tensor:
    """The sum of terms, a scalar whose gradients are formed already: ``backward`` runs once."""
    carriers = {id(x): x for term in terms for x in [*term.tensors, *term.parameters]}
    return _Total.apply(terms, torch.is_grad_enabled(), *carriers.values())


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx, terms, differentiate, *carriers):
        wanted = [x if differentiate and x.requires_grad else None for x in carriers]
        gradients = {id(x): torch.zeros_like(x) for x in wanted if x is not None}
        with torch.autocast(carriers[0].device.type, enabled=False):  # heads have their own
            sums = [
                _chunk(term, rows, gradients) for term in terms for rows in chunks(term.inputs[0])
            ]
        ctx.gradients = [gradients.get(id(x)) for x in carriers]
        return torch.stack(sums).sum() if sums else terms[0].tensors[0].new_zeros(())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        if ctx.gradients is None:
            raise RuntimeError("the gradients of a sum over rows can be taken once")
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, *(g if g is None else g.mul_(gradient) for g in gradients)


def _chunk(term, rows, gradients):
    """The term's sum over some rows; adds its gradients."""
    wanted = [i for i, x in enumerate(term.inputs) if id(_tensor(x)) in gradients]
    values = [_value(x, rows, i in (*term.of, *wanted)) for i, x in enumerate(term.inputs)]
    wide = torch.promote_types(values[0].dtype, torch.float32)
    values = [
        v.to(wide) if v.is_floating_point() and not (term.of and v.ndim > 1) else v for v in values
    ]
    form = _closed if term.of else _differentiated
    parts = [form(term, [v[piece] for v in values], wanted) for piece in pieces(values[0])]
    sums, scales = zip(*parts, strict=True)
    for i in wanted:
        x, gradient, scale_R = term.inputs[i], values[i], torch.cat(scales)
        if isinstance(x, Head):
            into = [gradients.get(id(p)) for p in x.network.head_parameters]
            gradient = x.network.head_backward(x.features[rows], gradient, scale_R, into)
            gradients[id(x.features)][rows] += gradient
        else:
            scale_R = scale_R.view(-1, *[1] * (gradient.ndim - 1))
            gradients[id(x)][rows].addcmul_(gradient, scale_R)
    return torch.stack(sums).sum()


def _value(x, rows, overwritten=False):
    """An input at some rows, in memory of its own if a gradient may take its place."""
    if isinstance(x, Head):
        return x.logits(rows)
    return x[rows].detach().clone() if overwritten else x[rows].detach()


def _closed(term, values, wanted):
    """The term's sum over the rows of ``values`` and scale_R; the loss leaves the gradient."""
    assert set(wanted) <= set(term.of), "a loss in closed form has no other gradients"
    loss_R, scale_R = term.loss(*values)
    return loss_R.sum(), scale_R


def _differentiated(term, values, wanted):
    """As ``_closed``, for a loss that autograd differentiates."""
    leaves = [values[i].requires_grad_() for i in wanted]
    with torch.enable_grad():
        loss = term.loss(*values).sum()
        found = torch.autograd.grad(loss, leaves) if leaves else []
    for leaf, gradient in zip(leaves, found, strict=True):
        leaf.detach().copy_(gradient)
    return loss.detach(), torch.ones_like(values[0][:, 0].detach())


def chunks(x: Head | Tensor) -> list[slice]:
    """Slices that cover the rows of an input, each of at most CHUNK logits."""
    tensor = _tensor(x)
    width = x.network.vocab_size if isinstance(x, Head) else tensor[:1].numel()
    return _slices(len(tensor), width, _at_once(CHUNK, tensor))


def pieces(values: Tensor) -> list[slice]:
    """Slices that cover the rows of a chunk, each of at most PIECE logits."""
    return _slices(len(values), values[:1].numel(), _at_once(PIECE, values))


def _at_once(sizes, tensor):
    return sizes.get(tensor.device.type, sizes["cuda"])


def _slices(R, width, most):
    """Slices of R rows of ``width`` elements, of ``most`` elements each or of one row."""
    count = max(1, most // max(1, width))
    if count > TILE:
        count -= count % TILE
    return [slice(start, min(start + count, R)) for start in range(0, R, count)]


@torch.no_grad()
def tokens(head: Head, choose: Callable, *inputs: Tensor) -> Tensor:
    """choose(logits (r, V), inputs (r, ...)) -> (r, ...) over all rows of a Head, chunk by
    chunk."""
    chosen = [_choose(choose, rows, head, *inputs) for rows in chunks(head)]
    none = torch.zeros(0, dtype=torch.long, device=head.features.device)
    return torch.cat(chosen) if chosen else none


def _choose(choose, rows, *inputs):
    values = [_value(x, rows) for x in inputs]
    return torch.cat([choose(*(v[piece] for v in values)) for piece in pieces(values[0])])


def sample(head: Head, probs: Callable[[Tensor], Tensor], u_R: Tensor) -> Tensor:
    """A token for each row of a Head, (R,): ``sample_tokens`` of probs(its logits) at u_R."""
    return tokens(head, lambda logits, u: sample_tokens(probs(logits), u), u_R)


def fill(
    student: Denoiser,
    z_BL: Tensor,
    chosen_BL: Tensor,
    alpha_t: Tensor,
    choose: Callable,
    *inputs_BL: Tensor,
    into: Tensor | None = None,
) -> Tensor:
    """Write choose(logits (R, V), inputs (R,)) -> (R, ...) into the R chosen positions, in place.

    They are positions of ``into`` (B, L, ...), by default of z_BL; it is returned. The network is
    evaluated at level ``alpha_t``, a scalar, for the sequences that have chosen positions.
    """
    into = z_BL if into is None else into
    chosen, some = positions(chosen_BL, chosen_BL.any(1))
    if len(some):
        at = chosen_BL[some].flatten().argsort(stable=True, descending=True)[: len(chosen)]
        head = Head.of(student, z_BL[some], alpha_t.expand(len(some))).at(at)
        found = tokens(head, choose, *(x_BL.flatten()[chosen] for x_BL in inputs_BL))
        into.view(-1, *into.shape[2:])[chosen] = found
    return into


def positions(*masks_BL: Tensor) -> list[Tensor]:
    """For each mask the places (R,) in the flattened (B L) where it is true, in order.

    A device is waited for once, to learn the numbers R of all masks.
    """
    counts = torch.stack([mask_BL.sum() for mask_BL in masks_BL]).tolist()
    return [
        mask_BL.flatten().argsort(stable=True, descending=True)[:count]
        for mask_BL, count in zip(masks_BL, counts, strict=True)
    ]


def uniforms(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Random numbers in [0, 1) for ``sample_tokens``, float64.

    They are drawn for all positions at once, so that no token depends on how rows are taken.
    """
    return torch.rand(shape, dtype=torch.float64, device=device)


@torch.no_grad()
def sample_tokens(probs: Tensor, u: Tensor) -> Tensor:
    """Inverse-CDF sampling, (...): the first token with sum_{i <= token} p_i > u sum_i p_i.

    probs (..., V), not negative and of any sum; u (...) in [0, 1), float64. The sum is found in two
    steps, over blocks of tokens and inside one of them, in float64: no rare token is cut off, and
    none of probability 0 is drawn.
    """
    V = probs.shape[-1]
    whole = V // BLOCK * BLOCK
    blocks = probs[..., :whole].unflatten(-1, (-1, BLOCK)).sum(-1) if whole else probs[..., :0]
    sums = torch.cat([blocks, probs[..., whole:].sum(-1, keepdim=True)], -1).double()
    block, share = _invert(sums, u)
    tokens = block[..., None] * BLOCK + torch.arange(BLOCK, device=probs.device)
    inside = probs.gather(-1, tokens.clamp(max=V - 1)).double().masked_fill(tokens >= V, 0.0)
    return (block * BLOCK + _invert(inside, share)[0]).clamp(max=V - 1)


def _invert(masses, u):
    """The first index at which the cumulated mass passes the share u, and the share of it there."""
    cumulated = sums.cumulated(masses)
    target = u.clamp(max=1 - 1e-12)[..., None] * cumulated[..., -1:]
    index = torch.searchsorted(cumulated, target, right=True)
    index = index.clamp(max=masses.shape[-1] - 1)  # not a number is for the loss to find
    mass = masses.gather(-1, index)
    share = (target - (cumulated.gather(-1, index) - mass)) / mass
    return index[..., 0], share[..., 0].clamp(min=0.0)
