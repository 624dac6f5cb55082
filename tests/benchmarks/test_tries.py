"""benchmarks.tries: each variant trains and is what it says, on the absorbing and the uniform
process."""

import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import tries
from benchmarks.tiny import Tiny, same
from duo_ext.core import rollout, rows
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.uniform import Sample, UniformProcess

V, B, L, K = 6, 5, 7, 3
MASK = V - 1
PROCESSES = {
    "absorbing": AbsorbingProcess(V, MASK),
    "uniform": UniformProcess(V),
}
both = pytest.mark.parametrize("name", PROCESSES)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    given = torch.zeros(B, L, dtype=torch.bool)
    given[:, :2] = True
    return torch.randint(0, MASK, (B, L)), given


def losses(process, networks, batch):
    """[the fake's and the student's loss, each followed by its gradients], under one seed."""
    student, fake, teacher = networks
    parts = []
    for network, loss, given in (
        (fake, process.fake_loss, (student, fake)),
        (student, process.student_loss, (student, fake, teacher)),
    ):
        torch.manual_seed(1)
        value = loss(*given, *batch)
        parts += [value, *torch.autograd.grad(value, list(network.backbone.parameters()))]
    return [part.detach() for part in parts]


# ----------------------------------------------------------------------------------- the process


@both
def test_grid_draws_the_times_of_four_steps_alone(networks, batch, name):
    """Equally often, and they are what the student is given."""
    drawn = tries.grid_times(4000, 1e-3, "cpu")
    values, counts = drawn.unique(return_counts=True)
    assert values.tolist() == [0.25, 0.5, 0.75, 1.0] and counts.tolist() == [1000] * 4
    student, fake, teacher = networks
    seen, features = [], student.features
    student.features = lambda z, alpha: seen.append(alpha) or features(z, alpha)
    process = tries.grid(PROCESSES[name])
    for _ in range(4):
        process.student_loss(student, fake, teacher, *batch)
        process.fake_loss(student, fake, *batch)
    assert len(seen) == 8
    assert set(torch.cat(seen).tolist()) <= set(process.schedule(values)[0].tolist())


@both
@pytest.mark.parametrize("on_policy", [0.0, 0.5])
@pytest.mark.parametrize("change", [{"draws": 1}, {"weight": 0.0}])
def test_a_variant_that_changes_nothing_is_the_product(networks, batch, name, on_policy, change):
    """One draw, or weight 0: the same losses and gradients, bit for bit."""
    product = replace(PROCESSES[name], on_policy=on_policy)
    variant = (tries.times if "draws" in change else tries.anchor)(product, **change)
    assert same(losses(variant, networks, batch), losses(product, networks, batch))


@both
def test_times_is_the_mean_over_its_draws(networks, batch, name):
    """Loss and gradient are the means of those of one draw each; the student's body runs once."""
    several = tries.times(PROCESSES[name], draws=K)
    student, fake, teacher = networks
    bodies, features = [], student.features
    student.features = lambda z, alpha: bodies.append((z, alpha)) or features(z, alpha)
    drawn = {}

    def keep(method):
        original = getattr(several, method)

        def kept(*given):
            drawn[method] = original(*given)
            return drawn[method]

        setattr(several, method, kept)

    for method in ("_draw", "_renoise") if name == "absorbing" else ("_sample",):
        keep(method)

    def single(k):
        """The product with the k-th draw."""
        product = replace(PROCESSES[name])

        def part(tensor):
            return tensor.chunk(K)[k]

        def sample(student, x0, given):
            whole = drawn["_sample"]
            output = rows.Head(student, student.features(*bodies[0])[~given])
            noise = map(part, (whole.x, whole.x, whole.alpha_B, whole.dalpha_B))
            return Sample(output, *noise, part(whole.free) - k * x0.numel())

        if name == "absorbing":
            product._draw = lambda *given: tuple(map(part, drawn["_draw"]))
            product._renoise = lambda *given: part(drawn["_renoise"])
        else:
            product._sample = sample
        return product

    for loss, trained, given in (
        ("fake_loss", fake, (student, fake)),
        ("student_loss", student, (student, fake, teacher)),
    ):
        bodies.clear()
        value = getattr(several, loss)(*given, *batch)
        assert len(bodies) == 1 and len(bodies[0][0]) == B
        parameters = list(trained.backbone.parameters())
        found = [value, *torch.autograd.grad(value, parameters)]
        singles = [getattr(single(k), loss)(*given, *batch) for k in range(K)]
        assert len({value.item() for value in singles}) == K
        mean = sum(singles) / K
        expected = [mean, *torch.autograd.grad(mean, parameters)]
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@both
def test_anchor_is_the_divergence_from_the_teacher_on_the_same_input(networks, batch, name):
    """The formula at the positions that are predicted; 0 where the student is the teacher."""
    product, (student, fake, teacher) = PROCESSES[name], networks
    _, given = batch
    for network in (teacher, student):
        seen, features = [], network.features

        def watched(z, alpha, features=features, seen=seen):
            seen.append((z, alpha))
            return features(z, alpha)

        network.features = watched
        torch.manual_seed(1)
        plain = product.student_loss(network, fake, teacher, *batch)
        torch.manual_seed(1)
        more = tries.anchor(product).student_loss(network, fake, teacher, *batch) - plain
        network.features = features
        z, alpha = seen[0]
        p, q = (n(z, alpha) for n in (teacher, network))
        chosen = ~given
        if name == "absorbing":
            p, q = p[..., :MASK], q[..., :MASK]
            chosen = z == MASK
        p, q = p.log_softmax(-1), q.log_softmax(-1)
        expected = 0.1 * (p.exp() * (p - q)).sum(-1)[chosen].sum() / (~given).sum()
        torch.testing.assert_close(more, expected, rtol=1e-9, atol=0)
        assert (more == 0) == (network is teacher)


