"""The diffusion processes: how tokens are corrupted and what the two IDLM losses are.

One object holds all in which the teachers differ. Its two losses are those of one pair:

    fake_loss     l_s(f_phi(x_s, s); xhat) for the fake's parameters            (9)
    student_loss  l_s(f*(x_s, s); xhat) - l_s(f_phi(x_s, s); xhat) for theta    (10)

with z_t ~ p_t(. | x0), xhat = G_theta(z_t, t) on the simplex, x_s ~ p_s(. | xhat), and l the loss
that the teacher was trained with, its clean token relaxed to the simplex. Both are means over the
tokens that are not given, in nats (0 if all are). Terms of (10) without theta are left out.

Shapes: B batch, L length, V vocabulary, R selected positions. Networks are ``networks.Denoiser``.
``given_BL`` marks positions that keep their token everywhere and carry no loss.
"""

import math
from dataclasses import dataclass

import torch

from duo_ext.core.schedules import GaussianSchedule, LogLinear

LOG_LINEAR = LogLinear()


def sample_times(n, eps, device):
    """n times in (eps, 1], one in each of n equal strata, in random order; float64 (n,)."""
    u = torch.rand(n, dtype=torch.float64, device=device)
    strata = torch.randperm(n, device=device)
    return eps + (1 - eps) * (strata + u) / n


def sample_tokens(probs):
    """One token for each row of probabilities (..., V), without gradient: argmax p_i / E_i."""
    probs = probs.detach()
    return (probs / torch.empty_like(probs).exponential_()).argmax(-1)


def one_hot_like(tokens, reference):
    """(...) -> (..., V) with the vocabulary and the dtype of a reference (..., V)."""
    return torch.nn.functional.one_hot(tokens, reference.shape[-1]).to(reference.dtype)


def absorbing_loss(log_f, xhat, dalpha_over_alpha):
    """(5) at masked positions: dalpha_t / (1 - alpha_t) <xhat, log f>, (R,).

    log_f, xhat (R, V) with no mass on the mask; the mask's entry of log_f must be finite.
    """
    return dalpha_over_alpha * torch.linalg.vecdot(xhat, log_f)


def log_mix(log_f, alpha):
    """log fbar = log(V alpha f + 1 - alpha), (R, V); alpha (R, 1). Finite at alpha = 1 too."""
    V = log_f.shape[-1]
    fbar = V * alpha * log_f.exp() + 1 - alpha
    return torch.log(fbar.clamp_min(torch.finfo(fbar.dtype).tiny))


def uniform_loss(log_fbar, xbar, z, alpha, dalpha):
    """(6) without its terms free of f, (R,).

    -dalpha / (V alpha) [V / fbar_z + sum_j r_j log(fbar_z / fbar_j)], where r_j = xbar_j / xbar_z
    carries the gradient to xhat, and sum_j r_j = V / xbar_z.
    log_fbar, xbar = V alpha xhat + 1 - alpha (R, V); z, alpha, dalpha (R,).
    """
    V = xbar.shape[-1]
    log_fbar_z = log_fbar.gather(-1, z[:, None])[:, 0]
    xbar_z = xbar.gather(-1, z[:, None])[:, 0]
    cross = (V * log_fbar_z - torch.linalg.vecdot(xbar, log_fbar)) / xbar_z
    return -dalpha / (V * alpha) * (V * torch.exp(-log_fbar_z) + cross)


