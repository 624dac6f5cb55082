"""The training loss and one step of the optimizer."""

import torch
from model import utils as mutils

from duo_ext import Refused

OPTIMIZERS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}


def get_loss_fn(noise, graph, train, sampling_eps=1e-3):
    """A function (model, batch (B, L)) -> (B,): the diffusion-weighted denoising score entropy,

        sum_l (d sigma_t / dt) entropy(log s(x_t, sigma_t)_l, x_t_l, x_0_l),

    an unbiased estimate in t ~ U(sampling_eps, 1) of the bound on a sequence's -log p, in nats.
    """

    def loss_fn(model, batch, cond=None, t=None, perturbed_batch=None):
        """t (B,) and x_t = perturbed_batch (B, L) are drawn where they are not given."""
        assert cond is None, "this model has no conditions"
        if t is None:
            t = sampling_eps + (1 - sampling_eps) * torch.rand(len(batch), device=batch.device)
        sigma, dsigma = noise(t)
        if perturbed_batch is None:
            perturbed_batch = graph.sample_transition(batch, sigma[:, None])
        log_score = mutils.get_score_fn(model, train=train)(perturbed_batch, sigma)
        entropy = graph.score_entropy(log_score, sigma[:, None], perturbed_batch, batch)
        return dsigma * entropy.sum(-1)

    return loss_fn


def get_optimizer(config, params):
    """The optimizer that ``optim`` describes."""
    optim = config.optim
    if optim.optimizer not in OPTIMIZERS:
        raise Refused(
            f"optim.optimizer is '{optim.optimizer}'; it must be one of {', '.join(OPTIMIZERS)}"
        )
    return OPTIMIZERS[optim.optimizer](
        params,
        lr=optim.lr,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        weight_decay=optim.weight_decay,
    )


def optimization_manager(config):
    """A function that makes one update: a linear warm-up of the rate, then a limit on the norm of
    the gradient, each where the configuration asks for it (warmup > 0, grad_clip >= 0)."""
    optim = config.optim

    def optimize_fn(
        optimizer,
        scaler,
        params,
        step,
        lr=optim.lr,
        warmup=optim.warmup,
        grad_clip=optim.grad_clip,
    ):
        scaler.unscale_(optimizer)
        if warmup > 0:
            for group in optimizer.param_groups:
                group["lr"] = lr * min(step / warmup, 1.0)
        if grad_clip >= 0:
            torch.nn.utils.clip_grad_norm_(params, grad_clip)
        scaler.step(optimizer)
        scaler.update()

    return optimize_fn


def get_step_fn(noise, graph, train, optimize_fn, accum):
    """A function (state, batch) -> mean loss.

    state: {model, optimizer, scaler, ema, step}. In training every ``accum``-th call updates,
    counts it in state["step"] and returns the mean over its batches; the calls before it return
    their own share. In evaluation the average weights are lent to the model.
    """
    loss_fn = get_loss_fn(noise, graph, train)
    shares = []

    def train_step(state, batch, cond=None):
        model = state["model"]
        share = loss_fn(model, batch, cond=cond).mean() / accum
        state["scaler"].scale(share).backward()
        shares.append(share.detach())
        if len(shares) < accum:
            return shares[-1]
        loss = torch.stack(shares).sum()
        shares.clear()
        if not torch.isfinite(loss):
            raise Refused(
                f"the loss at step {state['step'] + 1} is {loss.item()}: training stops before "
                "the update, the last checkpoint is kept"
            )
        state["step"] += 1
        optimize_fn(state["optimizer"], state["scaler"], model.parameters(), step=state["step"])
        state["ema"].update(model.parameters())
        state["optimizer"].zero_grad()
        return loss

    @torch.no_grad()
    def eval_step(state, batch, cond=None):
        model, ema = state["model"], state["ema"]
        ema.store(model.parameters())
        ema.copy_to(model.parameters())
        try:
            return loss_fn(model, batch, cond=cond).mean()
        finally:
            ema.restore(model.parameters())

    return train_step if train else eval_step
