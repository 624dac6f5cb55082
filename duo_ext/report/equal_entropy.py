"""GenPPL of models at the entropy of their teachers, to which temperature moves them.

GenPPL alone can be had by a lower temperature. So a model is sampled at several, and log GenPPL is
interpolated at the entropy that its teacher has at temperature 1, sampled plainly: by the host's
sampler.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from duo_ext.report.compare import (
    interpolate_at_entropy,
    label,
    lines,
    over_steps,
    plain,
    seeds_joined,
    under_the_host,
)
from duo_ext.report.figures import Axes, Figure, blank, dress, line_style, with_interval
from duo_ext.report.results import finite
from duo_ext.report.tables import markdown, measured, number, perplexity

REFERENCES = (16, 32, 64, 128)  # steps of the plain teacher
DRAWN = 64  # that whose entropy is the figure's, or the next below that there is
FILLS = ("full", "none", "bottom")  # of the markers, for the samplers of a model


@dataclass(frozen=True)
class Moved:
    """A model under one sampler in some steps, and where its teacher's entropies move it."""

    teacher: str
    name: str
    sampler: str  # as ``compare.lines`` tells it
    evaluations: int
    seeds: int
    unigram_kl: float  # at temperature 1, the mean over the seeds
    # by steps of the plain teacher: (GenPPL, the ends of its interval, whether that lies beyond
    # the temperatures)
    at: dict[int, tuple[float, float, float, bool]]


def comparisons(rows: list[dict]) -> list[tuple[dict[int, dict], list[Moved]]]:
    """For each teacher and last step: its plain rows by steps, and all that is compared with them:
    what was made from it, and itself by other samplers, by evaluations."""
    joined, taught = seeds_joined(rows), {row.get("after") for row in rows}
    found = defaultdict(lambda: ({}, []))
    for (family, name, sampler), line in lines(rows).items():
        for teacher in _teachers(line[0], taught):
            references = _references(joined, teacher, line[0])
            group, own = found[family, teacher, line[0]["noise_removal"]]
            group |= references
            own += _moved_line(teacher, name, sampler, line, references)
    groups = [(group, sorted(own, key=lambda m: m.evaluations)) for group, own in found.values()]
    return [(group, own) for group, own in groups if group and own]


def _teachers(row, taught):
    """What a row's line is compared with: its teacher, and itself where it has taught others, which
    may be one; a plain line is not compared with itself."""
    names = [row.get("after") or row.get("family"), *[row["name"]] * (row["name"] in taught)]
    return [
        name for name in dict.fromkeys(names) if (name, "host") != (row["name"], row["sampler"])
    ]


def _references(joined, teacher, own):
    return {
        row["steps"]: row
        for row in under_the_host(plain(joined), own)
        if row["name"] == teacher and row["steps"] in REFERENCES and finite(row, "entropy")
    }


def _moved_line(teacher, name, sampler, line, references):
    """A ``Moved`` for each number of steps in which some seed was sampled over temperatures."""
    for steps in sorted({row["steps"] for row in line}) if references else ():
        found = frontiers([row for row in line if row["steps"] == steps])
        if not found:
            continue
        own = [row for row in plain(line) if row["steps"] == steps]
        yield Moved(
            *(teacher, name, sampler, own[0]["evaluations"], len(found)),
            float(np.mean([row["unigram_kl"] for row in own])),
            {at: _mean(found, row["entropy"]) for at, row in references.items()},
        )


def frontiers(rows: list[dict]) -> list[list[dict]]:
    """The rows of each seed that was sampled at several temperatures, one of them 1, as far as they
    have GenPPL and entropy."""
    found = defaultdict(list)
    for row in rows:
        if row["nucleus"] == 1 and finite(row, "genppl", "entropy"):
            found[row.get("distillation_seed")].append(row)
    return [
        own
        for own in found.values()
        if len({row["entropy"] for row in own}) > 1 and any(row["temperature"] == 1 for row in own)
    ]


def _mean(frontiers, entropy):
    """The mean of all seeds, each moved by itself, and the outermost ends of their intervals."""
    moved = [_moved(frontier, entropy) for frontier in frontiers]
    values, lows, highs, beyond = zip(*moved, strict=True)
    return float(np.mean(values)), min(lows), max(highs), any(beyond)


