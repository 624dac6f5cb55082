"""The two losses of a pair: efficient forms against dense formulas, and where gradients may be."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.functional import one_hot

from benchmarks import dense
from duo_ext.core import gaussian, losses, rollout, rows, samplers, schedules
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.process import sample_times
from duo_ext.core.samplers import ancestral, comb, grids, spread
from duo_ext.core.schedules import LogLinear
from duo_ext.core.score import ScoreProcess
from duo_ext.core.uniform import UniformProcess

V, B, L = 6, 5, 7
MASK = V - 1
GAUSSIAN = schedules.GaussianSchedule(V, -2.0, 2.0)
ROLLOUTS = {"on_policy": 1.0, "rollout_steps": (3,), "order": comb.changes}
ROLLOUTS |= {"rollout_target": rollout.STEP}
PROCESSES = {
    "absorbing": AbsorbingProcess(V, MASK),
    "absorbing, rollouts": AbsorbingProcess(V, MASK, **ROLLOUTS),
    "uniform": UniformProcess(V),
    "posterior": UniformProcess(V, posterior=True),
    "gaussian": gaussian.GaussianUniformProcess(V, GAUSSIAN, tau=0.1),
    "score": ScoreProcess(V, MASK),
    "score, rollouts": ScoreProcess(V, MASK, **ROLLOUTS),
}
DENSE = {
    "absorbing": dense.Absorbing(V, MASK),
    "absorbing, rollouts": dense.Absorbing(V, MASK, **ROLLOUTS),
    "uniform": dense.Uniform(V),
    "posterior": dense.Uniform(V, posterior=True),
    "gaussian": dense.Gaussian(V, GAUSSIAN, tau=0.1),
    "score": dense.Score(V, MASK),
    "score, rollouts": dense.Score(V, MASK, **ROLLOUTS),
}
# The loss of which the core leaves out no term; in the others it leaves those without a gradient.
COMPLETE = {
    "absorbing": "fake_loss",
    "absorbing, rollouts": "fake_loss",
    "score": "fake_loss",
    "score, rollouts": "fake_loss",
    "uniform": "student_loss",
    "posterior": "student_loss",
    "gaussian": "student_loss",
}


@pytest.fixture
def batch():
    torch.manual_seed(0)
    x0 = torch.randint(0, MASK, (B, L))
    given = torch.zeros(B, L, dtype=torch.bool)
    given[:, :2] = True
    return x0, given


def gradients(loss, network):
    return torch.autograd.grad(loss, list(network.backbone.parameters()), allow_unused=True)


def same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rows_at_once", [(1, 1), (4, 3), (1000, 2), (1000, 1000)], ids=str)
@pytest.mark.parametrize("name", PROCESSES)
def test_a_pair_is_the_dense_one(networks, batch, name, rows_at_once, monkeypatch):
    """Both losses of a pair and their gradients, with the rows in any chunks and pieces."""
    for sizes, count in zip((rows.CHUNK, rows.PIECE), rows_at_once, strict=True):
        monkeypatch.setitem(sizes, torch.get_default_device().type, V * count)
    student, fake, teacher = networks
    others = {"fake_loss": (student, fake), "student_loss": (student, fake, teacher)}
    for loss, trained in (("fake_loss", fake), ("student_loss", student)):
        found = []
        for process in (PROCESSES[name], DENSE[name]):
            torch.manual_seed(1)
            value = getattr(process, loss)(*others[loss], *batch)
            found.append((value, gradients(value, trained)))
        same(found[0][1], found[1][1])
        if loss == COMPLETE[name]:
            same([found[0][0]], [found[1][0]])


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is missing, which torch.compile calls")
@pytest.mark.parametrize("name", ["absorbing", "gaussian", "uniform"])
def test_compiled_losses_are_the_same(networks, batch, name):
    student, fake, teacher = networks
    others = {"fake_loss": (student, fake), "student_loss": (student, fake, teacher)}
    compiled = replace(PROCESSES[name])
    compiled.compiled = True
    before = counters["stats"]["unique_graphs"]
    for loss, trained in (("fake_loss", fake), ("student_loss", student)):
        found = []
        for process in (PROCESSES[name], compiled):
            torch.manual_seed(1)
            value = getattr(process, loss)(*others[loss], *batch)
            found.append([value, *gradients(value, trained)])
        same(*found)
    assert counters["stats"]["unique_graphs"] > before


def test_a_soft_loss_leaves_the_probabilities_as_they_are():
    """They are the student's, which reads them again; ``rows`` gives no copy of them."""
    torch.manual_seed(0)
    p, logits = torch.rand(B, V).softmax(-1), torch.randn(B, V)
    before = p.clone()
    losses.relaxed_soft(p, logits, torch.arange(B), torch.rand(B), -torch.rand(B))
    assert p.equal(before)


