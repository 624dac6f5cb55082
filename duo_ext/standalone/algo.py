"""The algorithms: AR, MDLM, SEDDAbsorb, DUO_BASE (UDLM), DUO, Distillation (DCD) and SDTT.

Each class says what the denoiser's logits mean, what the training loss is, and how a sampling step
looks; the rest is in trainer_base. Names and constructor arguments are Duo's (branch ch-1), but for
SDTT, which Duo does not have.
"""

import copy

import torch
import trainer_base

from duo_ext import Refused
from duo_ext.core import schedules
from duo_ext.values import require_positive


class AR(trainer_base.TrainerBase):
    """A causal language model, the baseline of the field."""

    def __init__(self, config, tokenizer):
        super().__init__(config, tokenizer)
        self._validate_configuration()

    def _validate_configuration(self):
        super()._validate_configuration()
        if not self.config.algo.causal_attention:
            raise Refused("algo.causal_attention is false; algo=ar needs true")

    def _process_model_input(self, x0, valid_tokens):
        return x0[:, :-1], x0[:, 1:], valid_tokens[:, 1:]

    def _process_sigma(self, sigma):
        return None

    def _process_model_output(self, model_output, xt, sigma):
        return model_output.log_softmax(-1)

    def forward(self, xt, sigma=None):
        return self._process_model_output(self.backbone(xt, None), xt, None)

    def nll(self, input_tokens, output_tokens, current_accumulation_step=None, train_mode=False):
        log_probs = self.forward(input_tokens)
        return -log_probs.gather(-1, output_tokens[..., None])[..., 0]

    @torch.no_grad()
    def generate_samples(self, num_samples, num_steps=None, eps=None):
        """Tokens (num_samples, L), one at a time after a leading BOS."""
        x = torch.full(
            (num_samples, 1), self.tokenizer.bos_token_id, dtype=torch.int64, device=self.device
        )
        for _ in range(self.num_tokens - 1):
            log_probs = self.forward(x)[:, -1]
            if self.config.sampling.use_float64:
                log_probs = log_probs.double()
            probs = trainer_base.keep_nucleus(log_probs.exp(), self.p_nucleus)
            x = torch.cat([x, trainer_base.sample_categorical(probs)[:, None]], dim=1)
        return x


class MDLM(trainer_base.AbsorbingState):
    """Masked diffusion (arXiv 2406.07524) with the SUBS parameterisation."""

    LOSS_TYPES = ("elbo", "low_var")

    def __init__(self, config, tokenizer):
        super().__init__(config, tokenizer)
        self._validate_configuration()

    def _process_model_output(self, model_output, xt, sigma):
        """log p(x0 | x_t): no mass on the mask; visible tokens are copied."""
        outside = torch.arange(self.vocab_size, device=xt.device) == self.mask_index
        log_probs = model_output.masked_fill(outside, -torch.inf).log_softmax(-1)
        log_probs = log_probs.masked_fill(outside, self.neg_infinity)
        copied = torch.full_like(log_probs, self.neg_infinity).scatter(-1, xt[..., None], 0.0)
        return torch.where((xt == self.mask_index)[..., None], log_probs, copied)

    def nll_per_token(self, log_x_theta, xt, x0, alpha_t, dalpha_t, low_var=False):
        """(5): -log p at the clean token, weighted by -dalpha_t / (1 - alpha_t), (B, L).

        ``low_var`` drops the weight: another mean, far less variance.
        """
        log_prob = log_x_theta.gather(-1, x0[..., None])[..., 0]
        return -log_prob if low_var else dalpha_t / (1 - alpha_t) * log_prob

    def _get_score(self, x, sigma):
        """p_t(y) / p_t(x_t) that the denoiser implies where x_t is the mask, (B, L, V)."""
        probs = self._sampling_dtype(self.forward(x, sigma)).exp()
        odds = 1 / torch.expm1(sigma.to(probs.dtype))[..., None]
        return _mask_score_one(probs * odds, x, self.mask_index)


