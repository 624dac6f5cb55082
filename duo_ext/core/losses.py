"""The losses of single rows, and their gradients in closed form.

The formulas come first: what a row's loss is, differentiable in all that it takes. The functions
behind them give the same loss with the gradient that a distillation needs, in a few passes over the
vocabulary: on a GPU these are bound by memory, and autograd's are several times as many. They
overwrite the logits that they take, and leave a factor that is one for the whole row, ``scale_R``,
to the rows of width D that the gradient is multiplied with (``rows``): each returns (loss_R,
scale_R), and the gradient divided by scale_R takes the place of the logits named in its docstring.

Shapes: R rows, V vocabulary.
"""

import torch


def absorbing_loss(log_f, xhat, dalpha_over_alpha):
    """(5) at masked positions: dalpha_t / (1 - alpha_t) <xhat, log f>, (R,).

    log_f, xhat (R, V) with no mass on the mask; the mask's entry of log_f must be finite.
    """
    return dalpha_over_alpha * torch.linalg.vecdot(xhat, log_f)


def mix(f, alpha):
    """p(. | f) / alpha = f + (1 - alpha) / (V alpha), (R, V); alpha (R, 1) > 0.

    That is fbar / (V alpha) with the fbar of (6). Positive at alpha = 1 too.
    """
    return f + _rest(alpha, f)


def _rest(alpha, f):
    rest = (1 - alpha) / (f.shape[-1] * alpha)
    return rest.clamp_min(torch.finfo(f.dtype).tiny)


def uniform_loss(fbar, xbar, z, alpha, dalpha):
    """(6) without its terms free of f, (R,).

    -dalpha / (V alpha) [V / fbar_z + sum_j r_j log(fbar_z / fbar_j)], where r_j = xbar_j / xbar_z
    carries the gradient to xhat. fbar = mix(f), xbar = mix(xhat): of V alpha times these the first
    term alone takes more than ratios. z, alpha, dalpha (R,).
    """
    cross = _cross(fbar.log(), xbar, z, alpha)
    return _weight(alpha, dalpha, fbar) * (1 / _at(fbar, z) + cross)


def uniform_difference(fbar, other, xbar, z, alpha, dalpha):
    """``uniform_loss`` of fbar minus that of another, (R,), by one logarithm."""
    cross = _cross((fbar / other).log(), xbar, z, alpha)
    return _weight(alpha, dalpha, fbar) * (1 / _at(fbar, z) - 1 / _at(other, z) + cross)


def relaxed_difference(student_RV, teacher_RV, fake_RV, z_R, alpha_R, dalpha_R):
    """``uniform_difference`` of teacher and fake, of logits, differentiable in all three."""
    xbar, teacher, fake = (
        mix(x.softmax(-1), alpha_R[:, None]) for x in (student_RV, teacher_RV, fake_RV)
    )
    return uniform_difference(teacher, fake, xbar, z_R, alpha_R, dalpha_R)


def _weight(alpha, dalpha, fbar):
    return -dalpha / (fbar.shape[-1] * alpha**2)


def _cross(log_fbar, xbar, z, alpha):
    """alpha sum_j r_j log(fbar_z / fbar_j); alpha sum_j xbar_j = 1."""
    return (_at(log_fbar, z) - alpha * torch.linalg.vecdot(xbar, log_fbar)) / _at(xbar, z)


def _at(values_RV, z_R):
    return values_RV.gather(-1, z_R[:, None])[:, 0]


# gradients ---------------------------------------------------------------------------------------


def absorbing_soft(student_RV, logits_RV, weight_R, mask):
    """(5) with MDLM's network: w <p, log q>. For the network, w (p - q)."""
    p, log_q = _probs(student_RV, mask), _without(logits_RV, mask).log_softmax(-1)
    log_q[:, mask].fill_(0.0)
    loss_R = weight_R * torch.linalg.vecdot(p, log_q)
    torch.sub(p, log_q.exp_(), out=logits_RV)
    logits_RV[:, mask].fill_(0.0)
    return loss_R, weight_R


def absorbing_hard(logits_RV, weight_R, token_R, mask):
    """w log q_x. For the network, w (e_x - q)."""
    log_q = _without(logits_RV, mask).log_softmax(-1)
    loss_R = weight_R * _at(log_q, token_R)
    _add_at(torch.exp(log_q, out=logits_RV), token_R, -torch.ones_like(weight_R))
    return loss_R, -weight_R


def absorbing_difference(student_RV, teacher_RV, fake_RV, weight_R, mask):
    """w <p, d>, d the ratio of log-probabilities. For the student, w p (d - <p, d>)."""
    log_q, log_f = (_without(x, mask).log_softmax(-1) for x in (teacher_RV, fake_RV))
    return _expected(student_RV, log_q.sub_(log_f), weight_R, mask)


def score_soft(student_RV, logits_RV, weight_R, log_r_R, shift_R, mask):
    """(4) with SEDD's network: w [<p, log s> - sum_y s_y / r - log r + 1], log s = logits + shift.
    For the network, w (p - s / r)."""
    p = _probs(student_RV, mask)
    logits_RV[:, mask].fill_(0.0)
    cross_R = torch.linalg.vecdot(p, logits_RV) + shift_R
    share, total_R = _shares(logits_RV, log_r_R, shift_R, mask)
    torch.sub(p, share, out=logits_RV)
    return weight_R * (cross_R - total_R - log_r_R + 1), weight_R