@pytest.mark.parametrize("name", ["absorbing", "score", "uniform"])
def test_shared_losses_are_the_two_of_one_draw(networks, batch, name):
    """Values and gradients, each to its own network alone, with each network run once."""
    process, (student, fake, teacher) = PROCESSES[name], networks
    for network in networks:
        network.backbone.requires_grad_(network is not teacher)
    alone = []
    for loss, others, trained in (
        (process.fake_loss, (student, fake), fake),
        (process.student_loss, (student, fake, teacher), student),
    ):
        torch.manual_seed(1)
        value = loss(*others, *batch)
        alone.append((value, gradients(value, trained)))
    runs = []
    for network in networks:
        network.features = _counted(network.features, runs)
    torch.manual_seed(1)
    shared = process.losses(student, fake, teacher, *batch)
    assert len(runs) == 3
    same(shared, [value for value, _ in alone])
    for value, (own, other), (_, expected) in zip(
        shared, ((fake, student), (student, fake)), alone, strict=True
    ):
        assert gradients(value, other) == (None,) * len(expected)
        same(gradients(value, own), expected)


def _counted(features, runs):
    def counted(*arguments):
        runs.append(features)
        return features(*arguments)

    return counted


def test_absorbing_heads_run_only_where_needed(networks, batch):
    """The student's differentiated rows are those masked in z_t and in x_s."""
    process, (student, fake, teacher) = PROCESSES["absorbing"], networks
    torch.manual_seed(1)
    z, _, hidden, *_ = process._draw(student, *batch)
    torch.manual_seed(1)
    process.student_loss(student, fake, teacher, *batch)
    both = ((z == MASK) & hidden).sum().item()
    assert teacher.head_rows == fake.head_rows == both
    assert student.head_rows == (z == MASK).sum().item() < B * L


@pytest.mark.parametrize("name", PROCESSES)
def test_no_gradient_where_fake_equals_teacher(networks, batch, name):
    student, fake, _ = networks
    loss = PROCESSES[name].student_loss(student, fake, fake, *batch)
    assert loss == 0
    for gradient in gradients(loss, student):
        assert gradient.abs().max() < 1e-14


@pytest.mark.parametrize("name", PROCESSES)
def test_each_loss_has_a_graph_to_its_own_network_alone(networks, batch, name):
    process, (student, fake, teacher) = PROCESSES[name], networks
    for network in (fake, teacher):
        network.backbone.requires_grad_(False)
    process.student_loss(student, fake, teacher, *batch).backward()
    assert all(p.grad is not None for p in student.backbone.parameters())
    student.backbone.zero_grad()
    fake.backbone.requires_grad_(True)
    process.fake_loss(student, fake, *batch).backward()
    assert all(p.grad is not None for p in fake.backbone.parameters())
    assert all(p.grad is None for p in student.backbone.parameters())