@dataclass
class AbsorbingProcess:
    """p_t(. | x) = alpha_t x + (1 - alpha_t) e_mask, with MDLM's network (SUBS).

    The network puts no mass on the mask and copies visible tokens, so the loss lives at the
    positions masked in x_s, and the student's gradient at those masked in z_t as well. That x_s is
    masked does not depend on xhat, so it is drawn first and each head runs where it is needed.

    A share ``on_policy`` of the z_t are not noised data but states of the student's own sampling,
    on which a few-step sampler is used; the paper has 0. It slows the drift of the marginals.
    """

    vocab_size: int
    mask_index: int
    schedule: LogLinear = LOG_LINEAR
    eps: float = 1e-3
    on_policy: float = 0.0
    rollout_steps: int = 4

    def corrupt(self, x0_BL, alpha_B, given_BL):
        """Tokens z_t ~ p_t(. | x0), (B, L)."""
        return torch.where(self._hidden(alpha_B, given_BL), self.mask_index, x0_BL)

    def _hidden(self, alpha_B, given_BL):
        u_BL = torch.rand(given_BL.shape, dtype=torch.float64, device=given_BL.device)
        return (u_BL < 1 - alpha_B[:, None]) & ~given_BL

    def log_probs(self, logits):
        """log softmax over the tokens other than the mask; 0 at the mask, whose mass is 0."""
        outside = self._outside(logits)
        return logits.masked_fill(outside, -torch.inf).log_softmax(-1).masked_fill(outside, 0.0)

    def probs(self, logits):
        """softmax over the tokens other than the mask."""
        return logits.masked_fill(self._outside(logits), -torch.inf).softmax(-1)

    def _outside(self, logits):
        return torch.arange(self.vocab_size, device=logits.device) == self.mask_index

    def log_f(self, logits, alpha_R):
        """What (5) multiplies xhat by, (R, V): the network's log-probabilities."""
        return self.log_probs(logits)

    def mass(self, log_f, alpha_R, weight_R):
        """The terms of the loss without xhat, (R,) or 0."""
        return 0.0

    def _draw(self, student, x0_BL, given_BL):
        """z_t and alpha_t; where x_s is masked, alpha_s and dalpha_s / (1 - alpha_s)."""
        B, device = len(x0_BL), x0_BL.device
        alpha_t, _ = self.schedule(sample_times(B, self.eps, device))
        alpha_s, dalpha_s = self.schedule(sample_times(B, self.eps, device))
        z_BL = self.corrupt(x0_BL, alpha_t, given_BL)
        hidden_BL = self._hidden(alpha_s, given_BL)
        if self.on_policy > 0:
            chosen_B = torch.rand(B, device=device) < self.on_policy
            states = self.rollout(student, x0_BL[chosen_B], given_BL[chosen_B])
            z_BL[chosen_B], alpha_t[chosen_B] = states
        weight_B = dalpha_s / (1 - alpha_s)
        return z_BL, alpha_t, hidden_BL, alpha_s, weight_B[:, None].expand_as(hidden_BL)

    @torch.no_grad()
    def rollout(self, student, x0_BL, given_BL):
        """States (B, L) of the student's own sampling in ``rollout_steps`` steps, and alpha_t (B,).

        Each sequence stops before a step drawn at random, so its t is 1, ..., 1 / rollout_steps.
        """
        K, B, device = self.rollout_steps, len(x0_BL), x0_BL.device
        alphas, _ = self.schedule(1 - torch.arange(K, device=device) / K)
        stop_B = torch.randint(K, (B,), device=device)
        z_BL = torch.where(given_BL, x0_BL, self.mask_index)
        for step in range(K - 1):
            going_B = stop_B > step
            z = z_BL[going_B]
            features = student.features(z, alphas[step].expand(len(z)))
            unmasked = torch.rand(z.shape, device=device) < (
                (alphas[step + 1] - alphas[step]) / (1 - alphas[step])
            )
            unmasked &= z == self.mask_index
            z[unmasked] = sample_tokens(self.probs(student.head(features[unmasked])))
            z_BL[going_B] = z
        torch.clear_autocast_cache()  # older autocasts keep weights that were cast without gradient
        return z_BL, alphas[stop_B]

    def _renoise(self, z_BL, hidden_BL, student, features_BLD):
        """x_s: the student's sampled tokens with the mask at the hidden positions."""
        x_BL = torch.where(hidden_BL, self.mask_index, z_BL)
        sampled_BL = (z_BL == self.mask_index) & ~hidden_BL
        with torch.no_grad():
            probs = self.probs(student.head(features_BLD[sampled_BL].detach()))
        x_BL[sampled_BL] = sample_tokens(probs)
        return x_BL

    def fake_loss(self, student, fake, x0_BL, given_BL):
        z_BL, alpha_t, hidden_BL, alpha_s, weight_BL = self._draw(student, x0_BL, given_BL)
        free_BL = (z_BL == self.mask_index) & hidden_BL
        copied_BL = hidden_BL & ~free_BL
        with torch.no_grad():
            features = student.features(z_BL, alpha_t)
            x_BL = self._renoise(z_BL, hidden_BL, student, features)
            xhat = self.probs(student.head(features[free_BL]))
        features = fake.features(x_BL, alpha_s)
        log_free, alpha, weight = self._rows(fake, features, free_BL, alpha_s, weight_BL)
        soft = absorbing_loss(log_free, xhat, weight) + self.mass(log_free, alpha, weight)
        log_copied, alpha, weight = self._rows(fake, features, copied_BL, alpha_s, weight_BL)
        log_token = log_copied.gather(-1, z_BL[copied_BL][:, None])[:, 0]
        hard = weight * log_token + self.mass(log_copied, alpha, weight)
        return (soft.sum() + hard.sum()) / (~given_BL).sum().clamp(min=1)

    def _rows(self, network, features_BLD, chosen_BL, alpha_B, weight_BL):
        """log_f (R, V), alpha and weight (R,) at the chosen positions."""
        logits = network.head(features_BLD[chosen_BL])
        alpha = alpha_B[:, None].expand_as(chosen_BL)[chosen_BL].to(logits.dtype)
        return self.log_f(logits, alpha), alpha, weight_BL[chosen_BL].to(logits.dtype)

    def student_loss(self, student, fake, teacher, x0_BL, given_BL):
        z_BL, alpha_t, hidden_BL, alpha_s, weight_BL = self._draw(student, x0_BL, given_BL)
        free_BL = (z_BL == self.mask_index) & hidden_BL
        features = student.features(z_BL, alpha_t)
        # first with gradient: older autocasts keep the cast weights of the first use
        xhat = self.probs(student.head(features[free_BL]))
        x_BL = self._renoise(z_BL, hidden_BL, student, features)
        with torch.no_grad():
            (log_teacher, _, weight), (log_fake, _, _) = (
                self._rows(network, network.features(x_BL, alpha_s), free_BL, alpha_s, weight_BL)
                for network in (teacher, fake)
            )
        total = absorbing_loss(log_teacher - log_fake, xhat, weight).sum()
        return total / (~given_BL).sum().clamp(min=1)