def _mask_score_one(score, x, mask_index):
    """A masked position has score 1 at the mask; a visible one keeps its token with score 1."""
    is_mask = (x == mask_index)[..., None]
    own = torch.nn.functional.one_hot(x, score.shape[-1]).to(score.dtype)
    outside = torch.arange(score.shape[-1], device=x.device) == mask_index
    return torch.where(is_mask, score.masked_fill(outside, 1.0), own)


class SEDDAbsorb(trainer_base.AbsorbingState):
    """Score entropy (arXiv 2310.16834) with the absorbing graph."""

    PREDICTORS = ("analytic",)

    def __init__(self, config, tokenizer):
        super().__init__(config, tokenizer)
        self._validate_configuration()

    def _validate_configuration(self):
        super()._validate_configuration()
        if not self.time_conditioning:
            raise Refused("algo.time_conditioning is false; algo=sedd needs true")

    def _process_model_output(self, model_output, xt, sigma):
        """Log score: logits - log(exp(sigma) - 1) - log(V - 1), and 0 at x_t itself."""
        scale = torch.expm1(sigma).log() + torch.tensor(self.vocab_size - 1.0).log()
        log_score = model_output - scale[:, None, None].to(model_output)
        return log_score.scatter(-1, xt[..., None], 0.0)

    def _get_score(self, x, sigma):
        return _mask_score_one(self.forward(x, sigma).exp(), x, self.mask_index)

    def nll_per_token(self, log_x_theta, xt, x0, alpha_t, dalpha_t, low_var=False):
        """(4): the score entropy at masked positions, weighted by d sigma / dt, (B, L)."""
        log_score = log_x_theta.clone()
        log_score[..., self.mask_index] = self.neg_infinity
        ratio = alpha_t / (1 - alpha_t)
        own = log_score.gather(-1, x0[..., None])[..., 0]
        entropy = log_score.exp().sum(-1) - ratio * own + ratio * (ratio.log() - 1)
        return (-dalpha_t / alpha_t) * entropy * (xt == self.mask_index)


class DUO_BASE(trainer_base.UniformState):
    """Uniform-state diffusion, UDLM (arXiv 2412.10193)."""

    def __init__(self, config, tokenizer):
        super().__init__(config, tokenizer)
        self._validate_configuration()

    def _process_model_output(self, model_output, xt, sigma):
        return model_output.log_softmax(-1)

    def nll_per_token(self, log_x_theta, xt, x0, alpha_t, dalpha_t, low_var=False):
        """(6) at one-hot x0, z = x_t, (B, L).

        With xbar = V alpha x + 1 - alpha, whose entries are 1 - alpha but for one, and fbar
        likewise from the denoiser: (dalpha / (V alpha)) [V/xbar_z - V/fbar_z
        - sum_j (xbar_j / xbar_z) log(fbar_z xbar_j / (fbar_j xbar_z))].
        """
        V, low = self.vocab_size, 1 - alpha_t
        high = V * alpha_t + low
        log_fbar = (V * alpha_t[..., None] * log_x_theta.exp() + low[..., None]).log()
        log_fbar_z = log_fbar.gather(-1, xt[..., None])[..., 0]
        log_fbar_x = log_fbar.gather(-1, x0[..., None])[..., 0]
        clean = xt == x0
        xbar_z = torch.where(clean, high, low)
        log_odds = (high / low).log()
        cross = low * (V * log_fbar_z - log_fbar.sum(-1)) + (high - low) * (log_fbar_z - log_fbar_x)
        own = torch.where(clean, -(V - 1) * low * log_odds, high * log_odds)
        bracket = V / xbar_z - V * torch.exp(-log_fbar_z) - (cross + own) / xbar_z
        return dalpha_t / (V * alpha_t) * bracket

    def _ancestral_update(self, x, t, dt, p_x0=None, noise_removal_step=False):
        """q(x_s | x_t, x0) is proportional to q(x_t | x_s) q(x_s | x0)."""
        alpha_s, alpha_t = self._alphas(t, dt, noise_removal_step)
        V, x_theta = self.vocab_size, self._x0_probs(x, alpha_t)
        alpha_s, alpha_t = alpha_s.to(x_theta.dtype), alpha_t.to(x_theta.dtype)
        alpha_ts = alpha_t / alpha_s
        stay = (alpha_ts + (1 - alpha_ts) / V) / ((1 - alpha_ts) / V)
        probs = alpha_s[..., None] * x_theta + ((1 - alpha_s) / V)[..., None]
        at_x = probs.gather(-1, x[..., None]) * stay[..., None]
        return None, trainer_base.sample_categorical(probs.scatter(-1, x[..., None], at_x))