@pytest.mark.parametrize("name", PROCESSES)
def test_visible_and_given_positions_carry_nothing(networks, batch, name):
    process, (student, fake, teacher) = PROCESSES[name], networks
    x0, given = batch
    seen = {}
    features = student.features

    def watched(z, alpha):
        found = features(z, alpha)
        if found.requires_grad:  # not in a rollout
            found.retain_grad()
            seen["z"], seen["features"] = z, found
        return found

    student.features = watched
    process.student_loss(student, fake, teacher, x0, given).backward()
    touched = seen["features"].grad.abs().sum(-1) > 0
    assert touched.any() and not touched[given].any()
    if PROCESSES[name].changes_once:
        assert not touched[seen["z"] != MASK].any()


def test_given_tokens_may_have_the_masks_number(networks, batch):
    """As padding has that a host adds: they are no masks, in a distillation and in sampling."""
    student, *_ = networks
    x0, given = batch[0].clone(), batch[1]
    x0[given] = MASK
    for name in ("absorbing", "score"):
        process, seen = PROCESSES[name], []
        assert (process._sample(student, x0, given).x_BL[given] == MASK).all()
        for sampler in ("ancestral", "spread", "comb", "confidence", "renoise"):
            for removal in ("ancestral", "greedy"):
                own = process, student, x0, given, grids.times("linear", 3), removal
                seen.append(samplers.find(sampler)(*own))
        assert all((z[given] == MASK).all() and (z[~given] != MASK).all() for z in seen)


@pytest.mark.parametrize("name", PROCESSES)
def test_given_tokens_are_kept(networks, batch, name):
    """A change of the other tokens' noise never reaches the given ones, in z_t and in x_s."""
    process, (student, fake, teacher) = PROCESSES[name], networks
    x0, given = batch
    inputs = []
    for network in (student, teacher):
        features = network.features
        network.features = lambda x, alpha, f=features: inputs.append(x) or f(x, alpha)
    if process.on_policy:
        process = replace(process, rollout_stops=lambda steps, n, device: torch.zeros(n).long())
    process.student_loss(student, fake, teacher, x0, given)
    for x in inputs:
        tokens = x if x.ndim == 2 else x.argmax(-1)
        assert (tokens[given] == x0[given]).all()


def test_corruption_frequencies():
    torch.manual_seed(0)
    x0, given = torch.zeros(1, 40_000, dtype=torch.long), torch.zeros(1, 40_000, dtype=torch.bool)
    time = torch.tensor([0.3], dtype=torch.float64)
    alpha, _ = PROCESSES["uniform"].schedule(time)
    kept = (PROCESSES["uniform"].corrupt(x0, alpha, given) == 0).double().mean()
    assert abs(kept - (alpha + (1 - alpha) / V)) < 0.01
    masked = (PROCESSES["absorbing"].corrupt(x0, alpha, given) == MASK).double().mean()
    assert abs(masked - (1 - alpha)) < 0.01


def test_the_posterior_is_what_a_sampling_step_takes_the_network_for(toy):
    """A clean token of it, then q(z_s | z_t, x): the law of ``reverse``, to rounding."""
    process, student = PROCESSES["posterior"], toy(V, L)
    torch.manual_seed(0)
    z_BL, (alpha_t, alpha_s) = torch.randint(V, (B, L)), torch.tensor([0.3, 0.5]).double()
    logits_NV = student(z_BL, alpha_t.expand(B)).flatten(0, 1)
    xhat_NV = process._output(student, z_BL, alpha_t.expand(B)).logits(slice(None)).softmax(-1)
    one, ratio = torch.eye(V).double(), alpha_t / alpha_s
    from_z_NV = ratio * one[z_BL.flatten()] + (1 - ratio) / V
    steps_NVV = from_z_NV[:, None] * (alpha_s * one + (1 - alpha_s) / V)  # of z and x, to z_s
    steps_NVV /= steps_NVV.sum(-1, keepdim=True)
    law_NV = process.law(logits_NV, z_BL.flatten(), alpha_t, alpha_s)
    same([torch.einsum("nx,nxs->ns", xhat_NV, steps_NVV)], [law_NV])


