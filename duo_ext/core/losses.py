"""The losses of single rows, and their gradients in closed form.

The formulas come first: what a row's loss is, differentiable in all that it takes. The functions
under "gradients" give the same loss with the gradient that a distillation needs, in a few passes
over the vocabulary. On a GPU each pass is bound by memory, and autograd makes several times as
many.

Each of these functions returns (loss_R, scale_R). The gradient divided by scale_R takes the place
of the logits that its docstring names as "for the network" or "for the student". scale_R is one
factor for a whole row; ``rows`` applies it to rows of width D instead of rows of V.

Shapes: R rows, V vocabulary.
"""

from typing import TypeAlias

import torch
from torch import Tensor

Scaled: TypeAlias = tuple[Tensor, Tensor]  # (loss_R, scale_R)


def wide_dtype(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def wide(logits: Tensor) -> Tensor:
    """In float32 or more."""
    return logits.to(wide_dtype(logits))


def softmax(logits: Tensor) -> Tensor:
    """In float32 or more, of logits that may be rounded."""
    return logits.softmax(-1, dtype=wide_dtype(logits))


def mix(f: Tensor, alpha: Tensor) -> Tensor:
    """p(. | f) / alpha = f + (1 - alpha) / (V alpha), (R, V); alpha (R, 1) > 0.

    That is fbar / (V alpha) with the fbar of (6). Positive at alpha = 1 too.
    """
    return f + _rest(alpha, f)


def _rest(alpha, f):
    rest = (1 - alpha) / (f.shape[-1] * alpha)
    return rest.clamp_min(torch.finfo(f.dtype).tiny)


def uniform_loss(fbar: Tensor, xbar: Tensor, z: Tensor, alpha: Tensor, dalpha: Tensor) -> Tensor:
    """(6) without its terms free of f, (R,).

    -dalpha / (V alpha) [V / fbar_z + sum_j r_j log(fbar_z / fbar_j)], where r_j = xbar_j / xbar_z
    carries the gradient to xhat. fbar = mix(f), xbar = mix(xhat): of V alpha times these the first
    term alone takes more than ratios. z, alpha, dalpha (R,).
    """
    log_fbar = fbar.log()  # alpha sum_j xbar_j = 1
    cross = _at(log_fbar, z) - alpha * torch.linalg.vecdot(xbar, log_fbar)
    return _weight(alpha, dalpha, fbar) * (1 / _at(fbar, z) + cross / _at(xbar, z))


def _weight(alpha, dalpha, fbar):
    return -dalpha / (fbar.shape[-1] * alpha**2)


def _at(values_RV, z_R):
    if torch.compiler.is_compiling():  # a look at one place is a kernel of its own
        return torch.where(_is(z_R, values_RV), values_RV, 0.0).sum(-1)
    return values_RV.gather(-1, z_R[:, None])[:, 0]


def _is(z_R, values_RV):
    """Which entry of its row is z, (R, V)."""
    return torch.arange(values_RV.shape[-1], device=z_R.device) == z_R[:, None]


# gradients ---------------------------------------------------------------------------------------


def absorbing_soft(student_RV: Tensor, logits_RV: Tensor, weight_R: Tensor, mask: int) -> Scaled:
    """(5) with MDLM's network: w <p, log q>. For the network, w (p - q)."""
    p, log_q = probs(student_RV, mask), _log_probs(logits_RV, mask)
    log_q[:, mask].fill_(0.0)
    loss_R = weight_R * torch.linalg.vecdot(p, log_q)
    torch.sub(p, log_q.exp_(), out=logits_RV)
    logits_RV[:, mask].fill_(0.0)
    return loss_R, weight_R


def absorbing_hard(logits_RV: Tensor, weight_R: Tensor, token_R: Tensor, mask: int) -> Scaled:
    """w log q_x. For the network, w (e_x - q)."""
    log_q = _log_probs(logits_RV, mask)
    log_q_R = _at(log_q, token_R)
    _put_at(torch.exp(log_q, out=logits_RV), token_R, torch.expm1(log_q_R))
    return weight_R * log_q_R, -weight_R


def absorbing_difference(
    student_RV: Tensor, teacher_RV: Tensor, fake_RV: Tensor, weight_R: Tensor, mask: int
) -> Scaled:
    """w <p, d>, d the ratio of log-probabilities. For the student, w p (d - <p, d>)."""
    log_q, log_f = (_log_probs(x, mask) for x in (teacher_RV, fake_RV))
    return _expected(student_RV, log_q.sub_(log_f), weight_R, mask)


def score_soft(
    student_RV: Tensor,
    logits_RV: Tensor,
    weight_R: Tensor,
    log_r_R: Tensor,
    shift_R: Tensor,
    mask: int,
) -> Scaled:
    """(4) with SEDD's network: w [<p, log s> - sum_y s_y / r - log r + 1], log s = logits + shift.
    For the network, w (p - s / r)."""
    p, share = probs(student_RV, mask), wide(logits_RV)
    share[:, mask].fill_(0.0)
    cross_R = torch.linalg.vecdot(p, share) + shift_R
    share, total_R = _shares(share, log_r_R, shift_R, mask)
    torch.sub(p, share, out=logits_RV)
    return weight_R * (cross_R - total_R - log_r_R + 1), weight_R


def score_hard(
    logits_RV: Tensor,
    weight_R: Tensor,
    token_R: Tensor,
    log_r_R: Tensor,
    shift_R: Tensor,
    mask: int,
) -> Scaled:
    """w [log s_x - sum_y s_y / r - log r + 1]. For the network, w (e_x - s / r)."""
    log_s_R = _at(logits_RV, token_R) + shift_R
    share, total_R = _shares(wide(logits_RV), log_r_R, shift_R, mask)
    share_R = _at(share, token_R)
    _put_at(logits_RV.copy_(share), token_R, share_R - 1)
    return weight_R * (log_s_R - total_R - log_r_R + 1), -weight_R


def score_difference(
    student_RV: Tensor, teacher_RV: Tensor, fake_RV: Tensor, weight_R: Tensor, mask: int
) -> Scaled:
    """w <p, d>, d the difference of the logits. For the student, w p (d - <p, d>)."""
    return _expected(student_RV, wide(teacher_RV) - fake_RV, weight_R, mask)


def uniform_soft(
    student_RV: Tensor, logits_RV: Tensor, z_R: Tensor, alpha_R: Tensor, dalpha_R: Tensor
) -> Scaled:
    """``relaxed_soft`` of the student's probabilities."""
    return relaxed_soft(softmax(student_RV), logits_RV, z_R, alpha_R, dalpha_R)


def relaxed_soft(
    p_RV: Tensor, logits_RV: Tensor, z_R: Tensor, alpha_R: Tensor, dalpha_R: Tensor
) -> Scaled:
    """``uniform_loss`` of q = softmax(logits), with xbar = mix(p). For the network, k times

    q (g - <q, g>),  g = rho + e_z (rho_z - 1) / (alpha fbar_z),  rho = xbar / fbar,

    k = dalpha / (V alpha xbar_z).
    """
    q = softmax(logits_RV)
    rest_R = _rest(alpha_R, q)
    xbar, fbar = (x + rest_R[:, None] for x in (p_RV, q))
    xbar_z, fbar_z = _at(xbar, z_R), _at(fbar, z_R)
    log_fbar = fbar.log()
    cross_R = _at(log_fbar, z_R) - alpha_R * log_fbar.mul_(xbar).sum(-1)
    weight_R = _weight(alpha_R, dalpha_R, fbar)
    loss_R = weight_R * (1 / fbar_z + cross_R / xbar_z)
    _ratio_gradient(q, xbar.div_(fbar), fbar_z, z_R, alpha_R, out=logits_RV)
    return loss_R, -weight_R * alpha_R / xbar_z


def relaxed_ratio(
    p_RV: Tensor,
    teacher_RV: Tensor,
    fake_RV: Tensor,
    z_R: Tensor,
    alpha_R: Tensor,
    dalpha_R: Tensor,
) -> Scaled:
    """``uniform_loss`` of teacher minus that of fake, with xbar = mix(p). For teacher and fake,
    their gradient in ``relaxed_soft`` and minus it; for p, with d and c as in ``uniform_ratio``,
    k (d + e_z c / (alpha xbar_z))."""
    q, f = softmax(teacher_RV), softmax(fake_RV)
    rest_R = _rest(alpha_R, q)
    xbar = p_RV.add_(rest_R[:, None])
    tbar, fbar = (x + rest_R[:, None] for x in (q, f))
    xbar_z, tbar_z, fbar_z = (_at(x, z_R) for x in (xbar, tbar, fbar))
    _ratio_gradient(q, xbar / tbar, tbar_z, z_R, alpha_R, out=teacher_RV)
    _ratio_gradient(f, xbar / fbar, fbar_z, z_R, alpha_R, out=fake_RV)
    fake_RV.neg_()
    d = tbar.div_(fbar).log_()
    d_z = _at(d, z_R)
    cross_R = d_z - alpha_R * xbar.mul_(d).sum(-1)
    _put_at(p_RV.copy_(d), z_R, d_z + cross_R / (alpha_R * xbar_z))
    weight_R = _weight(alpha_R, dalpha_R, q)
    loss_R = weight_R * (1 / tbar_z - 1 / fbar_z + cross_R / xbar_z)
    return loss_R, -weight_R * alpha_R / xbar_z


def _ratio_gradient(q, rho, fbar_z, z_R, alpha_R, out):
    """The gradient of ``relaxed_soft`` divided by k; overwrites rho."""
    at_z_R = _at(q, z_R) * (_at(rho, z_R) - 1) / (alpha_R * fbar_z)
    q_rho = rho.mul_(q)
    _minus_mean(q, q_rho, q_rho.sum(-1), z_R, at_z_R, out)


def uniform_ratio(
    student_RV: Tensor,
    teacher_RV: Tensor,
    fake_RV: Tensor,
    z_R: Tensor,
    alpha_R: Tensor,
    dalpha_R: Tensor,
) -> Scaled:
    """``uniform_loss`` of teacher minus that of fake. For the student, with d_j the logarithm of
    tbar_j / fbar_j and c = d_z - alpha sum_j xbar_j d_j,

    k p (g - <p, g>),  g = d + e_z c / (alpha xbar_z),  k = dalpha / (V alpha xbar_z).
    """
    p, tbar, fbar = map(softmax, (student_RV, teacher_RV, fake_RV))
    rest_R = _rest(alpha_R, p)
    tbar_z, fbar_z = (_at(x.add_(rest_R[:, None]), z_R) for x in (tbar, fbar))
    p_z = _at(p, z_R)
    xbar_z = p_z + rest_R
    d = tbar.div_(fbar).log_()
    d_z, sum_R = _at(d, z_R), d.sum(-1)
    pd = d.mul_(p)
    mean_R = pd.sum(-1)
    cross_R = d_z - alpha_R * (mean_R + rest_R * sum_R)
    _minus_mean(p, pd, mean_R, z_R, p_z * cross_R / (alpha_R * xbar_z), out=student_RV)
    weight_R = _weight(alpha_R, dalpha_R, p)
    loss_R = weight_R * (1 / tbar_z - 1 / fbar_z + cross_R / xbar_z)
    return loss_R, -weight_R * alpha_R / xbar_z


def _minus_mean(p, pg, mean_R, z_R, at_z_R, out):
    """p (h - <p, h>) into ``out``, of pg = p g and its sum, p h being pg with at_z_R more at z."""
    mean_R = mean_R + at_z_R
    at_z_R = _at(pg, z_R) + at_z_R - _at(p, z_R) * mean_R
    torch.addcmul(pg, p, mean_R[:, None], value=-1, out=out)
    _put_at(out, z_R, at_z_R)


def _expected(student_RV, values_RV, weight_R, mask):
    """w <p, values>, with its gradient for the student's logits in their place."""
    values_RV[:, mask].fill_(0.0)
    p = probs(student_RV, mask)
    return weight_R * through_softmax(p, values_RV, out=student_RV), weight_R


def through_softmax(p: Tensor, g: Tensor, out: Tensor) -> Tensor:
    """p (g - <p, g>) into ``out``; overwrites g; returns <p, g>."""
    pg = g.mul_(p)
    mean_R = pg.sum(-1)
    torch.addcmul(pg, p, mean_R[:, None], value=-1, out=out)
    return mean_R


def probs(logits: Tensor, mask: int) -> Tensor:
    """softmax over the tokens other than the mask, whose logit is overwritten."""
    logits[..., mask].fill_(-torch.inf)
    return softmax(logits)


def _log_probs(logits_RV, mask):
    logits_RV[:, mask].fill_(-torch.inf)
    return logits_RV.log_softmax(-1, dtype=wide_dtype(logits_RV))


def _shares(share_RV, log_r_R, shift_R, mask):
    """s / r in the place of the logits, 0 at the mask, and its sum over the tokens."""
    share_RV.add_((shift_R - log_r_R)[:, None]).exp_()
    share_RV[:, mask].fill_(0.0)
    return share_RV, share_RV.sum(-1)


def _put_at(values_RV, z_R, value_R):
    value_R1 = value_R[:, None].to(values_RV.dtype)
    if torch.compiler.is_compiling():
        torch.where(_is(z_R, values_RV), value_R1, values_RV, out=values_RV)
    else:
        values_RV.scatter_(-1, z_R[:, None], value_R1)
