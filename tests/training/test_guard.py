"""duo_ext.training.guard: what is kept, when it stops, and the history that it writes."""

import contextlib
import itertools
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from omegaconf import OmegaConf

from duo_ext import Refused
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.samplers import ancestral, blank, grids
from duo_ext.measuring import metrics
from duo_ext.measuring.held_out import HeldOut
from duo_ext.measuring.judge import Scores
from duo_ext.ranks import ALONE, join
from duo_ext.training.guard import Bounds, Guard, Watch

TEACHER = {"genppl": 20.0, "entropy": 4.0, "unigram_kl": 0.001}
TEACHER |= {"word_length": 5.0, "held_out_word_length": 5.2}
BOUNDS = Bounds(entropy=0.02, unigram_kl=0.02, patience=3)


@pytest.fixture
def guard():
    return Guard(BOUNDS, TEACHER)


def row(genppl, entropy=4.0, unigram_kl=0.01, word_length=4.9):
    measured = {"genppl": genppl, "entropy": entropy, "unigram_kl": unigram_kl}
    return {**measured, "bigram_tv": 0.1, "word_length": word_length}


OUTSIDE = row(1.0, entropy=3.0)


def test_the_lowest_genppl_inside_is_kept(guard):
    looks = [row(30), row(20), OUTSIDE, row(25), row(10), row(10), row(9, unigram_kl=0.03)]
    found = [guard.judge(pair, {8: look}) for pair, look in enumerate(looks)]
    best = [True, True, False, False, True, False, False]
    assert found == [(is_best, False) for is_best in best]
    assert guard.kept == 4


def test_where_there_are_answers_the_most_right_ones_inside_are_kept(guard):
    """Of two numbers of steps together, whatever the GenPPL; the first of equals."""
    looks = [(20, 0.5, 0.5), (30, 0.5, 0.75), (9, 0.5, 0.5), (9, 0.75, 0.5), (9, 1.0, 0.9)]
    for pair, (genppl, *shares) in enumerate(looks):
        unigram_kl = 0.01 if pair < 4 else 9
        rows = [row(genppl, unigram_kl=unigram_kl) | {"accuracy": share} for share in shares]
        guard.judge(pair, dict(enumerate(rows)))
    assert [entry["best"] for entry in guard.history] == [True, True, False, False, False]
    assert guard.history[1]["score"] == pytest.approx(1 - 0.625) and guard.kept == 1


def test_what_is_kept_is_the_minimum_of_any_history():
    rng = random.Random(0)
    for _ in range(100):
        guard, inside, wanted = Guard(Bounds(patience=99), TEACHER), {}, None
        for pair in range(12):
            genppl, is_inside = rng.choice([5.0, 9.0, 30.0, math.nan]), rng.random() < 0.5
            guard.judge(pair, {4: row(genppl, entropy=4.0 if is_inside else 3.9)})
            if is_inside and genppl < min(inside.values(), default=math.inf):
                inside[pair], wanted = genppl, pair
        assert guard.kept == wanted


@pytest.mark.parametrize(
    ("look", "inside"),
    [
        (row(9, entropy=4.07), True),
        (row(9, entropy=3.93), True),
        (row(9, entropy=4.09), False),
        (row(9, entropy=3.91), False),
        (row(9, unigram_kl=0.0199), True),
        (row(9, unigram_kl=0.0201), False),
        (row(9, word_length=4.76), True),
        (row(9, word_length=4.74), False),
        (row(9, word_length=5.45), True),  # 5.2 in the held-out text
        (row(9, word_length=5.47), False),
        (row(9, word_length=None), False),
    ],
)
def test_the_bounds_are_relative_to_the_teacher_and_hold_on_both_sides(guard, look, inside):
    assert guard.judge(1, {8: look}) == (inside, False)
    assert guard.kept == (1 if inside else None)


@pytest.mark.parametrize("without", [{}, {"word_length": None}])
def test_a_teacher_of_no_words_binds_none(without):
    teacher = {key: TEACHER[key] for key in ("genppl", "entropy", "unigram_kl")} | without
    guard = Guard(BOUNDS, teacher)
    assert guard.judge(1, {8: row(9, word_length=None)}) == (True, False)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("key", ["genppl", "entropy", "unigram_kl"])
