"""How far a training is: a bar of its updates, with the time that is left.

Updates of the fake and of the student cost differently, and the guard's looks at the student cost
more than either. So the time left is made of what is still to come of each, times what each took.
"""

import collections
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Mapping

import tqdm

RECENT = 20  # updates of a kind; their median is what the next one is expected to take


class Bar(tqdm.tqdm):
    """A bar that is refreshed twice a second at a terminal, and every 15 seconds in a file.

    ``told`` is {name: text} of more names that its ``bar_format`` may use.
    """

    def __init__(self, told: Iterable = (), **settings):
        self.told = dict(told)
        super().__init__(mininterval=0.5 if sys.stderr.isatty() else 15, **settings)

    @property
    def format_dict(self) -> dict:
        """tqdm's names for ``bar_format``, and those of ``told``."""
        return super().format_dict | self.told


class Progress:
    """The bar of a training.

    ``to_come`` is {kind: how many updates are left}, ``done`` the number of updates before them,
    ``unit`` the name of what counts. ``looks()`` gives the seconds that the looks to come will
    take.
    """

    FORMAT = (
        "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} updates, {unit} {steps} "
        "[{elapsed}<{left}, {pace}]{postfix}"
    )

    def __init__(
        self,
        to_come: Mapping,
        done: int,
        unit: str,
        looks: Callable[[], float] = lambda: 0.0,
        show: bool = True,
    ):
        self.to_come, self.looks = collections.Counter(to_come), looks
        self.recent = {kind: collections.deque(maxlen=RECENT) for kind in to_come}
        self.spent, self.started = 0.0, None
        self.bar = Bar(
            {"steps": "?", "left": "?", "pace": "?"},
            total=done + sum(to_come.values()),
            initial=done,
            unit=unit,
            bar_format=self.FORMAT,
            disable=not show,
        )

    def begin(self) -> None:
        """A micro-batch begins."""
        self.started = time.perf_counter()

    def end(
        self, kind: Hashable | None, steps: int, shown: Mapping[str, float] | None = None
    ) -> None:
        """A micro-batch has ended.

        ``kind`` is the kind of the update that it completed, None if it completed none. ``steps``
        is how many of ``unit`` are done, ``shown`` are numbers for the bar's end.
        """
        self.spent += time.perf_counter() - self.started
        if kind is None:
            return
        self.recent[kind].append(self.spent)
        self.spent = 0.0
        self.to_come[kind] -= 1
        self._tell(steps)
        if shown:
            self.bar.set_postfix({name: f"{x:.4f}" for name, x in shown.items()}, refresh=False)
        self.bar.update()

    def seconds_left(self) -> float:
        """Seconds that the rest will take. A kind that was not seen yet costs what the others
        cost."""
        seen = {kind: statistics.median(times) for kind, times in self.recent.items() if times}
        usual = statistics.mean(seen.values()) if seen else 0.0
        updates = sum(seen.get(kind, usual) * count for kind, count in self.to_come.items())
        return updates + self.looks()

    def _tell(self, steps):
        last = statistics.mean(times[-1] for times in self.recent.values() if times)
        left = self.bar.format_interval(self.seconds_left())
        self.bar.told = {"steps": steps, "left": left, "pace": f"{last:.2f} s an update"}

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()