@both
def test_late_stops_in_proportion_to_the_steps_done(toy, name):
    """Also as what a rollout stops by: P(t = 1 - j / 4) = (1 + j) / 10."""
    process = tries.late(replace(PROCESSES[name], on_policy=1.0))
    x0 = torch.zeros(4000, L, dtype=torch.long)
    torch.manual_seed(0)
    _, t, *_ = rollout.states(process, toy(V, L), x0, x0 > 0)
    values, counts = t.unique(return_counts=True)
    assert values.tolist() == [0.25, 0.5, 0.75, 1.0]
    torch.testing.assert_close(
        counts / 4000, torch.tensor([0.4, 0.3, 0.2, 0.1]), atol=0.025, rtol=0
    )
    assert len(tries.late_stops(4, 0, "cpu")) == 0


# ---------------------------------------------------------------------------------- the command


class Distillations:
    """Runs of two pairs from tiny teachers, forked, of duo_ext or of a variant."""

    TEACHERS = {"idlm_mdlm": "mdlm", "idlm": "duo_base"}

    def __init__(self, folder):
        self.tiny = Tiny("duo_ext", folder)
        self.main, self.teachers, self.ended = self.tiny.main, {"mdlm": self.tiny.teacher}, {}

    def run(self, name, settings, variant):
        """The exit code and the run."""
        if variant:
            self.tiny.main = lambda: tries.main([variant, *sys.argv[1:]])
        run = self.tiny.run(name, settings)
        self.tiny.main = self.main
        return run.wait(), run

    def __call__(self, name, algorithm, *settings, variant=None):
        own = (f"algo={algorithm}", "algo.fake_warmup=1", "trainer.max_steps=2")
        own += (f"algo.teacher_path={self.teacher(algorithm)}", "algo.on_policy=0.5", *settings)
        return self.run(name, own, variant)

    def teach(self, name, algorithm, variant=None):
        return self.run(name, (f"algo={algorithm}", *self.tiny.program.teacher[1:]), variant)

    def teacher(self, algorithm):
        name = self.TEACHERS[algorithm]
        if name not in self.teachers:
            code, run = self.teach(name, name)
            assert code == 0, run.printed()
            self.teachers[name] = run.last
        return self.teachers[name]

    def plain(self, algorithm):
        """What duo_ext ends with."""
        if algorithm not in self.ended:
            code, run = self(f"plain-{algorithm}", algorithm)
            assert code == 0, run.printed()
            self.ended[algorithm] = run.tensors()
        return self.ended[algorithm]


@pytest.fixture(scope="module")
def distil(tmp_path_factory):
    pytest.importorskip("fcntl", reason="runs are forked")
    return Distillations(tmp_path_factory.mktemp("tries") / "runs")


RUNS = [("grid", "idlm"), ("times", "idlm_mdlm"), ("anchor", "idlm")]
RUNS += [("late", "idlm_mdlm")]


@pytest.mark.parametrize(("variant", "algorithm"), RUNS)
def test_a_variant_trains_another_student(distil, variant, algorithm):
    code, run = distil(variant, algorithm, variant=variant)
    assert code == 0, run.printed()
    assert not same(run.tensors(), distil.plain(algorithm))


def test_a_variant_goes_on_as_itself_alone(distil, capfd):
    for given, expected in (("grid", 0), (None, 1), ("anchor", 1)):
        code, _ = distil("alone", "idlm", variant=given)
        assert code == expected
        printed = capfd.readouterr().err
        assert ("its variant is grid, this run's" in printed) == bool(code)


REFUSED = {
    "algo.noising=gaussian": "algo.noising is 'gaussian'; it must be one of categorical",
    "algo.on_policy=0": "algo.on_policy is 0",
    "algo.shared_forward=true": "algo.shared_forward is 'True'; it must be one of False",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_what_a_variant_cannot_change_is_refused(distil, capfd, setting):
    variant = "anchor" if "shared" in setting else "late"
    code, _ = distil("refused", "idlm", setting, variant=variant)
    assert code == 1 and f"error: {REFUSED[setting]}" in capfd.readouterr().err


def test_a_teacher_has_no_variant(distil, capfd):
    code, _ = distil.teach("refused", "mdlm", variant="grid")
    sentence = "error: algo is 'mdlm'; it must be one of idlm, idlm_mdlm, idlm_dcd"
    assert code == 1 and sentence in capfd.readouterr().err


def test_an_unknown_variant_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        tries.main(["often", "algo=idlm"])
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "invalid choice: 'often' (choose from" in last and "grid" in last
