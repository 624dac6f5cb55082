"""The modules of the standalone SEDD tree, and distributions small enough to be enumerated."""

import importlib
import itertools
import sys
import types

import hydra
import pytest
import torch

import sedd_ext

ROOT = f"{sedd_ext.__path__[0]}/standalone"
FLAT = ("catsample", "graph_lib", "noise_lib", "losses", "sampling", "data", "utils", "load_model")
FLAT += ("model",)
TINY = (
    "tokens=5",
    "model.hidden_size=16",
    "model.cond_dim=8",
    "model.n_blocks=2",
    "model.n_heads=2",
    "model.length=8",
    "training.ema=0.5",
    "optim.lr=1e-2",
    "optim.warmup=4",
)


@pytest.fixture(scope="session")
def sedd():
    """The tree's modules as attributes; Duo's tree, which has a ``utils`` too, keeps its own."""

    def withdraw():
        names = [name for name in sys.modules if name.partition(".")[0] in FLAT]
        return {name: sys.modules.pop(name) for name in names}

    before = withdraw()
    sys.path.insert(0, ROOT)
    try:
        return types.SimpleNamespace(**{name: importlib.import_module(name) for name in FLAT})
    finally:
        sys.path.remove(ROOT)
        withdraw()
        sys.modules.update(before)


@pytest.fixture(scope="session")
def compose():
    """``compose("graph.type=uniform", ...)`` is the tree's configuration of a tiny model."""

    def make(*overrides, base=TINY):
        with hydra.initialize_config_dir(f"{ROOT}/configs", version_base=None):
            return hydra.compose("config", [*base, *overrides])

    return make


@pytest.fixture
def network(sedd, compose):
    """``network("graph.type=uniform", ...)`` is a model with random weights."""

    def make(*overrides, seed=0):
        torch.manual_seed(seed)
        model = sedd.model.SEDD(compose(*overrides))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return model.eval()

    return make


def rate_matrix(kind, tokens):
    """Q with columns that sum to zero, from its definition, float64."""
    if kind == "uniform":
        return 1 / tokens - torch.eye(tokens, dtype=torch.float64)
    Q = -torch.eye(tokens + 1, dtype=torch.float64)
    Q[tokens] += 1
    return Q


class World:
    """A distribution over all sequences of L out of V tokens, noised by one of the graphs."""

    def __init__(self, sedd, kind, V=3, L=2, seed=0, independent=False):
        self.kind, self.V, self.L = kind, V, L
        self.graph = {"absorb": sedd.graph_lib.Absorbing, "uniform": sedd.graph_lib.Uniform}[kind](
            V
        )
        self.Q = rate_matrix(kind, V)
        self.dim = len(self.Q)
        generator = torch.Generator().manual_seed(seed)
        shape = [V] * L
        logits = torch.randn(shape, generator=generator, dtype=torch.float64)
        if independent:
            logits = torch.zeros_like(logits)
            for axis in range(L):
                row = torch.randn(V, generator=generator, dtype=torch.float64)
                logits += row.view([-1 if k == axis else 1 for k in range(L)])
        self.p0 = logits.flatten().softmax(0).view(shape)
        self.p = torch.zeros([self.dim] * L, dtype=torch.float64)
        self.p[tuple([slice(V)] * L)] = self.p0

    @property
    def states(self):
        return torch.tensor(list(itertools.product(range(self.dim), repeat=self.L)))

    def kernel(self, sigma):
        """exp(sigma Q)[y, x]."""
        return torch.matrix_exp(float(sigma) * self.Q)

    def at(self, sigma):
        """p(x_t) over all sequences, (dim, ..., dim)."""
        p = self.p
        for axis in range(self.L):
            p = torch.tensordot(self.kernel(sigma), p, dims=([1], [axis])).movedim(0, axis)
        return p

    def score(self, x, sigma):
        """p_t(x with y at l) / p_t(x), (B, L, dim), from the sum over all sequences."""
        rows = []
        for tokens, s in zip(x.tolist(), sigma.tolist(), strict=True):
            p = self.at(s)
            own = p[tuple(tokens)]
            row = [p[(*tokens[:l], slice(None), *tokens[l + 1 :])] / own for l in range(self.L)]
            rows.append(torch.stack(row))
        return torch.stack(rows)

    def reverse(self, x, before, after):
        """p(x_s = y at l | x_t = x), (B, L, dim), by Bayes' rule over all sequences; s is the time
        with noise ``before``, t that with noise ``after``."""
        rows = []
        for tokens in x.tolist():
            joint = self.at(before)
            for axis, token in enumerate(tokens):
                likelihood = self.kernel(after - before)[token]
                joint = joint * likelihood.view([-1 if k == axis else 1 for k in range(self.L)])
            joint = joint / joint.sum()
            others = [[k for k in range(self.L) if k != l] for l in range(self.L)]
            rows.append(torch.stack([joint.sum(o) if o else joint for o in others]))
        return torch.stack(rows)


class Exact(torch.nn.Module):
    """The network that knows a world's scores, in a precision of choice."""

    def __init__(self, world, dtype=torch.float64):
        super().__init__()
        self.world, self.dtype = world, dtype

    def forward(self, x, sigma):
        return self.world.score(x, sigma).log().to(self.dtype)


@pytest.fixture(params=["absorb", "uniform"])
def kind(request):
    return request.param


@pytest.fixture
def world(sedd, kind):
    """``world(V=3, L=2, ...)`` with one graph, then with the other."""
    return lambda **options: World(sedd, kind, **options)


@pytest.fixture
def exact():
    return Exact


@pytest.fixture(scope="session")
def frequencies_match():
    """Counts of a sample agree with probabilities: chi-square within five standard deviations."""

    def check(counts, probs):
        expected = probs.double() * counts.sum()
        assert (counts[expected == 0] == 0).all()
        possible = expected > 0
        chi = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
        freedom = possible.sum() - 1
        assert chi <= freedom + 5 * (2 * freedom) ** 0.5

    return check