def score_hard(logits_RV, weight_R, token_R, log_r_R, shift_R, mask):
    """w [log s_x - sum_y s_y / r - log r + 1]. For the network, w (e_x - s / r)."""
    log_s_R = _at(logits_RV, token_R) + shift_R
    share, total_R = _shares(logits_RV, log_r_R, shift_R, mask)
    _add_at(share, token_R, -torch.ones_like(weight_R))
    return weight_R * (log_s_R - total_R - log_r_R + 1), -weight_R


def score_difference(student_RV, teacher_RV, fake_RV, weight_R, mask):
    """w <p, d>, d the difference of the logits. For the student, w p (d - <p, d>)."""
    return _expected(student_RV, teacher_RV.sub_(fake_RV), weight_R, mask)


def uniform_soft(student_RV, logits_RV, z_R, alpha_R, dalpha_R):
    """``uniform_loss`` of q = softmax(logits). For the network, with rho = xbar / fbar,

    k q (g - <q, g>),  g = rho + e_z (rho_z - 1) / (alpha fbar_z),  k = dalpha / (V alpha xbar_z).
    """
    rest_R = _rest(alpha_R, logits_RV)
    xbar, q = student_RV.softmax(-1).add_(rest_R[:, None]), logits_RV.softmax(-1)
    fbar = torch.add(q, rest_R[:, None], out=logits_RV)
    xbar_z, fbar_z = _at(xbar, z_R), _at(fbar, z_R)
    log_fbar = fbar.log()
    cross_R = _at(log_fbar, z_R) - alpha_R * log_fbar.mul_(xbar).sum(-1)
    weight_R = _weight(alpha_R, dalpha_R, fbar)
    loss_R = weight_R * (1 / fbar_z + cross_R / xbar_z)
    rho = xbar.div_(fbar)
    _add_at(rho, z_R, (xbar_z / fbar_z - 1) / (alpha_R * fbar_z))
    _through_softmax(q, rho, out=logits_RV)
    return loss_R, -weight_R * alpha_R / xbar_z


def uniform_ratio(student_RV, teacher_RV, fake_RV, z_R, alpha_R, dalpha_R):
    """``uniform_difference`` of teacher and fake. For the student, with d_j the logarithm of
    tbar_j / fbar_j and c = d_z - alpha sum_j xbar_j d_j,

    k p (g - <p, g>),  g = d + e_z c / (alpha xbar_z),  k = dalpha / (V alpha xbar_z).
    """
    rest_R = _rest(alpha_R, student_RV)
    p = student_RV.softmax(-1)
    tbar, fbar = (x.softmax(-1).add_(rest_R[:, None]) for x in (teacher_RV, fake_RV))
    tbar_z, fbar_z = _at(tbar, z_R), _at(fbar, z_R)
    p_z = _at(p, z_R)
    d = tbar.div_(fbar).log_()
    d_z, sum_R = _at(d, z_R), d.sum(-1)
    pd = d.mul_(p)
    mean_R = pd.sum(-1)
    cross_R = d_z - alpha_R * (mean_R + rest_R * sum_R)
    at_z_R = p_z * cross_R / (alpha_R * (p_z + rest_R))
    _add_at(pd, z_R, at_z_R)
    torch.addcmul(pd, p, (mean_R + at_z_R)[:, None], value=-1, out=student_RV)
    weight_R = _weight(alpha_R, dalpha_R, p)
    xbar_z = p_z + rest_R
    loss_R = weight_R * (1 / tbar_z - 1 / fbar_z + cross_R / xbar_z)
    return loss_R, -weight_R * alpha_R / xbar_z


def _expected(student_RV, values_RV, weight_R, mask):
    """w <p, values>, with its gradient for the student's logits in their place."""
    values_RV[:, mask].fill_(0.0)
    p = _probs(student_RV, mask)
    return weight_R * _through_softmax(p, values_RV, out=student_RV), weight_R


def _through_softmax(p, g, out):
    """p (g - <p, g>) into ``out``; overwrites g; returns <p, g>."""
    pg = g.mul_(p)
    mean_R = pg.sum(-1)
    torch.addcmul(pg, p, mean_R[:, None], value=-1, out=out)
    return mean_R


def _probs(logits_RV, mask):
    return _without(logits_RV, mask).softmax(-1)


def _without(logits_RV, mask):
    """The logits with no mass on the mask, in place."""
    logits_RV[:, mask].fill_(-torch.inf)
    return logits_RV


def _shares(logits_RV, log_r_R, shift_R, mask):
    """s / r in the place of the logits, 0 at the mask, and its sum over the tokens."""
    share = logits_RV.add_((shift_R - log_r_R)[:, None]).exp_()
    share[:, mask].fill_(0.0)
    return share, share.sum(-1)


def _add_at(values_RV, z_R, amount_R):
    values_RV.scatter_add_(-1, z_R[:, None], amount_R[:, None])
