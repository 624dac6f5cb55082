"""Results as figures: GenPPL and entropy over steps, GenPPL over entropy."""

import io
import os
from collections import defaultdict
from typing import TypeAlias

from duo_ext.files import write_whole
from duo_ext.report.compare import order, plain, told_apart
from duo_ext.report.results import finite

Figure: TypeAlias = object  # matplotlib's, which is imported late
Axes: TypeAlias = object

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*"  # one more than colours: a pair of them comes again after 56 lines


def figure(drawing: Figure, path: str) -> None:
    """Write a matplotlib figure as a PNG, whole or not at all."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=150)
    write_whole(path, buffer.getvalue())


def blank(width: float, height: float) -> Figure:
    """An empty matplotlib figure, in inches.

    It needs no backend. So the one that MPLBACKEND names is not asked for: it may not be there.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib.figure
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")


def plot(results: dict) -> Figure:
    """A figure of three panels: GenPPL over steps, entropy over steps, GenPPL over entropy.

    The first two show the rows of temperature 1 and nucleus 1, with the 95 % intervals of GenPPL,
    and 2 % around the entropy of the teacher's largest number of steps; they are left out where
    there is no row to show. The third has one line for each model and number of steps over the
    temperatures sampled, or one point where there was one temperature.
    """
    drawing = blank(15, 5.2)
    drawing.get_layout_engine().set(w_pad=0.1)
    left, middle, right = drawing.subplots(1, 3)
    for index, (label, rows) in enumerate(_series(results["rows"]).items()):
        style = line_style(index, rows[0]["model"])
        _plot_steps(left, middle, plain(rows), label, style)
        _plot_entropy(right, rows, style)
    name = results["judge"]["name"]
    heldout = results["judge"]["heldout_ppl"]
    if heldout is not None:
        left.axhline(heldout, color="0.45", linestyle=":", label="held-out text")
    ppl, entropy = f"GenPPL under {name}", "entropy of a sample (nats)"
    dress(left, "steps", ppl, "shaded: 95 % intervals")
    dress(middle, "steps", entropy, "shaded: within 2 % of the teacher at its most steps")
    dress(right, entropy, ppl, "numbers: steps")
    sampled_plainly = bool(plain(results["rows"]))
    for axes in (left, middle):  # without a point they have no scale
        axes.set_visible(sampled_plainly)
    handles, labels = left.get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return drawing


def with_interval(
    axes: Axes, x: list, y: list, low: list, high: list, label: str, style: dict
) -> None:
    """A line in a ``line_style``, its intervals shaded."""
    axes.plot(x, y, label=label, **style)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)


def line_style(index: int, model: str) -> dict:
    """How the index-th line of a panel looks; a teacher's is dashed."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": "--" if model == "teacher" else "-",
        "markersize": 5,
    }


def _series(rows: list[dict]) -> dict[str, list[dict]]:
    """Rows by model, name and whatever else varies but steps, temperature and nucleus."""
    series = defaultdict(list)
    for row in sorted(rows, key=order):
        series[f"{row['model']} {told_apart(row, rows)}"].append(row)
    return series


def _plot_steps(ppl_axes, entropy_axes, rows: list[dict], label: str, style: dict) -> None:
    """One series in both panels over steps; for a teacher the 2 % band around its last entropy."""
    rows = sorted(rows, key=lambda row: row["steps"])
    steps, ppl, low, high, entropy = (
        [row[key] for row in rows]
        for key in ("steps", "genppl", "genppl_low", "genppl_high", "entropy")
    )
    with_interval(ppl_axes, steps, ppl, low, high, label, style)
    entropy_axes.plot(steps, entropy, **style)
    if rows and rows[-1]["model"] == "teacher" and finite(rows[-1], "entropy"):
        band = (0.98 * entropy[-1], 1.02 * entropy[-1])
        entropy_axes.axhspan(*band, color=style["color"], alpha=0.12, linewidth=0)


def _plot_entropy(axes, rows: list[dict], style: dict) -> None:
    """One series in the panel over entropy: a line per number of steps, labelled with it."""
    by_steps = defaultdict(list)
    for row in rows:
        if finite(row, "genppl", "entropy"):
            by_steps[row["steps"]].append((row["entropy"], row["genppl"]))
    for steps, points in by_steps.items():
        axes.plot(*zip(*points, strict=True), **style)
        axes.annotate(
            str(steps), points[-1], xytext=(5, 3), textcoords="offset points",
            fontsize=8, color=style["color"],
        )  # fmt: skip


def dress(axes: Axes, xlabel: str, ylabel: str, title: str) -> None:
    """Words, scales and grid of a panel; steps and evaluations in powers of two, GenPPL in powers
    of ten."""
    from matplotlib.ticker import LogFormatter

    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title, fontsize=9, color="0.35")
    if xlabel in ("steps", "evaluations"):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
    if ylabel.startswith("GenPPL"):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(3, 0.4)))
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