def test_a_look_that_is_not_finite_is_outside_and_hides_no_later_one(guard, key, value):
    assert guard.judge(1, {8: row(9) | {key: value}}) == (False, False)
    assert guard.judge(2, {8: row(50)}) == (True, False)
    assert guard.kept == 2


def test_all_steps_must_be_inside_and_the_score_is_their_geometric_mean(guard):
    assert guard.judge(1, {4: row(40), 8: row(10)}) == (True, False)
    assert guard.history[-1]["score"] == pytest.approx(20)
    assert guard.judge(2, {4: row(20), 8: OUTSIDE}) == (False, False)
    assert guard.judge(3, {4: row(30), 8: row(14)}) == (False, False)  # 20.5
    assert guard.judge(4, {4: row(19), 8: row(20)}) == (True, False)


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_it_stops_after_patience_looks_outside_in_a_row(patience):
    guard = Guard(Bounds(patience=patience), TEACHER)
    looks = [OUTSIDE] * (patience - 1) + [row(9)] + [OUTSIDE] * patience
    stops = [guard.judge(pair, {8: look})[1] for pair, look in enumerate(looks)]
    assert stops == [False] * (len(looks) - 1) + [True]


def test_being_inside_but_not_the_best_does_not_use_up_the_patience(guard):
    assert not any(guard.judge(pair, {8: row(9 + pair)})[1] for pair in range(10))


def test_a_restored_guard_goes_on_as_the_old_one_would():
    rng = random.Random(1)
    looks = [{8: row(rng.uniform(5, 50), entropy=rng.choice([3.0, 4.0]))} for _ in range(20)]
    straight, first = Guard(BOUNDS, TEACHER), Guard(BOUNDS, TEACHER)
    judged = [straight.judge(pair, look) for pair, look in enumerate(looks)]
    halves = [first.judge(pair, looks[pair]) for pair in range(9)]
    second = Guard(BOUNDS, **json.loads(json.dumps(first.state_dict())))  # plain values alone
    halves += [second.judge(pair, looks[pair]) for pair in range(9, 20)]
    assert halves == judged and second.kept == straight.kept
    assert second.state_dict() == straight.state_dict()


@pytest.mark.parametrize("place", ["local", "memory"])
def test_the_history_is_written_complete_in_strict_json(guard, tmp_path, place):
    path = str(tmp_path / "guard.json") if place == "local" else "memory://guard/guard.json"
    looks = [{4: row(9), 8: row(16)}, {4: row(math.nan), 8: OUTSIDE}, {4: row(7), 8: row(8)}]
    for pair, look in enumerate(looks):
        guard.judge(10 * pair, look)
        guard.write(path)
    with fsspec.open(path) as file:
        document = json.load(file, parse_constant=pytest.fail)
    assert document["bounds"] == {
        "entropy": 0.02,
        "unigram_kl": 0.02,
        "word_length": 0.05,
        "patience": 3,
    }
    assert document["teacher"] == TEACHER and document["kept"] == 20
    assert [entry["pair"] for entry in document["history"]] == [0, 10, 20]
    assert [entry["inside"] for entry in document["history"]] == [True, False, True]
    assert [entry["best"] for entry in document["history"]] == [True, False, True]
    assert document["history"][0]["rows"] == {"4": row(9), "8": row(16)}
    assert document["history"][0]["score"] == pytest.approx(12)
    assert document["history"][1]["rows"]["4"]["genppl"] is None
    assert math.isnan(guard.history[1]["rows"]["4"]["genppl"])  # the state keeps its own