class DUO(DUO_BASE):
    """Duo (arXiv 2506.10892): UDLM trained through a tempered Gaussian until ``curriculum_end``."""

    def __init__(self, config, tokenizer):
        super().__init__(config, tokenizer)
        self.gaussian = schedules.GaussianSchedule.configured(
            self.vocab_size, config.algo.gamma_min, config.algo.gamma_max
        )

    def _compute_gumbel_tau_inverse(self):
        """1 / tau: log10 tau goes linearly from its start to its end within the curriculum."""
        algo = self.config.algo
        span = max(1, algo.curriculum_end - algo.curriculum_start)
        progress = (self.trainer.global_step - algo.curriculum_start) / span
        progress = min(1.0, max(0.0, progress))
        start, end = algo.gumbel_tau_log10_start, algo.gumbel_tau_log10_end
        return 10 ** -(start + progress * (end - start))

    def _q_xt_gaussian(self, x, t):
        """w_t = a_t x + s_t eps for one-hot x (B, L, V), t (B,)."""
        a, s = (scale.to(x)[:, None, None] for scale in self.gaussian.scales(t))
        return a * x + s * torch.randn_like(x)

    def nll(self, x0, output_tokens, current_accumulation_step=None, train_mode=False):
        if not self.training or self.trainer.global_step >= self.config.algo.curriculum_end:
            return super().nll(x0, output_tokens, current_accumulation_step, train_mode)
        t = self._sample_t(len(x0), current_accumulation_step)
        alpha_t, dalpha_t = (value.float()[:, None] for value in self.gaussian(t))
        one_hot = torch.nn.functional.one_hot(x0, self.vocab_size).float()
        w = self._q_xt_gaussian(one_hot, t)
        soft = w * self._compute_gumbel_tau_inverse()
        return self.nll_per_token(
            log_x_theta=self.forward(soft, self._sigma_from_alphat(alpha_t)),
            xt=w.argmax(-1),
            x0=x0,
            alpha_t=alpha_t,
            dalpha_t=dalpha_t,
        )


class SelfDistilled:
    """Makes an algorithm's teacher a copy of its student, the average if ``teacher_ema``.

    The copy is taken anew every ``update_teacher_every`` steps, when the step size dt doubles, and
    is in no checkpoint. Among the bases of a class it stands before the algorithm.
    """

    LOSS_TYPES = ("kl-bwd", "kl-fwd")

    def __init__(self, config, tokenizer):
        super().__init__(config, tokenizer)
        self.teacher = None

    def _validate_configuration(self):
        super()._validate_configuration()
        require_positive(self.config, ("algo.T", "algo.update_teacher_every"))
        if self.config.algo.teacher_ema and not self.config.training.ema > 0:
            raise Refused(
                f"training.ema is {self.config.training.ema}; algo.teacher_ema is true and takes "
                "the average, so it must be above 0"
            )

    def on_save_checkpoint(self, checkpoint):
        weights = checkpoint["state_dict"]
        for key in [key for key in weights if key.startswith("teacher")]:
            del weights[key]
        super().on_save_checkpoint(checkpoint)

    def training_step(self, batch, batch_idx):
        due = self.trainer.global_step % self.config.algo.update_teacher_every == 0
        if self.teacher is None or (due and batch_idx % self.trainer.accumulate_grad_batches == 0):
            self._refresh_teacher()
        return super().training_step(batch, batch_idx)

    @torch.no_grad()
    def _refresh_teacher(self):
        if self.teacher is None:
            self.teacher = copy.deepcopy(self.backbone).eval().requires_grad_(False)
        source = self.ema.shadow_params if self.config.algo.teacher_ema else self._get_parameters()
        for own, new in zip(self.teacher.parameters(), source, strict=True):
            own.copy_(new)

    def _compute_dt(self):
        algo = self.config.algo
        if algo.linear_growth_dt:
            progress = self.trainer.global_step / self.trainer.max_steps
            return algo.linear_growth_min + progress * (
                algo.linear_growth_max - algo.linear_growth_min
            )
        doublings = self.trainer.global_step // algo.update_teacher_every
        return min(1.0, 2**doublings / self.T)

    @torch.no_grad()
    def _teacher_logits(self, xt, sigma):
        """``forward`` with the teacher for the denoiser."""
        sigma = self._process_sigma(sigma)
        return self._process_model_output(self.teacher(xt, sigma), xt, sigma)

    def _divergence(self, log_student, log_teacher):
        """KL(student || teacher) for kl-bwd, KL(teacher || student) for kl-fwd, (B, L)."""
        backward = self.loss_type == "kl-bwd"
        p, q = (log_student, log_teacher) if backward else (log_teacher, log_student)
        return (p.exp() * (p - q)).sum(-1)


