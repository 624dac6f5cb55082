"""What all algorithms share: the Lightning module, the two corruption processes, the samplers.

Module, class and method names, constructor arguments and checkpoint layout are those of Duo
(branch ch-1), so that an extension written against Duo runs here unchanged.
B batch, L length, V vocabulary; alpha_t and t are (B, 1) where they meet tokens.
"""

import itertools
from dataclasses import dataclass

import hydra
import lightning
import metrics
import models
import omegaconf
import torch
import utils

from duo_ext import Refused
from duo_ext.data import texts
from duo_ext.values import require
from duo_ext.weights import checkpoints


@dataclass
class Loss:
    loss: torch.Tensor
    nlls: torch.Tensor
    prior_loss: torch.Tensor
    num_tokens: torch.Tensor


class LogLinear(torch.nn.Module):
    """alpha_t = 1 - (1 - eps) t: returns (d alpha_t / dt, alpha_t)."""

    def __init__(self, eps=1e-3):
        super().__init__()
        self.eps = eps

    def forward(self, t):
        return -(1 - self.eps), 1 - (1 - self.eps) * t


def sample_categorical(probs):
    """One index for each row of unnormalised probabilities, in their precision.

    The exponential race: argmax of p_i / E_i with E_i ~ Exp(1). In float32 the uniform variate has
    24 bits and rare tokens lose probability; in float64 they do not.
    """
    waiting_time = -torch.rand_like(probs).clamp_min(1e-10).log()
    return (probs / waiting_time).argmax(dim=-1)


def keep_nucleus(probs, p):
    """Probabilities with all but the smallest set of total mass >= p set to zero, renormalised."""
    if p >= 1.0:
        return probs
    ordered, order = probs.sort(dim=-1, descending=True)
    mass_before = ordered.cumsum(dim=-1) - ordered
    kept = torch.zeros_like(probs).scatter(-1, order, ordered * (mass_before < p))
    return kept / kept.sum(dim=-1, keepdim=True)


