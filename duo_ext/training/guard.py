"""The entropy guard: which student of a distillation is kept, and when the distillation stops.

Distilled too long a student trades diversity for likelihood: GenPPL goes on falling while the
entropy collapses, or its words become short ones. So the guard keeps the student with the lowest
GenPPL among those whose samples stay near the teacher's entropy, near the data's unigrams, and near
the length of words that teacher and data have.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields

import tqdm
from omegaconf import DictConfig

from duo_ext import Refused
from duo_ext.core.distiller import Distiller
from duo_ext.files import write_whole
from duo_ext.measuring import draws, metrics, words
from duo_ext.measuring.held_out import HeldOut, accuracy
from duo_ext.measuring.judge import Judge
from duo_ext.ranks import ALONE, Ranks
from duo_ext.training.progress import Bar


@dataclass(frozen=True)
class Bounds:
    """What a student may differ by, and how many looks in a row it may differ by more."""

    entropy: float = 0.02  # relative, from the teacher's
    unigram_kl: float = 0.02  # nats, from the held-out text's
    word_length: float = 0.05  # relative, from the teacher's and the held-out text's
    patience: int = 3


@dataclass
class Guard:
    """Judges one evaluation of the student after the other."""

    bounds: Bounds
    teacher: dict  # the teacher's metrics
    history: list = field(default_factory=list)  # one entry for each evaluation
    by: dict = field(default_factory=dict)  # how it is measured: steps, samples, judge

    def judge(self, pair: int, rows: dict[int, dict]) -> tuple[bool, bool]:
        """Take in the metrics of the student after ``pair`` pairs: {steps: metrics}.

        Returns (best so far, stop). A student is inside the bounds if it is at every number of
        steps. The best of the students inside has the fewest wrong answers or, where the data has
        none, the lowest geometric mean of GenPPL over the numbers of steps.
        """
        score = self._score(list(rows.values()))
        inside = math.isfinite(score) and all(self._inside(row) for row in rows.values())
        best = inside and score < min(
            (e["score"] for e in self.history if e["inside"]), default=1e999
        )
        entry = {"pair": pair, "score": score, "inside": inside, "best": best}
        self.history.append(entry | {"rows": {str(steps): row for steps, row in rows.items()}})
        return best, self.stops

    def _score(self, rows):
        if "accuracy" in rows[0]:
            return 1 - sum(row["accuracy"] for row in rows) / len(rows)
        return math.exp(sum(math.log(row["genppl"]) for row in rows) / len(rows))

    @property
    def stops(self) -> bool:
        """Whether the last ``patience`` students were all outside."""
        recent = self.history[-self.bounds.patience :]
        return len(recent) == self.bounds.patience and not any(e["inside"] for e in recent)

    def _inside(self, row):
        entropy = self.teacher["entropy"]
        near = abs(row["entropy"] - entropy) <= self.bounds.entropy * entropy
        return near and row["unigram_kl"] <= self.bounds.unigram_kl and self._worded(row)

    def _worded(self, row):
        """Whether words are neither shorter nor longer than the teacher's and the held-out text's,
        but for the bound. A text may have no words, and looks of earlier versions say nothing."""
        wanted = [self.teacher.get(key) for key in ("word_length", "held_out_word_length")]
        wanted = [length for length in wanted if length is not None]
        if not wanted:
            return True
        found, bound = row["word_length"] or 0.0, self.bounds.word_length
        return (1 - bound) * min(wanted) <= found <= (1 + bound) * max(wanted)

    @property
    def kept(self) -> int | None:
        """The pair whose student is kept, or None."""
        return next((e["pair"] for e in reversed(self.history) if e["best"]), None)

    def state_dict(self) -> dict:
        """What a guard is made from again: ``Guard(bounds, **state)``."""
        return {"teacher": self.teacher, "history": self.history, "by": self.by}

    def write(self, path: str) -> None:
        """Write the history to ``path`` as JSON, whole or not at all; nan becomes null."""
        document = {"bounds": asdict(self.bounds), "kept": self.kept, **self.state_dict()}
        finite = json.loads(json.dumps(document), parse_constant=lambda name: None)
        write_whole(path, json.dumps(finite, indent=1).encode())


@dataclass
class Watch:
    """Samples the student of a running distillation, and asks the guard.

    ``settings`` are a configuration's algo.guard; ``sampler(steps, teacher)`` is a context that
    gives draw(size, uniforms, given) -> tokens (size, L) of the EMA student, or of the teacher.
    What is given is ``held_out``'s prompts, where it has some. ``ranks``
    are the processes of the run: they share texts and scores, which are the same for any number of
    them, and the first one measures and decides for all. ``took`` are the seconds of the last
    measurement: of a network evaluation, of scoring the texts.
    """

    settings: DictConfig  # algo.guard
    sampler: Callable
    batch_size: int  # texts drawn at a time
    judge: Judge
    held_out: HeldOut
    seed: int
    ranks: Ranks = ALONE
    took: tuple = (0.0, 0.0)  # seconds of a network evaluation, and of scoring, when last measured

    def begin(self, saved: dict | None = None) -> "Watch":
        """Measure the teacher, or go on where ``saved``, the guard's state, left it.

        Raises Refused where ``saved`` was measured otherwise, with which no look compares.
        """
        bounds = Bounds(**{field.name: self.settings[field.name] for field in fields(Bounds)})
        by = {key: self.settings[key] for key in ("samples", "teacher_steps")}
        by |= {"steps": list(self.settings.steps), "judge": self.judge.name}
        if not saved:
            if self.ranks.first:
                self.judge.warn_of_unread(self.held_out.some(self.settings.samples))
            steps = self.settings.teacher_steps
            with self._bar(f"the teacher at {steps} steps", 1) as bar:
                measured = self._measure(bar, steps, teacher=True)
            teacher = measured | {"held_out_word_length": self.held_out.word_length}
            saved = {"teacher": teacher, "by": by}
        for key, before in saved.get("by", {}).items():
            if by[key] != before:
                raise Refused(
                    f"the guard's {key}: {by[key]}; the run's looks had {before}, and do not "
                    "compare with others"
                )
        self.guard = Guard(bounds, **saved)
        return self

    def due(self, pair: int) -> bool:
        """Whether a look is due after so many pairs."""
        return pair % self.settings.every == 0

    def look(self, pair: int) -> tuple[dict[int, dict], bool, bool]:
        """Measure the student and ask the guard: ({steps: metrics}, best so far, stop).

        The three are the same in all processes.
        """
        with self._bar(f"look at the student of {pair} pairs", len(self.settings.steps)) as bar:
            rows = {steps: self._measure(bar, steps) for steps in self.settings.steps}
        best, stop, history = self.ranks.agree(
            lambda: (*self.guard.judge(pair, rows), self.guard.history)
        )
        self.guard.history = history
        return rows, best, stop

    def record(self, path: str, pair: int, stop: bool) -> None:
        """Write the history to ``path``, and tell a person if the guard stops the run."""
        if self.ranks.first:
            self.guard.write(path)
            if stop:
                tqdm.tqdm.write(f"the guard stops the distillation after {pair} pairs")

    def conclude(self, best: str, last: str) -> None:
        """Tell a person which of two checkpoints holds the student that the run has come to.

        ``best`` is the path of the one that the guard keeps, ``last`` of the last.
        """
        if self.ranks.first:
            kept = self.guard.kept
            print(
                f"kept the student after {kept} pairs: {best}"
                if kept
                else f"no student was inside the guard's bounds; the last is {last}"
            )

    def seconds_to_come(self, pair: int, pairs: int) -> float:
        """Seconds that the looks after ``pair`` and up to ``pairs`` pairs will take, by the last
        measurement."""
        evaluation, scoring = self.took
        look = sum((steps + 1) * evaluation + scoring for steps in self.settings.steps)
        return look * (pairs // self.settings.every - pair // self.settings.every)

    def _bar(self, name, measurements):
        texts = measurements * self.settings.samples
        return Bar(desc=name, total=texts, unit="text", leave=False, disable=not self.ranks.first)

    def _measure(self, bar, steps, teacher=False):
        def batch(size, *numbers):
            tokens_BL = draw(size, *numbers)
            bar.update(min(size * self.ranks.world, bar.total - bar.n))  # the others draw as well
            return tokens_BL

        start, count = time.perf_counter(), self.settings.samples
        given = self.held_out.given(count)
        with self.sampler(steps, teacher) as draw:
            tokens_NL = draws.shared(batch, count, self.batch_size, self.seed, self.ranks, given)
        drawn = time.perf_counter()
        texts = self.held_out.texts(tokens_NL)
        scores = self.judge.score(texts, self.ranks)
        measured = self.ranks.agree(lambda: self._numbers(tokens_NL, texts, scores))
        self.took = ((drawn - start) / (steps + 1), time.perf_counter() - drawn)
        return measured

    def _numbers(self, tokens_NL, texts, scores):
        written, right = self.held_out.written(tokens_NL), self.held_out.right(texts)
        return {
            **metrics.measure(written, scores, self.held_out.reference, self.seed),
            "word_length": words.length(texts),
            **({} if right is None else accuracy(right)),
        }


def logged(rows: dict[int, dict], distiller: Distiller) -> dict[str, float]:
    """What a person would plot of a look at the student: {"guard/genppl_8": ...}, and how much of
    its gradient rounding leaves (``core.rounding``)."""
    keys = ("genppl", "entropy", "unigram_kl", "bigram_tv", "word_length", "accuracy")
    found = {
        f"guard/{key}_{steps}": row[key]
        for steps, row in rows.items()
        for key in keys
        if row.get(key) is not None
    }
    return found | {"guard/gradient_cosine": distiller.gradient_cosine()}