class TestRollout:
    """States of the student's own sampling in place of noised data."""

    process = AbsorbingProcess(V, MASK, on_policy=1.0, rollout_steps=(4,))

    def states(self, toy, n=4000):
        """With a student that says the same everywhere."""
        student = toy(V, L)
        with torch.no_grad():
            student.backbone.output_layer.linear.weight.zero_()
            student.head = lambda features: torch.arange(V).double().expand(*features.shape[:-1], V)
        torch.manual_seed(0)
        x0 = torch.zeros(n, L, dtype=torch.long)
        given = torch.zeros(n, L, dtype=torch.bool)
        given[:, 0] = True
        return *rollout.states(self.process, student, x0, given)[:2], given

    def test_share_of_masks_is_the_process_own(self, toy):
        z, t, given = self.states(toy)
        assert set(t.tolist()) == {1.0, 0.75, 0.5, 0.25}
        for time in t.unique():
            masked = (z[t == time] == MASK)[~given[t == time]].double().mean()
            assert abs(masked - (1 - self.process.schedule(time)[0])) < 0.02

    def test_visible_tokens_are_the_students_and_the_given_ones(self, toy):
        z, _, given = self.states(toy)
        assert (z[given] == 0).all()
        tokens = z[~given][z[~given] != MASK]
        expected = self.process.probs(torch.arange(V).double())[:MASK]
        shares = tokens.bincount(minlength=MASK).double() / len(tokens)
        torch.testing.assert_close(shares, expected, atol=0.02, rtol=0)

    def test_a_uniform_step_is_bayes_rule(self, toy):
        """q(z_s | z_t), proportional to q(z_t | z_s) p_s(z_s), by its four factors."""
        process, student = UniformProcess(V), toy(V, L)
        student.head = lambda features: torch.arange(V).double().expand(*features.shape[:-1], V)
        alpha_t, alpha_s = torch.tensor([0.3, 0.5], dtype=torch.float64)
        z_BL, given = torch.full((8000, L), 1), torch.zeros(8000, L, dtype=torch.bool)
        given[:, 0] = True
        torch.manual_seed(0)
        after = process.reverse(student, z_BL.clone(), alpha_t, alpha_s, given)
        assert (after[given] == 1).all()
        ratio, one_V = alpha_t / alpha_s, torch.eye(V, dtype=torch.float64)[1]
        before_V = alpha_s * torch.arange(V).double().softmax(0) + (1 - alpha_s) / V
        expected = (ratio * one_V + (1 - ratio) / V) * before_V
        shares = after[~given].bincount(minlength=V).double() / (~given).sum()
        torch.testing.assert_close(shares, expected / expected.sum(), atol=0.015, rtol=0)

    def test_a_uniform_rollout_starts_anywhere_and_keeps_what_is_given(self, toy):
        process = UniformProcess(V, on_policy=1.0)
        torch.manual_seed(0)
        x0, given = torch.zeros(4000, L, dtype=torch.long), torch.zeros(4000, L, dtype=torch.bool)
        given[:, 0] = True
        z, t, *_ = rollout.states(process, toy(V, L), x0, given)
        assert (z[given] == 0).all() and set(t.tolist()) == {1.0, 0.75, 0.5, 0.25}
        first = z[t == 1][:, 1:].flatten().bincount(minlength=V).double()
        torch.testing.assert_close(
            first / first.sum(), torch.full((V,), 1 / V).double(), atol=0.02, rtol=0
        )

    def test_spread_inputs_have_their_masks_apart(self, networks):
        """Of noised data and of rollouts: those of one text are each second, third ... position."""
        way = {"on_policy": 0.5, "order": spread.changes, "schedule": LogLinear(0.0)}
        process = replace(self.process, **way)
        x0, given = torch.zeros(400, 64, dtype=torch.long), torch.zeros(400, 64, dtype=torch.bool)
        student = networks[0]
        student.features = lambda x, alpha: torch.zeros(*x.shape, 8, dtype=torch.float64)
        torch.manual_seed(0)
        z, alpha, *_ = process._draw(student, x0, given)
        masked = (z == MASK).double()
        assert (masked.sum(1) - 64 * (1 - alpha)).abs().max() <= 1
        halves = masked.view(400, 2, 32).sum(2)  # as many in both halves of a text
        assert (halves[:, 0] - halves[:, 1]).abs().max() <= 1

    @pytest.mark.parametrize("on_policy", [0.0, 1.0])
    def test_comb_inputs_are_unmasked_tooth_by_tooth(self, networks, on_policy):
        """What is known of a text is every fourth position, then their right neighbours too, and so
        on; the last of these in part, where the inputs are noised data."""
        way = {"on_policy": on_policy, "rollout_steps": (4,), "order": comb.changes}
        way |= {} if on_policy else {"rollout_grid": "1,.5"}  # which is of rollouts alone
        process = replace(self.process, **way, schedule=LogLinear(0.0))
        x0, given = torch.zeros(400, 64, dtype=torch.long), torch.zeros(400, 64, dtype=torch.bool)
        student = networks[0]
        student.features = lambda x, alpha: torch.zeros(*x.shape, 8, dtype=torch.float64)
        torch.manual_seed(0)
        known = process._draw(student, x0, given)[0].view(400, 16, 4) != MASK
        whole, some = known.all(1), known.any(1)
        assert ((some & ~whole).sum(1) <= (0 if on_policy else 1)).all()
        before = some.roll(1, 1)  # whether their left neighbours are known
        assert ((some & ~before).sum(1) <= 1).all()  # but for the first
        assert len({tuple(row) for row in whole.tolist()}) > 4

    @pytest.mark.parametrize("order", [ancestral.independent, spread.changes, comb.changes])
    @pytest.mark.parametrize("family", [AbsorbingProcess, ScoreProcess])
    def test_x_s_is_noise_on_what_the_next_step_has_made_known(self, toy, family, order):
        """A student that repeats what it sees writes texts of one token in steps of one position,
        and so are its x_s: nothing of them is drawn besides the next step's token. Of whole texts
        drawn at once few are."""
        process = family(V, MASK, on_policy=1.0, rollout_steps=(64,), order=order)
        student, nothing = toy(V, 4), torch.zeros(400, 4, dtype=torch.long)
        student.features = lambda x, alpha: (
            50.0 * one_hot(x, V).double().sum(1, True).expand(*x.shape, V)
        )
        student.head = lambda features: features
        shares = {}
        for target in rollout.TARGETS:
            torch.manual_seed(0)
            sample = replace(process, rollout_target=target)._sample(student, nothing, nothing > 0)
            known = sample.x_BL != MASK
            assert abs((known.double().mean(1) - sample.alpha_B).mean()) < 0.03
            largest, least = sample.x_BL.masked_fill(~known, -1), sample.x_BL.masked_fill(~known, V)
            several = known.sum(1) > 1
            shares[target] = (largest.amax(1) == least.amin(1))[several].double().mean()
        assert shares[rollout.STEP] > 0.97 and shares[rollout.TEXT] < 0.95

    @pytest.mark.parametrize(("steps", "grid"), [((2, 4, 8), "linear"), ((5,), "1,.6,.3,.12,.03")])
    def test_rollouts_stop_at_the_times_of_their_grid(self, toy, steps, grid):
        process = UniformProcess(
            V, on_policy=1.0, rollout_steps=steps, rollout_grid=grid, order=spread.changes
        )
        torch.manual_seed(0)
        x0, given = torch.zeros(40, L, dtype=torch.long), torch.zeros(40, L, dtype=torch.bool)
        found = set()
        for _ in range(20):
            found.update(rollout.states(process, toy(V, L), x0, given)[1].tolist())
        wanted = [grids.times(grid, K - 1).tolist() for K in steps]
        assert found == set().union(*wanted)

    def test_no_network_is_given_a_batch_of_nothing(self, toy):
        """One sequence often stops before the last step; some networks fail on none."""
        student = toy(V, L)
        features, seen = student.features, []
        student.features = lambda x, alpha: seen.append(len(x)) or features(x, alpha)
        for n in (0, *[1] * 20):
            x0 = torch.zeros(n, L, dtype=torch.long)
            rollout.states(self.process, student, x0, torch.zeros(n, L, dtype=torch.bool))
        assert 0 not in seen and 0 < len(seen) < 60

    def test_the_chosen_share_is_replaced(self, networks):
        process = AbsorbingProcess(V, MASK, on_policy=0.5)
        x0 = torch.randint(0, MASK, (600, L))
        torch.manual_seed(0)
        _, alpha, *_ = process._draw(networks[0], x0, torch.zeros(600, L, dtype=torch.bool))
        levels, _ = process.schedule(torch.tensor([1.0, 0.75, 0.5, 0.25]))
        assert 0.4 < torch.isin(alpha, levels).double().mean() < 0.6

    @pytest.mark.parametrize("bf16", [False, True])
    def test_all_student_weights_get_their_gradient(self, networks, batch, bf16):
        student, fake, teacher = networks
        with torch.autocast(torch.get_default_device().type, torch.bfloat16, enabled=bf16):
            self.process.student_loss(student, fake, teacher, *batch).backward()
        assert all(p.grad.abs().max() > 0 for p in student.backbone.parameters())