class TrainerBase(lightning.LightningModule):
    """A denoiser with its optimizer, EMA, metrics and checkpoint."""

    def __init__(self, config, tokenizer, vocab_size=None):
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.vocab_size = len(tokenizer) if vocab_size is None else vocab_size
        self.ignore_bos = config.algo.ignore_bos
        if "loss_type" in config.algo:
            self.loss_type = config.algo.loss_type
        self.sampler = config.sampling.predictor
        self.antithetic_sampling = config.training.antithetic_sampling
        self.sampling_eps = config.training.sampling_eps
        self.parameterization = config.algo.parameterization
        self.time_conditioning = config.algo.time_conditioning
        self.T = config.algo.T
        self.num_tokens = config.model.length
        self.p_nucleus = config.sampling.p_nucleus
        self.lr = config.optim.lr
        self.neg_infinity = -1_000_000.0
        if config.algo.backbone != "dit":
            raise Refused(
                f"algo.backbone is '{config.algo.backbone}'; the standalone tree has 'dit' only"
            )
        self.backbone = models.dit.DIT(config, vocab_size=self.vocab_size)
        self.noise = LogLinear()
        self.metrics = metrics.Metrics(
            gen_ppl_eval_model_name_or_path=config.eval.gen_ppl_eval_model_name_or_path,
            eval_ppl_batch_size=config.eval.perplexity_batch_size,
        )
        self.ema = None
        if config.training.ema > 0:
            self.ema = models.ema.ExponentialMovingAverage(
                self._get_parameters(), decay=config.training.ema
            )

    def _validate_configuration(self):
        """Raise Refused that names the key if the configuration cannot work."""

    def to(self, *args, **kwargs):
        self = super().to(*args, **kwargs)
        self.metrics.to(*args, **kwargs)
        return self

    def _get_parameters(self):
        return itertools.chain(self.backbone.parameters(), self.noise.parameters())

    def _eval_mode(self):
        """The EMA weights, without dropout."""
        if self.ema:
            self.ema.store(self._get_parameters())
            self.ema.copy_to(self._get_parameters())
        self.backbone.eval()

    def _train_mode(self):
        if self.ema:
            self.ema.restore(self._get_parameters())
        self.backbone.train()

    # checkpoints -----------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint):
        if self.ema:
            checkpoint["ema"] = self.ema.state_dict()
        config = omegaconf.OmegaConf.to_container(self.config, resolve=False)
        checkpoint["hyper_parameters"] = {"config": config}

    def on_load_checkpoint(self, checkpoint):
        checkpoints.check(checkpoints.denoiser(checkpoint), self.backbone, "the checkpoint")
        if self.ema:
            if "ema" not in checkpoint:
                raise Refused(
                    "the checkpoint has no key 'ema'; say training.ema=0 to use its raw weights"
                )
            self.ema.load_state_dict(checkpoint["ema"])

    # training --------------------------------------------------------------------------------

    def on_train_start(self):
        if self.ema:
            self.ema.move_shadow_params_to_device(self.device)

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        if self.ema:
            self.ema.update(self._get_parameters())

    def configure_optimizers(self):
        optim = self.config.optim
        optimizer = torch.optim.AdamW(
            self._get_parameters(),
            lr=optim.lr,
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
        scheduler = hydra.utils.instantiate(self.config.lr_scheduler, optimizer=optimizer)
        return [optimizer], [{"scheduler": scheduler, "interval": "step", "name": "trainer/lr"}]

    def training_step(self, batch, batch_idx):
        """The loss of one micro-batch.

        All its randomness (times, noise, dropout) comes from the run's seed and the micro-batch's
        place in the run, so a resumed run repeats what a straight one does.
        """
        accumulate, world = self.trainer.accumulate_grad_batches, self.trainer.world_size
        accumulation_step = batch_idx % accumulate
        place = (self.trainer.global_step * accumulate + accumulation_step) * world
        torch.manual_seed(self.config.seed * 1_000_003 + place + self.trainer.global_rank)
        losses = self._loss(
            batch["input_ids"], batch["attention_mask"], accumulation_step, train_mode=True
        )
        utils.stop_if_not_finite(losses.loss, "loss", self.trainer.global_step)
        self.log("trainer/loss", losses.loss.detach(), prog_bar=True, sync_dist=True)
        return losses.loss

    def on_before_optimizer_step(self, optimizer):
        norm = utils.gradient_norm(self.backbone.parameters())
        utils.stop_if_not_finite(norm, "gradient", self.trainer.global_step)
        self.log("trainer/grad_norm", norm)

    def on_train_epoch_start(self):
        self.backbone.train()

    def on_validation_epoch_start(self):
        self.metrics.reset()
        self._eval_mode()

    def validation_step(self, batch, batch_idx):
        losses = self._loss(batch["input_ids"], batch["attention_mask"])
        self.metrics.update_valid(losses.nlls, losses.prior_loss, losses.num_tokens)
        return losses.loss

    def on_validation_epoch_end(self):
        for name, metric in self.metrics.valid_nlls.items():
            self.log(name, metric.compute(), prog_bar=name.endswith("bpd"), sync_dist=True)
        self._train_mode()

    def _loss(self, x0, valid_tokens, current_accumulation_step=None, train_mode=False):
        """The mean negative log-likelihood bound per valid token, in nats."""
        input_tokens, output_tokens, valid_tokens = self._process_model_input(x0, valid_tokens)
        nlls_BL = self.nll(input_tokens, output_tokens, current_accumulation_step, train_mode)
        if self.ignore_bos:
            valid_tokens = valid_tokens.clone()
            valid_tokens[:, 0] = 0
        total, count = (nlls_BL * valid_tokens).sum(), valid_tokens.sum()
        return Loss(loss=total / count, nlls=total, prior_loss=0.0, num_tokens=count)

    # the model -------------------------------------------------------------------------------

    def forward(self, xt, sigma):
        """What the algorithm makes of the denoiser's logits; xt (B, L), sigma (B, 1)."""
        sigma = self._process_sigma(sigma)
        return self._process_model_output(self.backbone(xt, sigma), xt, sigma)

    def restore_model_and_sample(self, num_steps, eps=1e-5):
        """``loader.eval_batch_size`` samples of the EMA model, (B, L)."""
        self._eval_mode()
        samples = self.generate_samples(
            num_samples=self.config.loader.eval_batch_size, num_steps=num_steps, eps=eps
        )
        self._train_mode()
        return samples


class Diffusion(TrainerBase):
    """A denoiser trained at random times and sampled from t = 1 to 0."""

    PREDICTORS = ("ancestral", "ancestral_cache")
    NOISE_REMOVALS = ("ancestral", "greedy", "none")
    LOSS_TYPES = ("elbo",)

    def _validate_configuration(self):
        super()._validate_configuration()
        require("algo.loss_type", self.loss_type, self.LOSS_TYPES)
        require("sampling.predictor", self.sampler, self.PREDICTORS)
        require("sampling.noise_removal", self.config.sampling.noise_removal, self.NOISE_REMOVALS)
        if self.sampler == "ancestral_cache" and self.time_conditioning:
            raise Refused(
                "sampling.predictor is 'ancestral_cache', which skips evaluations of a network "
                "that does not see the time; this one does: use 'ancestral'"
            )

    def _process_model_input(self, x0, valid_tokens):
        return x0, None, valid_tokens

    def _process_sigma(self, sigma):
        """(B, 1) -> (B,), zero for a network that does not see the time."""
        sigma_B = sigma.mean(-1)
        return sigma_B if self.time_conditioning else torch.zeros_like(sigma_B)

    def _sample_t(self, n, accum_step):
        """n times in (eps, 1], (n,); stratified over the whole global batch when training."""
        parts, part = 1, 0
        if accum_step is not None:
            accumulate = self.trainer.accumulate_grad_batches
            parts = accumulate * self.trainer.world_size
            part = accum_step * self.trainer.world_size + self.trainer.global_rank
        u = torch.rand(n, device=self.device)
        if self.antithetic_sampling:
            index = part * n + torch.arange(n, device=self.device)
            u = (u + index) / (n * parts)
        return (1 - self.sampling_eps) * u + self.sampling_eps

    def _sigma_from_alphat(self, alpha_t):
        return -alpha_t.log()

    def _sigma(self, t):
        return self._sigma_from_alphat(self.noise(t)[1])

    def nll(self, x0, output_tokens, current_accumulation_step=None, train_mode=False):
        """The bound at one random time for each sequence, (B, L) nats per token."""
        t = self._sample_t(len(x0), current_accumulation_step)
        dalpha_t, alpha_t = self.noise(t[:, None])
        xt = self.q_xt(x0, alpha_t)
        log_x_theta = self.forward(xt, sigma=self._sigma_from_alphat(alpha_t))
        return self.nll_per_token(
            log_x_theta=log_x_theta,
            xt=xt,
            x0=x0,
            alpha_t=alpha_t,
            dalpha_t=dalpha_t,
            low_var=train_mode and self.loss_type == "low_var",
        )

    def _sampling_dtype(self, probs):
        return probs.double() if self.config.sampling.use_float64 else probs

    def _x0_probs(self, x, alpha_t):
        """The denoiser's distribution of the clean tokens, (B, L, V)."""
        log_x_theta = self._sampling_dtype(self.forward(x, self._sigma_from_alphat(alpha_t)))
        return keep_nucleus(log_x_theta.exp(), self.p_nucleus)

    def _alphas(self, t, dt, noise_removal_step):
        """(alpha_s, alpha_t) for the step from t to s = t - dt, or from t to clean data."""
        _, alpha_t = self.noise(t)
        alpha_s = torch.ones_like(alpha_t) if noise_removal_step else self.noise(t - dt)[1]
        return alpha_s, alpha_t

    @torch.no_grad()
    def generate_samples(self, num_samples, num_steps=None, eps=1e-5):
        """Tokens (num_samples, L) by ``num_steps`` steps and the noise removal."""
        if num_steps is None:
            num_steps = self.config.sampling.steps
        if num_steps < 1:
            raise Refused(f"sampling.steps is {num_steps}; at least 1 is needed")
        x = self.prior_sample(num_samples, self.num_tokens)
        times = torch.linspace(1, eps, num_steps + 1, device=self.device)
        dt = (1 - eps) / num_steps
        ones = torch.ones(num_samples, 1, device=self.device)
        cache = None
        for i in range(num_steps):
            x, cache = self._predict(x, times[i] * ones, dt, cache)
        return self._remove_noise(x, times[-1] * ones, cache)

    def _predict(self, x, t, dt, p_x0):
        """One step of ``sampling.predictor``; a second value that the next step may reuse."""
        if self.sampler == "analytic":
            return self._analytic_update(x, t, dt), None
        p_x0, x_next = self._ancestral_update(x, t, dt, p_x0)
        unchanged = self.sampler == "ancestral_cache" and torch.equal(x_next, x)
        return x_next, p_x0 if unchanged else None

    def _remove_noise(self, x, t, p_x0):
        removal = self.config.sampling.noise_removal
        if removal == "none":
            return x
        if removal == "greedy":
            return self.forward(x, self._sigma(t)).argmax(dim=-1)
        if self.sampler == "analytic":
            return self._denoiser_update(x, t)
        return self._ancestral_update(x, t, None, p_x0, noise_removal_step=True)[1]


class AbsorbingState(Diffusion):
    """Tokens turn into the mask: q(x_t | x) = alpha_t x + (1 - alpha_t) e_mask."""

    PREDICTORS = ("ancestral", "ancestral_cache", "analytic")

    def __init__(self, config, tokenizer):
        vocab_size = tokenizer.vocab_size  # without added tokens
        key, padding = "data.tokenizer_name_or_path", [tokenizer.pad_token]
        texts.require_ids(tokenizer, vocab_size, key, besides=padding)
        if tokenizer.mask_token is None:
            self.mask_index = vocab_size
            vocab_size += 1
        else:
            self.mask_index = tokenizer.mask_token_id
        super().__init__(config, tokenizer, vocab_size=vocab_size)

    def q_xt(self, x, alpha_t):
        masked = torch.rand(x.shape, device=x.device) < 1 - alpha_t
        if self.ignore_bos:
            masked[:, 0] = False
        return torch.where(masked, self.mask_index, x)

    def prior_sample(self, *batch_dims):
        return torch.full(batch_dims, self.mask_index, dtype=torch.int64, device=self.device)

    def _ancestral_update(self, x, t, dt, p_x0=None, noise_removal_step=False):
        """q(x_s | x_t, x0): a mask turns into a token with probability (a_s - a_t) / (1 - a_t)."""
        alpha_s, alpha_t = self._alphas(t, dt, noise_removal_step)
        if p_x0 is None:
            p_x0 = self._x0_probs(x, alpha_t)
        probs = p_x0 * (alpha_s - alpha_t)[..., None]
        probs[..., self.mask_index] = (1 - alpha_s).to(probs.dtype)
        return p_x0, torch.where(x == self.mask_index, sample_categorical(probs), x)

    def _analytic_update(self, x, t, dt):
        """Tweedie tau-leaping of SEDD (arXiv 2310.16834, theorem 4.2), from t to t - dt."""
        sigma_t, sigma_s = self._sigma(t), self._sigma(t - dt)
        return sample_categorical(self._tweedie(x, sigma_t, sigma_t - sigma_s))

    def _denoiser_update(self, x, t):
        """The same from t to clean data, where no mask may remain."""
        probs = self._tweedie(x, self._sigma(t), self._sigma(t))
        probs[..., self.mask_index] = 0
        return sample_categorical(probs)

    def _tweedie(self, x, sigma, dsigma):
        """(exp(-dsigma Q) score)_y exp(dsigma Q)(x_t, y), clipped at zero, (B, L, V)."""
        score = self._sampling_dtype(self._get_score(x, sigma))
        growth = dsigma.to(score.dtype).exp()[..., None]
        total = score.sum(-1)
        staggered = score * growth
        staggered[..., self.mask_index] += (1 - growth[..., 0]) * total
        visible = torch.nn.functional.one_hot(x, self.vocab_size).to(score.dtype)
        is_mask = (x == self.mask_index)[..., None]
        return staggered.clamp_min(0) * (visible / growth + is_mask * (1 - 1 / growth))


class UniformState(Diffusion):
    """Tokens turn into uniform noise: q(x_t | x) = alpha_t x + (1 - alpha_t) / V."""

    def _validate_configuration(self):
        super()._validate_configuration()
        if not self.time_conditioning:
            raise Refused("algo.time_conditioning is false; the uniform process needs true")
        if self.parameterization != "mean":
            raise Refused(
                f"algo.parameterization is '{self.parameterization}'; "
                "the uniform process needs 'mean'"
            )

    def q_xt(self, x, alpha_t):
        replaced = torch.rand(x.shape, device=x.device) < 1 - alpha_t
        if self.ignore_bos:
            replaced[:, 0] = False
        return torch.where(replaced, torch.randint_like(x, self.vocab_size), x)

    def prior_sample(self, *batch_dims):
        return torch.randint(0, self.vocab_size, batch_dims, dtype=torch.int64, device=self.device)
