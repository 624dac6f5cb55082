"""The alternation: its order, accumulation, exact resume in every phase, the stop at non-finite."""

import copy

import pytest
import torch

from duo_ext.core import compiling, distiller, losses
from duo_ext.core.absorbing import AbsorbingProcess

V, L = 5, 6
GIVEN = torch.zeros(4, L, dtype=torch.bool)


def batches(n):
    generator = torch.Generator(torch.get_default_device()).manual_seed(7)
    return [torch.randint(0, V - 1, (4, L), generator=generator) for _ in range(n)]


def make(toy, compared=None, **recipe):
    """``compared``: the teacher's precision."""
    networks = [toy(V, L, seed=1) for _ in range(3)]
    networks[2].precision = compared
    optimizers = [torch.optim.AdamW(n.backbone.parameters(), lr=0.05) for n in networks[:2]]
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: min(1, (step + 1) / 3))
        for o in optimizers
    ]
    parties = list(zip(networks, optimizers, schedulers, strict=False))
    process = AbsorbingProcess(V, V - 1)
    return distiller.Distiller(
        process, *parties, teacher=networks[2], recipe=distiller.Recipe(**recipe)
    )


def weights(machine):
    parts = [machine.networks[name].backbone.state_dict() for name in ("student", "fake")]
    return [value for part in parts for value in part.values()]


def test_order_of_updates(toy):
    machine = make(toy, fake_ratio=2, fake_warmup=1, accumulate=2)
    updates = [machine.step(x, GIVEN) for x in batches(14)]
    assert updates[0::2] == [None] * 7
    phases = ["".join(update.losses) for update in updates[1::2]]
    assert phases == ["fake", "fake", "fake", "student", "fake", "fake", "student"]
    assert [update.ends_pair for update in updates[1::2]] == [p == "student" for p in phases]
    assert machine.pairs == 2


@pytest.mark.parametrize("shared", [False, True])
def test_both_learning_rates_follow_pairs(toy, shared):
    """With several fake updates in a pair too; those before the first pair count besides."""
    machine = make(toy, fake_ratio=3, fake_warmup=2, shared_forward=shared)
    for x in batches(2 + 3 * machine.recipe.cycle):
        machine.step(x, GIVEN)
    steps = {name: scheduler.last_epoch for name, scheduler in machine.schedulers.items()}
    assert machine.pairs == 3 and steps == {"student": 3, "fake": 2 + 3}


def test_order_of_updates_with_a_shared_forward(toy):
    machine = make(toy, fake_ratio=2, fake_warmup=1, shared_forward=True)
    updates = [machine.step(x, GIVEN) for x in batches(5)]
    networks = [list(update.losses) for update in updates]
    assert networks == [["fake"], ["fake"], ["fake", "student"], ["fake"], ["fake", "student"]]
    assert machine.pairs == 2


def test_holes_are_opened_by_the_place_of_a_micro_batch(toy):
    """A resumed run opens the same ones, and by default there are none."""
    for infill in (1.0, 0.0):
        machines = [make(toy, infill=infill) for _ in range(2)]
        seen = [[], []]
        for machine, own in zip(machines, seen, strict=True):
            for x in batches(3):
                torch.rand(len(own) * 7)  # other numbers were drawn in between
                machine.step(x, GIVEN)
                own.append(machine.batch[1])
        assert all(map(torch.equal, *seen))
        assert (sum(given.sum() for given in seen[0]) > 0) == bool(infill)
        assert all(map(torch.equal, weights(machines[0]), weights(machines[1])))


def test_losses_are_compiled_on_request(toy, monkeypatch):
    asked = []
    monkeypatch.setattr(compiling, "compiled", lambda form: asked.append(form) or form)
    for compiled in (False, True):
        machine = make(toy, compile=compiled)
        for x in batches(2):
            machine.step(x, GIVEN)
        forms = {losses.absorbing_soft, losses.absorbing_hard, losses.absorbing_difference}
        assert set(asked) == (forms if compiled else set())


