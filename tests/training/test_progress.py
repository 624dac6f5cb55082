"""duo_ext.training.progress: what the bar of a training says, by a clock that the test turns."""

import types

import pytest

from duo_ext.core.distiller import FAKE, STUDENT, Recipe
from duo_ext.training import guard, progress
from duo_ext.training.progress import Progress

SECONDS = {(FAKE,): 1.0, (STUDENT,): 3.0}
LOOK = 20.0
PAIRS, EVERY, WARMUP = 160, 40, 30


@pytest.fixture
def clock(monkeypatch):
    """``clock.now`` is what time.perf_counter gives to the bar."""
    time = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: time.now)
    return time


@pytest.fixture
def run(clock):
    """``run(pairs)``: a bar after so many pairs of a distillation, and the seconds that it takes
    from there to its end."""

    def updates():
        pair = 0
        for update in range(WARMUP + 2 * PAIRS):
            phase = Recipe(fake_warmup=WARMUP).phase(update)
            pair += phase == (STUDENT,)
            yield phase, pair, phase == (STUDENT,) and pair % EVERY == 0

    def make(pairs):
        phases = [phase for phase, *_ in updates()]
        done = types.SimpleNamespace(pair=0)
        bar = Progress(
            {phase: phases.count(phase) for phase in SECONDS}, 0, "pair",
            lambda: LOOK * (PAIRS // EVERY - done.pair // EVERY),
        )  # fmt: skip
        left = 0.0
        for phase, pair, look in updates():
            if pair > pairs or (pair == pairs and left):
                left += SECONDS[phase] + LOOK * look
                continue
            bar.begin()
            clock.now += SECONDS[phase]
            done.pair = pair
            bar.end(phase, pair, {"fake/loss": 2.5})
            clock.now += LOOK * look
            left = float(pair == pairs and phase == (STUDENT,)) and 1e-9
        return bar, left

    return make


@pytest.mark.parametrize("pairs", [10, 39, 40, 41, 120, 160])
def test_the_time_left_is_right_from_the_tenth_pair_on(run, pairs):
    bar, left = run(pairs)
    assert bar.seconds_left() == pytest.approx(left, rel=0.2, abs=1e-6)


def test_the_bar_says_updates_done_of_all_and_pairs(run):
    bar, _ = run(10)
    shown = str(bar.bar)
    assert "50/350 updates, pair 10 [" in shown and "fake/loss=2.5000" in shown
    assert "<11:20, 2.00 s an update]" in shown  # 150 pairs of 4 s and four looks of 20 s


def test_micro_batches_make_one_update_together(clock):
    bar = Progress({"step": 3}, 0, "step")
    for kind in (None, None, "step"):
        bar.begin()
        clock.now += 2.0
        bar.end(kind, 1)
    assert bar.bar.n == 1 and bar.seconds_left() == 12.0


def test_a_look_costs_what_the_last_measurement_took():
    every = types.SimpleNamespace(every=40, steps=[4, 8], samples=8, teacher_steps=32)
    watch = guard.Watch(every, None, 4, None, None, 1, took=(0.5, 3.0))
    assert watch.seconds_to_come(10, 160) == 4 * (5 * 0.5 + 3 + 9 * 0.5 + 3)
    assert watch.seconds_to_come(40, 160) == 3 * (5 * 0.5 + 3 + 9 * 0.5 + 3)
    assert watch.seconds_to_come(160, 160) == 0