@dataclass
class ScoreProcess(AbsorbingProcess):
    """The absorbing process with SEDD's network: log s_y, estimates of log p_t(y) / p_t(x_t).

    At a masked position s_y = r f_y for the ideal network, r = alpha / (1 - alpha), so the
    student's output is the softmax of its log-scores over the tokens, and the loss (4) is

        dalpha / (1 - alpha) [<xhat, log s> - sum_y s_y / r - log r + 1].

    ``scaled``: log s is the last layer's output + log r - log n, n the number of tokens
    (model.scale_by_sigma); otherwise that output itself.
    """

    scaled: bool = True

    def log_f(self, logits, alpha_R):
        """log s; 0 at the mask."""
        if self.scaled:
            log_r_R = torch.log(alpha_R) - torch.log1p(-alpha_R)
            logits = logits + (log_r_R - math.log(self.vocab_size - 1))[:, None]
        return logits.masked_fill(self._outside(logits), 0.0)

    def mass(self, log_f, alpha_R, weight_R):
        """-dalpha / (1 - alpha) [sum_y s_y / r + log r - 1]."""
        r_R = alpha_R / (1 - alpha_R)
        total_R = log_f.masked_fill(self._outside(log_f), -torch.inf).exp().sum(-1)
        return -weight_R * (total_R / r_R + r_R.log() - 1)