def test_times_are_stratified():
    torch.manual_seed(0)
    times = sample_times(8, 1e-3, torch.get_default_device())
    strata = ((times - 1e-3) / (1 - 1e-3) * 8).floor().long()
    assert sorted(strata.tolist()) == list(range(8)) and strata.tolist() != list(range(8))


class TestAgainstTheHost:
    """At one-hot xhat the relaxed losses are the host's own training losses."""

    def make(self, tiny, tokenizer, standalone, name):
        model = standalone.module("main").ALGORITHMS[name](tiny(f"algo={name}"), tokenizer).double()
        torch.manual_seed(0)
        x0 = torch.randint(0, 32, (3, 16))
        alpha = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)[:, None]
        xt = model.q_xt(x0, alpha)
        logits = torch.randn(2, 3, 16, model.vocab_size, dtype=torch.float64)
        return model, x0, xt, alpha, logits

    def test_absorbing(self, tiny, tokenizer, standalone):
        model, x0, xt, alpha, logits = self.make(tiny, tokenizer, standalone, "mdlm")
        process = AbsorbingProcess(model.vocab_size, model.mask_index)
        log_x_theta = model._process_model_output(logits[0], xt, None)
        expected = model.nll_per_token(log_x_theta, xt, x0, alpha, -0.999)
        hidden = xt == model.mask_index
        weight = (-0.999 / (1 - alpha)).expand_as(hidden)[hidden]
        ours, _ = process.hard(logits[0][hidden], None, weight, x0[hidden])
        torch.testing.assert_close(ours, expected[hidden])
        assert (expected[~hidden] == 0).all()

    def test_uniform(self, tiny, tokenizer, standalone):
        model, x0, xt, alpha, logits = self.make(tiny, tokenizer, standalone, "duo_base")
        W = model.vocab_size
        dalpha = torch.full_like(alpha, -0.999)
        log_f = logits.log_softmax(-1)
        host = [model.nll_per_token(f, xt, x0, alpha, dalpha) for f in log_f]
        levels = alpha.expand_as(xt).reshape(-1)
        xbar = losses.mix(one_hot(x0, W).double().reshape(-1, W), levels[:, None])
        ours = [
            losses.uniform_loss(
                losses.mix(f.reshape(-1, W).exp(), levels[:, None]),
                xbar,
                xt.reshape(-1),
                levels,
                torch.full_like(levels, -0.999),
            ).view_as(host[0])
            for f in log_f
        ]
        torch.testing.assert_close(ours[0] - ours[1], host[0] - host[1])
