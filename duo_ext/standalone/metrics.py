"""Likelihood and sample metrics under Duo's names; the arithmetic is duo_ext.measuring.metrics'."""

import math

import torch
import torchmetrics

import duo_ext.measuring.judge
import duo_ext.measuring.metrics


class NLL(torchmetrics.MeanMetric):
    """Mean negative log-likelihood in nats per token."""


class BPD(NLL):
    """The same in bits per token."""

    def compute(self):
        return super().compute() / math.log(2)


class Perplexity(NLL):
    """exp of the mean."""

    def compute(self):
        return super().compute().exp()


def _likelihoods(prefix):
    collection = torchmetrics.MetricCollection(
        {"nll": NLL(), "bpd": BPD(), "ppl": Perplexity()}, prefix=prefix, compute_groups=False
    )
    return collection.set_dtype(torch.float64)


class Metrics:
    """Running likelihoods of validation; GenPPL and entropy of samples."""

    def __init__(self, gen_ppl_eval_model_name_or_path=None, eval_ppl_batch_size=None):
        self.valid_nlls = _likelihoods("val/")
        self.judge_name = gen_ppl_eval_model_name_or_path
        self.judge_batch_size = eval_ppl_batch_size
        self.judge = None
        self.gen_ppl = NLL()
        self.sample_entropy = torchmetrics.MeanMetric()

    def to(self, *args, **kwargs):
        for name in ("valid_nlls", "gen_ppl", "sample_entropy"):
            setattr(self, name, getattr(self, name).to(*args, **kwargs))

    def reset(self):
        for metric in (self.valid_nlls, self.gen_ppl, self.sample_entropy):
            metric.reset()

    def update_valid(self, nlls, prior_loss, num_tokens):
        """Take in the summed likelihood of ``num_tokens`` tokens, in nats."""
        for metric in self.valid_nlls.values():
            metric.update((nlls.detach() + prior_loss) / num_tokens, num_tokens)

    def record_entropy(self, tokens):
        """tokens (B, L); the mean over sequences of the entropy of their token counts, nats."""
        self.sample_entropy.update(duo_ext.measuring.metrics.sample_entropy(tokens), len(tokens))

    def load_judge(self, device="cpu"):
        """Load the judge, or raise Refused, before there are texts for it."""
        self.judge = duo_ext.measuring.judge.Judge(
            self.judge_name, device, self.judge_batch_size, "eval.gen_ppl_eval_model_name_or_path"
        )

    def record_generative_perplexity(self, text_samples, max_length, device="cpu"):
        """Score texts under the judge; ``gen_ppl`` then holds exp of the mean nats per token."""
        if self.judge is None:
            self.load_judge(device)
        nll_N, tokens_N = self.judge.nll(text_samples)
        self.gen_ppl.update(torch.as_tensor(nll_N.sum() / tokens_N.sum()), tokens_N.sum())