@dataclass
class UniformProcess:
    """p_t(. | x) = alpha_t x + (1 - alpha_t) / V, with the network of UDLM and Duo.

    Categorical noising: x_s ~ Cat(alpha_s xhat + (1 - alpha_s) / V) is a token and is not
    differentiated; the gradient flows through r_j alone, so teacher and fake need no graph.
    """

    vocab_size: int
    schedule: LogLinear | GaussianSchedule = LOG_LINEAR
    eps: float = 1e-3

    differentiates_input = False

    def latent(self, x0_BL, t_B, given_BL):
        """The student's input z_t."""
        return self._replace(x0_BL, t_B, given_BL)

    def renoise(self, xhat_BLV, s_B, given_BL):
        """The networks' input x_s and its tokens z, (B, L)."""
        x_BL = self._replace(sample_tokens(xhat_BLV), s_B, given_BL)
        return x_BL, x_BL

    def _replace(self, x_BL, t_B, given_BL):
        alpha_B, _ = self.schedule(t_B)
        u_BL = torch.rand(x_BL.shape, dtype=torch.float64, device=x_BL.device)
        replaced_BL = (u_BL < 1 - alpha_B[:, None]) & ~given_BL
        return torch.where(replaced_BL, torch.randint_like(x_BL, self.vocab_size), x_BL)

    def student_output(self, student, x0_BL, given_BL):
        """xhat (B, L, V) at a random t: the network's softmax, or the token that is given."""
        t_B = sample_times(len(x0_BL), self.eps, x0_BL.device)
        z = self.latent(x0_BL, t_B, given_BL)
        xhat_BLV = student(z, self.schedule(t_B)[0]).softmax(-1)
        if not given_BL.any():
            return xhat_BLV
        return torch.where(given_BL[..., None], one_hot_like(x0_BL, xhat_BLV), xhat_BLV)

    def fake_loss(self, student, fake, x0_BL, given_BL):
        with torch.no_grad():
            xhat_BLV = self.student_output(student, x0_BL, given_BL)
            step = self._renoised(xhat_BLV, given_BL)
        return _mean(step.value(step.log_fbar(fake)))

    def student_loss(self, student, fake, teacher, x0_BL, given_BL):
        step = self._renoised(self.student_output(student, x0_BL, given_BL), given_BL)
        with torch.set_grad_enabled(self.differentiates_input and torch.is_grad_enabled()):
            log_teacher, log_fake = step.log_fbar(teacher), step.log_fbar(fake)
        return _mean(step.value(log_teacher) - step.value(log_fake))

    def _renoised(self, xhat_BLV, given_BL):
        s_B = sample_times(len(xhat_BLV), self.eps, xhat_BLV.device)
        x, z_BL = self.renoise(xhat_BLV, s_B, given_BL)
        alpha_B, dalpha_B = (value.to(xhat_BLV.dtype) for value in self.schedule(s_B))
        free_BL = ~given_BL
        alpha_R, dalpha_R = (
            _rows(v[:, None].expand_as(z_BL), free_BL) for v in (alpha_B, dalpha_B)
        )
        xbar_RV = _rows(xhat_BLV, free_BL) * (self.vocab_size * alpha_R[:, None])
        xbar_RV = xbar_RV + (1 - alpha_R[:, None])
        return _Renoised(x, alpha_B, _rows(z_BL, free_BL), xbar_RV, alpha_R, dalpha_R, free_BL)


@dataclass
class _Renoised:
    """One x_s and, at the positions that carry a loss, what (6) needs besides the network."""

    x: torch.Tensor
    alpha_B: torch.Tensor
    z_R: torch.Tensor
    xbar_RV: torch.Tensor
    alpha_R: torch.Tensor
    dalpha_R: torch.Tensor
    free_BL: torch.Tensor

    def log_fbar(self, network):
        log_f_RV = _rows(network(self.x, self.alpha_B), self.free_BL).log_softmax(-1)
        return log_mix(log_f_RV, self.alpha_R[:, None])

    def value(self, log_fbar_RV):
        return uniform_loss(log_fbar_RV, self.xbar_RV, self.z_R, self.alpha_R, self.dalpha_R)


def _mean(values_R):
    """Their mean; 0 where every token is given and none is left."""
    return values_R.sum() / max(1, len(values_R))


def _rows(x_BL, chosen_BL):
    """x at the chosen positions, (R, ...), without a copy where all are chosen."""
    return x_BL.flatten(0, 1) if chosen_BL.all() else x_BL[chosen_BL]


@dataclass
class GaussianUniformProcess(UniformProcess):
    """The uniform process noised as in Duo and in the paper: w_s = a_s xhat + s_s eps.

    The networks see softmax(w_s / tau), the loss z = argmax(w_s), which is not differentiated;
    w_s is, inside teacher and fake too. ``schedule`` is the GaussianSchedule of the argmax.
    """

    tau: float = 1e-3

    differentiates_input = True

    def latent(self, x0_BL, t_B, given_BL):
        x0_BLV = one_hot_like(x0_BL, torch.empty(0, self.vocab_size, device=x0_BL.device))
        return self._noised(x0_BLV, t_B, given_BL) / self.tau

    def renoise(self, xhat_BLV, s_B, given_BL):
        w_BLV = self._noised(xhat_BLV, s_B, given_BL)
        return w_BLV / self.tau, w_BLV.detach().argmax(-1)

    def _noised(self, x_BLV, t_B, given_BL):
        a_B, s_B = (scale.to(x_BLV.dtype) for scale in self.schedule.scales(t_B))
        w_BLV = a_B[:, None, None] * x_BLV + s_B[:, None, None] * torch.randn_like(x_BLV)
        return torch.where(given_BL[..., None], x_BLV, w_BLV) if given_BL.any() else w_BLV