@pytest.mark.parametrize("shared", [False, True])
def test_the_fake_runs_in_the_teachers_precision_where_they_are_compared(toy, shared):
    machine = make(toy, "float32", shared_forward=shared)
    seen = {}
    for name in ("fake_loss", "student_loss", "losses"):
        loss = getattr(machine.process, name)

        def watched(*given, name=name, loss=loss):
            seen[name] = [network.precision for network in given[:-2]]
            return loss(*given)

        setattr(machine.process, name, watched)
    for x in batches(2):
        machine.step(x, GIVEN)
    both = [None, "float32", "float32"]
    assert seen == (
        {"losses": both} if shared else {"fake_loss": [None, None], "student_loss": both}
    )


def test_no_network_has_dropout(toy):
    """Whatever the caller's trainer has set."""
    machine = make(toy)
    seen = []
    for network in machine.networks.values():
        features = network.features

        def watched(*given, network=network, features=features):
            seen.append(network.backbone.training)
            return features(*given)

        network.features = machine.compared.features = watched
    for x in batches(2):
        for network in machine.networks.values():
            network.backbone.train()
        machine.step(x, GIVEN)
    assert len(seen) >= 4 and not any(seen)


def test_teacher_never_changes_and_the_others_do(toy):
    machine = make(toy)
    before = copy.deepcopy(machine.teacher.backbone.state_dict())
    start = [w.clone() for w in weights(machine)]
    for x in batches(4):
        machine.step(x, GIVEN)
    after = machine.teacher.backbone.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(torch.equal(a, b) for a, b in zip(start, weights(machine), strict=True))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("stop", range(1, 13))