def _moved(frontier, entropy):
    """GenPPL at an entropy, the ends of its interval, and whether that lies beyond the rows; the
    interval has the relative width of that at temperature 1."""
    points = [(row["entropy"], row["genppl"]) for row in frontier]
    value, beyond = interpolate_at_entropy(points, entropy)
    own = next(row for row in frontier if row["temperature"] == 1)
    low, high = (value * own[f"genppl_{end}"] / own["genppl"] for end in ("low", "high"))
    return value, low, high, beyond


def section(rows: list[dict]) -> str:
    """The comparisons as a table, a column for each number of steps of the plain teachers."""
    groups = comparisons(rows)
    steps = sorted({at for group, _ in groups for at in group})
    body = []
    for group, own in groups:
        teacher = own[0].teacher
        cells = [measured(group[at]) if at in group else "" for at in steps]
        body.append([teacher, "plain, at its own entropy", "", "", "", *cells])
        for moved in own:
            cells = [_cell(moved.at[at], group[at]) if at in group else "" for at in steps]
            told = [label(moved.name, moved.sampler), str(moved.evaluations), str(moved.seeds)]
            body.append([teacher, *told, number(moved.unigram_kl, ".4f"), *cells])
    if not body:
        return ""
    head = ["teacher", "method", "evaluations", "seeds", "unigram KL"]
    head += [f"at {at} steps" for at in steps]
    return (
        "## At equal entropy\n\nGenPPL of each method at the entropy that its teacher has in so "
        "many steps of the host's sampler: each seed over temperatures, log GenPPL interpolated, "
        "then the mean, and the outermost ends of the 95 % intervals; * beyond the temperatures. "
        "Bold: no more than the teacher's own. Unigram KL: at temperature 1.\n\n"
        f"{markdown(head, body)}"
    )


def _cell(moved, reference):
    value, low, high, beyond = moved
    shown = f"**{perplexity(value)}**" if value <= reference["genppl"] else perplexity(value)
    return f"{shown}{'*' * beyond} [{perplexity(low)}, {perplexity(high)}]"


def plot(results: dict) -> Figure | None:
    """A panel for each teacher: GenPPL over network evaluations of what is compared with it, at the
    entropy of the plain teacher in 64 steps, and the plain teacher as it is. None where nothing is
    compared."""
    groups = comparisons(results["rows"])
    if not groups:
        return None
    drawing = blank(4.4 * len(groups), 5.6)
    panels = drawing.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, (references, own) in zip(panels, groups, strict=True):
        at = max(steps for steps in references if steps <= max(DRAWN, min(references)))
        named = f"{references[at]['name']}, plain, its own entropy"
        draw_plain(axes, results["rows"], references[at], named)
        _draw_moved(axes, own, at)
        teacher, entropy = own[0].teacher, references[at]["entropy"]
        title = f"at the entropy of {teacher} in {at} steps ({entropy:.3f})"
        dress(axes, "evaluations", f"GenPPL under {results['judge']['name']}", title)
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}
        axes.legend(fontsize=8, frameon=False, **place)
    return drawing


def draw_plain(axes: Axes, rows: list[dict], reference: dict, named: str) -> None:
    """The plain teacher over its evaluations, at temperature 1; dotted, in the steps of the
    ``reference``, its row."""
    own = [row for row in seeds_joined(rows) if row["name"] == reference["name"]]
    line = over_steps(under_the_host(own, reference))
    points = [(row["evaluations"], row["genppl"]) for row in line]
    axes.plot(*zip(*points, strict=True), label=named, color="0.3", marker=".", linestyle="--")
    axes.axhline(reference["genppl"], color="0.45", linestyle=":")


def _draw_moved(axes, own, at):
    """A line for each model and sampler; a model's have one colour, and other markers inside."""
    by_line, of_name = defaultdict(list), defaultdict(list)
    for moved in own:
        by_line[moved.name, moved.sampler].append((moved.evaluations, *moved.at[at][:3]))
    for (name, sampler), points in by_line.items():
        of_name[name].append(sampler)
        style = line_style(
            list(of_name).index(name), "teacher" if name == own[0].teacher else "student"
        )
        style["fillstyle"] = FILLS[(len(of_name[name]) - 1) % len(FILLS)]
        with_interval(axes, *zip(*points, strict=True), label(name, sampler), style)
