"""Algorithms over a few tokens, and enumerated distributions with their exact denoisers."""

import functools
import itertools
import types

import omegaconf
import pytest
import torch

NEEDS = {"sedd": "sampling.predictor=analytic"}


class ToyTokenizer:
    """As much of a tokenizer as an algorithm asks for."""

    mask_token = pad_token = None
    bos_token_id, eos_token_id, pad_token_id = 1, 2, 3

    def __init__(self, size):
        self.vocab_size = size

    def __len__(self):
        return self.vocab_size

    def get_vocab(self):
        return {str(id): id for id in range(self.vocab_size)}


@pytest.fixture
def toy_tokenizer():
    return ToyTokenizer


@pytest.fixture(scope="session")
def composed(tiny):
    """``tiny`` for one algorithm and changed values; composing is slow and done once for each."""
    compose = functools.cache(lambda name: tiny(f"algo={name}"))

    def make(name, *values):
        return omegaconf.OmegaConf.merge(compose(name), omegaconf.OmegaConf.from_dotlist(values))

    return make


@pytest.fixture(scope="session")
def build(standalone, composed):
    """``build("mdlm", 3, ...)`` is an algorithm over 3 tokens with random weights."""

    def make(algorithm, tokens=3, *overrides, seed=0):
        fixed = [NEEDS[algorithm]] if algorithm in NEEDS else []
        config = composed(algorithm, *fixed, *overrides)
        torch.manual_seed(seed)
        model = standalone.module("main").ALGORITHMS[algorithm](config, ToyTokenizer(tokens))
        for name, parameter in model.backbone.named_parameters():
            # at a random start the noise level would drown a token's neighbours
            width = 1.0 if parameter.ndim == 1 else 0.03 if "adaLN" in name else 0.3
            torch.nn.init.normal_(parameter, std=width)
        return model

    return make


@pytest.fixture(scope="session")
def attach():
    """``attach(model, global_step=3)`` gives a model the trainer's numbers that it asks for."""

    def make(model, **numbers):
        defaults = {"global_step": 0, "accumulate_grad_batches": 1, "max_steps": 100}
        place = {"world_size": 1, "global_rank": 0}
        model.trainer = types.SimpleNamespace(**(defaults | place | numbers))
        model.log = lambda *args, **kwargs: None
        return model.trainer

    return make


def all_sequences(size, length):
    """(size^length, length)."""
    return torch.tensor(list(itertools.product(range(size), repeat=length)))


def uniform_kernel(alpha, V):
    """q(z | x) = alpha 1[z = x] + (1 - alpha) / V, (V, V) at [x, z]."""
    return alpha * torch.eye(V, dtype=torch.float64) + (1 - alpha) / V


def absorbing_kernel(alpha, V):
    """The same for the mask V, which stays, (V + 1, V + 1)."""
    kernel = alpha * torch.eye(V + 1, dtype=torch.float64)
    kernel[:, V] += 1 - alpha
    return kernel


class Enumerated:
    """A distribution p over all sequences of L out of V tokens, and what follows from it."""

    def __init__(self, V, L, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.V, self.L, self.space = V, L, all_sequences(V, L)
        logits = 1.5 * torch.randn(V**L, generator=generator, dtype=torch.float64)
        self.p = logits.softmax(0)

    def leave_one_out(self, kernel, z_BL):
        """p(x_l | z without z_l), (B, L, V), where q(z | x) = kernel[x, z] at each position."""
        likelihood_BXL = kernel[self.space[None], z_BL[:, None]]
        rows = []
        for l in range(self.L):
            others = [k for k in range(self.L) if k != l]
            joint_BX = self.p * likelihood_BXL[:, :, others].prod(-1)
            row = [joint_BX[:, self.space[:, l] == v].sum(-1) for v in range(self.V)]
            rows.append(torch.stack(row, -1))
        f_BLV = torch.stack(rows, 1)
        return f_BLV / f_BLV.sum(-1, keepdim=True)

    def reverse(self, to_s, s_to_t, z_BL):
        """p(x_s at l | x_t = z), (B, L, states), by Bayes' rule over whole sequences."""
        size = len(s_to_t)
        states = all_sequences(size, self.L)
        p_S = self.p @ to_s[self.space[:, None], states[None]].prod(-1)
        joint_BS = p_S * s_to_t[states[None], z_BL[:, None]].prod(-1)
        marginals = torch.zeros(len(z_BL), self.L, size, dtype=torch.float64)
        for l in range(self.L):
            for v in range(size):
                marginals[:, l, v] = joint_BS[:, states[:, l] == v].sum(-1)
        return marginals / marginals.sum(-1, keepdim=True)

    def teach(self, model):
        """Make the model's network output exact: its ``forward`` answers from p."""
        name = type(model).__name__

        def forward(x, sigma):
            alpha = torch.exp(-sigma.double()).flatten()[0]
            if name == "DUO_BASE":
                return self.leave_one_out(uniform_kernel(alpha, self.V), x).log()
            f = self.leave_one_out(absorbing_kernel(alpha, self.V), x)
            if name == "SEDDAbsorb":
                return torch.nn.functional.pad((f * alpha / (1 - alpha)).log(), (0, 1))
            log_f = torch.nn.functional.pad(f.log(), (0, 1), value=-1e6)
            copied = torch.full_like(log_f, -1e6).scatter(-1, x[..., None], 0.0)
            return torch.where((x == self.V)[..., None], log_f, copied)

        model.forward = forward
        return model


@pytest.fixture(scope="session")
def enumerated():
    return Enumerated


@pytest.fixture(scope="session")
def kernels():
    """The transition matrix of each algorithm's process by (alpha, number of tokens)."""
    return {"mdlm": absorbing_kernel, "sedd": absorbing_kernel, "duo_base": uniform_kernel}


@pytest.fixture
def drawn(standalone, monkeypatch):
    """The normalised probabilities of each call of ``sample_categorical`` from here on."""
    trainer_base = standalone.module("trainer_base")
    real, calls = trainer_base.sample_categorical, []

    def record(probs):
        calls.append(probs / probs.sum(-1, keepdim=True))
        return real(probs)

    monkeypatch.setattr(trainer_base, "sample_categorical", record)
    return calls


@pytest.fixture(scope="session")
def frequencies_match():
    """Counts of a sample agree with probabilities: chi-square within five standard deviations."""

    def check(counts, probs):
        counts, expected = counts.double(), probs.double() * counts.sum()
        assert (counts[expected == 0] == 0).all()
        possible = expected > 0
        chi = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
        freedom = possible.sum() - 1
        assert chi < freedom + 5 * (2 * freedom) ** 0.5

    return check