def test_resume_is_exact_in_every_phase(toy, stop, shared):
    recipe = {"fake_ratio": 2, "fake_warmup": 1, "accumulate": 2, "seed": 3}
    recipe["shared_forward"] = shared
    data = batches(20)
    straight, first, second = (make(toy, **recipe) for _ in range(3))
    for x in data:
        straight.step(x, GIVEN)
    for x in data[:stop]:
        first.step(x, GIVEN)
    second.networks["student"].backbone.load_state_dict(
        first.networks["student"].backbone.state_dict()
    )
    second.optimizers["student"].load_state_dict(first.optimizers["student"].state_dict())
    second.schedulers["student"].load_state_dict(first.schedulers["student"].state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for x in data[stop:]:
        second.step(x, GIVEN)
    assert second.pairs == straight.pairs > 0
    assert all(map(torch.equal, weights(second), weights(straight)))


def test_accumulated_gradient_is_the_mean(toy):
    """Two micro-batches in one update: the mean of their gradients under their own seeds."""
    x, y = batches(2)
    machine = make(toy, accumulate=2)
    machine.optimizers["fake"].param_groups[0]["lr"] = 0.0
    machine.step(x, GIVEN)
    first = [g.clone() for g in machine._gradients("fake")]
    machine.step(y, GIVEN)
    both = machine._gradients("fake")
    machine.optimizers["fake"].zero_grad()
    machine.updates, machine.micro = 0, 1
    torch.manual_seed(machine._seed())
    (machine._losses(("fake",), y, GIVEN)[0] / 2).backward()
    alone = machine._gradients("fake")
    for total, one, two in zip(both, first, alone, strict=True):
        torch.testing.assert_close(total, one + two)


def test_processes_see_what_accumulation_sees(toy):
    """Micro-batch m of one process and micro-batch 0 of process m draw the same randomness."""
    one = make(toy, accumulate=2, seed=5)
    seeds = []
    for one.micro in (0, 1):
        seeds.append(one._seed())
    others = []
    for rank in (0, 1):
        machine = make(toy, accumulate=1, seed=5)
        machine.world = distiller.World(rank=rank, size=2)
        others.append(machine._seed())
    assert seeds == others and len(set(seeds)) == 2


def test_clipping_bounds_each_networks_gradient(toy):
    machine = make(toy, clip=1e-3, shared_forward=True)
    update = [machine.step(x, GIVEN) for x in batches(2)][
        -1
    ]  # the fake is the teacher in the first
    assert list(update.gradient_norms) == ["fake", "student"]
    for name, norm in update.gradient_norms.items():
        clipped = torch.nn.utils.get_total_norm(machine._gradients(name))
        assert norm > 1e-3 and 0.9e-3 < clipped <= 1e-3


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("phase", ["fake", "student"])
def test_not_finite_stops_before_the_update(toy, phase, shared):
    """Before that of the other network too, where they are one."""
    machine = make(toy, shared_forward=shared)
    data = batches(2)
    if phase == "student" and not shared:
        machine.step(data[0], GIVEN)
    before = [w.clone() for w in weights(machine)]
    losses = machine._losses

    def broken(names, *batch):
        found = zip(names, losses(names, *batch), strict=True)
        return [loss * (torch.nan if name == phase else 1) for name, loss in found]

    machine._losses = broken
    with pytest.raises(ValueError, match=f"the {phase}'s loss after 0 pairs is nan"):
        machine.step(data[1], GIVEN)
    assert all(map(torch.equal, before, weights(machine)))


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_in_another_process_stops_this_one_too(toy, what):
    """All processes see the same means, so that all end in the same sentence before the update."""
    machine = make(toy)
    before = [w.clone() for w in weights(machine)]
    place = {"gradient": 0, "loss": -1}[what]
    machine.world = distiller.World(0, 2, lambda tensors: tensors[place].fill_(torch.nan))
    with pytest.raises(ValueError, match=f"the fake's {what} after 0 pairs is nan: stopped before"):
        machine.step(batches(1)[0], GIVEN)
    assert all(map(torch.equal, before, weights(machine)))


def test_half_an_update_of_one_process_is_not_shared_among_two(toy):
    """Its gradients would count twice; at the end of an update two may go on."""
    machine, other = make(toy, accumulate=2), make(toy)
    other.world = distiller.World(0, 2, lambda tensors: None)
    for x in batches(2):
        machine.step(x, GIVEN)
    other.load_state_dict(machine.state_dict())
    machine.step(batches(1)[0], GIVEN)
    with pytest.raises(ValueError, match="amid an update by one process; go on with one"):
        other.load_state_dict(machine.state_dict())


def test_gradients_are_clipped_by_their_norm_or_by_value(toy):
    """The gradients that the optimizer steps with, of an update whose own are larger."""
    (x0_BL,) = batches(1)
    free, by_norm, by_value = (
        make(toy, clip=clip, clip_by=by)
        for clip, by in ((0.0, "norm"), (0.01, "norm"), (0.01, "value"))
    )
    for machine in (free, by_norm, by_value):
        machine.step(x0_BL, GIVEN)
    flat, norm, value = (
        torch.cat([g.flatten() for g in machine._gradients("fake")])
        for machine in (free, by_norm, by_value)
    )
    assert flat.norm() > 0.01 and flat.abs().max() > 0.01
    torch.testing.assert_close(norm, flat * 0.01 / (flat.norm() + 1e-6))
    torch.testing.assert_close(value, flat.clamp(-0.01, 0.01))


def test_between_updates_all_parameters_are_differentiable(toy):
    """A host's average passes over the others: it would leave raw weights to be validated."""
    machine = make(toy, fake_warmup=1)
    for x0_BL in batches(4):
        machine.step(x0_BL, GIVEN)
        for network in machine.networks.values():
            assert all(p.requires_grad for p in network.backbone.parameters())


def test_how_many_updates_are_to_come(toy):
    machine = make(toy, fake_ratio=2, fake_warmup=3)
    assert machine.to_come(4) == {("fake",): 3 + 8, ("student",): 4}
    for x0_BL in batches(6):
        machine.step(x0_BL, GIVEN)
    assert machine.to_come(4) == {("fake",): 6, ("student",): 3}
    assert make(toy, shared_forward=True).to_come(5) == {("fake", "student"): 5}