@pytest.mark.parametrize("step", ["open", "mv"])
def test_a_failed_write_leaves_the_old_history(guard, tmp_path, monkeypatch, step):
    path = tmp_path / "guard.json"
    guard.judge(1, {8: row(9)})
    guard.write(str(path))
    old = path.read_bytes()
    guard.judge(2, {8: row(8)})

    def fail(self, *arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(LocalFileSystem, step, fail)
    with pytest.raises(OSError, match="disk full"):
        guard.write(str(path))
    assert path.read_bytes() == old


def test_a_reader_never_sees_half_a_history(guard, tmp_path, monkeypatch):
    path = tmp_path / "guard.json"
    guard.judge(1, {8: row(9)})
    guard.write(str(path))
    seen, move = [], LocalFileSystem.mv

    def watch(self, source, target, **options):
        files = [Path(name).read_text() for name in (source, target)]
        seen.extend(len(json.loads(text)["history"]) for text in files)
        move(self, source, target, **options)

    monkeypatch.setattr(LocalFileSystem, "mv", watch)
    guard.judge(2, {8: row(8)})
    guard.write(str(path))
    assert seen == [2, 1] and len(json.loads(path.read_text())["history"]) == 2


# the watch -----------------------------------------------------------------------------------

V, L = 5, 6
SETTINGS = OmegaConf.create(
    {"every": 1, "steps": [2, 3], "samples": 7, "teacher_steps": 4, "patience": 1}
    | {"entropy": 9.0, "unigram_kl": 9.0, "word_length": 9.0}
)


class Length:
    """A judge of a text's letters, which looks at what the processes share."""

    name = "letters"

    def warn_of_unread(self, texts):
        assert texts

    def score(self, texts, ranks):
        nll_N = numpy.array(ranks.shared(texts, lambda text: float(len(set(text)))))
        return Scores(nll_N, numpy.full(len(texts), L), numpy.zeros((len(texts), 1)))


@pytest.fixture
def watch(toy):
    """``watch(ranks)`` and the list of the tokens that it measures."""
    process, network = AbsorbingProcess(V, V - 1), toy(V, L)

    @contextlib.contextmanager
    def drawing(steps, teacher):
        times_K = grids.times("host", steps)

        def draw(size, uniforms, given):
            own, start = replace(process, uniforms=uniforms), blank(network, (size, L))
            return ancestral.sample(own, network, *start, times_K)

        yield draw

    def make(ranks=ALONE):
        seen = []

        class Numbers:
            """A tokenizer whose texts are the tokens' numbers."""

            def batch_decode(self, rows):
                return ["".join(map(str, row)) for row in torch.stack(rows).tolist()]

        class Seen(HeldOut):
            def texts(self, tokens_NL):
                seen.append(tokens_NL.tolist())
                return super().texts(tokens_NL)

        data = Seen(torch.arange(V - 1).repeat(3, 2), Numbers(), V)
        return Watch(SETTINGS, drawing, 2, Length(), data, seed=3, ranks=ranks), seen

    return make


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_processes_has_the_same_texts_and_the_same_guard(watch, in_processes, world):
    def looks(ranks=ALONE):
        own, seen = watch(ranks)
        found = own.begin().look(5)
        return seen, found, own.guard.state_dict()

    alone = looks()
    seen = alone[0]
    assert len({str(row) for tokens in seen for row in tokens}) > 15  # no batch is another again
    assert in_processes(world, lambda: looks(join("cpu")[1])) == [alone] * world


def test_a_run_goes_on_with_looks_that_compare(watch):
    own, _ = watch()
    state = own.begin().guard.state_dict()
    assert state["by"]["judge"] == "letters"
    again, _ = watch()
    assert again.begin(state).guard.state_dict() == state
    older = {key: state[key] for key in ("teacher", "history")}
    assert again.begin(older).guard.history == []
    for key, value in (("samples", 1), ("steps", [9]), ("judge", "another")):
        other = state | {"by": state["by"] | {key: value}}
        with pytest.raises(Refused, match=f"the guard's {key}: .* looks had"):
            again.begin(other)


def test_one_process_decides_where_another_would_not_agree(watch, in_processes, monkeypatch):
    """A look of another GPU may differ in its last bit, and the save that follows is of all."""
    measure = metrics.measure

    def looks():
        _, ranks = join("cpu")

        def differing(*given):
            """The second process would find each look a little better than the one before."""
            found = measure(*given)
            found["genppl"] *= 1 - ranks.rank * 1e-15 * next(count)
            return found

        count = itertools.count()
        monkeypatch.setattr(metrics, "measure", differing)
        own, _ = watch(ranks)
        own.begin()
        return [own.look(pair) for pair in (1, 2)], own.guard.state_dict(), own.guard.kept

    first, second = in_processes(2, looks)
    assert first == second
    assert [best for _, best, _ in first[0]] == [True, False]  # the same student twice


def test_a_guard_that_disagrees_takes_the_firsts_history(watch, in_processes):
    """Whatever a process remembers: its decision is the first one's."""

    def looks():
        _, ranks = join("cpu")
        own, _ = watch(ranks)
        own.begin()
        own.look(1)
        if ranks.rank:
            own.guard.history[-1]["score"] = 1e9
        return own.look(2)[1:], own.guard.state_dict()

    first, second = in_processes(2, looks)
    assert first == second and first[0] == (False, False)