class Distillation(SelfDistilled, DUO):
    """Discrete consistency distillation (DCD), Duo's algorithm 1.

    On one Gaussian path with shared noise the student at t matches the teacher at t - dt, both fed
    argmax tokens.
    """

    def _sample_trajectory(self, x0, t, s):
        """Tokens argmax(w_t) and argmax(w_s), one noise for both; t, s (B,)."""
        one_hot = torch.nn.functional.one_hot(x0, self.vocab_size).float()
        noise = torch.randn_like(one_hot)
        tokens = []
        for time in (t, s):
            a, scale = (value.to(one_hot)[:, None, None] for value in self.gaussian.scales(time))
            tokens.append((a * one_hot + scale * noise).argmax(-1))
        return tokens

    def nll(self, x0, output_tokens, current_accumulation_step=None, train_mode=False):
        if not self.training:
            return DUO_BASE.nll(self, x0, output_tokens, current_accumulation_step, train_mode)
        dt = self._compute_dt()
        t = dt + (1 - dt) * self._sample_t(len(x0), current_accumulation_step)
        s = t - dt
        xt, xs = self._sample_trajectory(x0, t, s)
        log_student = self.forward(xt, self._gaussian_sigma(t))
        return self._divergence(log_student, self._teacher_logits(xs, self._gaussian_sigma(s)))

    def _gaussian_sigma(self, t):
        alpha, _ = self.gaussian(t)
        return self._sigma_from_alphat(alpha.float()[:, None])


class SDTT(SelfDistilled, MDLM):
    """Self-distillation through time (arXiv 2410.21035) of a masked diffusion model.

    One step of the student, from t to t - 2 dt, matches two ancestral steps of the teacher.
    """

    @torch.no_grad()
    def _targets(self, zt, t, dt):
        """The teacher's log p(x0 | .) of the step that unmasks a position, (B, L, V).

        A position that the first step leaves masked has that of the second, whose own draw decides
        nothing. Visible tokens are copied. t is (B, 1).
        """
        first = self._teacher_logits(zt, self._sigma(t))
        _, zs = self._ancestral_update(zt, t, dt, self._sampling_dtype(first).exp())
        second = self._teacher_logits(zs, self._sigma(t - dt))
        return torch.where((zs == self.mask_index)[..., None], second, first)

    def nll(self, x0, output_tokens, current_accumulation_step=None, train_mode=False):
        if not self.training:
            return super().nll(x0, output_tokens, current_accumulation_step, train_mode)
        dt = min(0.5, self._compute_dt())
        u = self._sample_t(len(x0), current_accumulation_step)[:, None]
        t = 2 * dt + (1 - 2 * dt) * u  # both steps lie in [0, 1]
        zt = self.q_xt(x0, self.noise(t)[1])
        return self._divergence(self.forward(zt, self._sigma(t)), self._targets(zt, t, dt))
