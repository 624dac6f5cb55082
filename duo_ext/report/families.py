"""Families of methods in one table and figure, with the paper's published rows apart.

A family is a teacher with all that was made from it; its rows of results.json carry its name under
``family``, and under ``after`` that of the method whose student was their teacher. Published rows
have another judge, data and scale: they are never in one column with measured ones.
"""

import itertools
import json
from collections import defaultdict
from pathlib import Path

from duo_ext.report import equal_entropy
from duo_ext.report.compare import label, lines, over_steps, plain, seeds_joined
from duo_ext.report.figures import Figure, blank, dress, line_style, with_interval
from duo_ext.report.results import finite
from duo_ext.report.tables import markdown, measured, number

FRONTIER_STEPS = (4, 8, 16)
PUBLISHED = Path(__file__).with_name("published.json")


def page(results: dict) -> str:
    """The Markdown that stands above the full table: methods over steps, equal entropy, published.

    ``results`` has a row for each seed; they are joined here.
    """
    rows = results["rows"]
    parts = [
        "## Methods over steps\n",
        "GenPPL / sample entropy (nats), at temperature 1; over several seeds of distillation the "
        "mean, and in brackets the lowest and the highest end of their 95 % intervals.\n",
        methods(seeds_joined(rows)),
        equal_entropy.section(rows),
        trainings(results.get("distillations", []), rows),
        "## Published\n",
        "Not measured here: GenPPL under GPT-2 large / entropy, OpenWebText, 169 M parameters, "
        "L = 1024.\n",
        published(),
    ]
    return "\n".join(part for part in parts if part)


def methods(rows: list[dict]) -> str:
    """Table of all methods, a column for each number of steps that any of them was sampled at."""
    steps = sorted({row["steps"] for row in plain(rows)})
    body = []
    for (family, name, sampler), line in lines(rows).items():
        cells = {row["steps"]: measured(row).replace(" [", "<br>[") for row in plain(line)}
        body.append([family or "", label(name, sampler), *(cells.get(step, "") for step in steps)])
    return markdown(["family", "method", *map(str, steps)], body)


def trainings(entries: list[dict], rows: list[dict]) -> str:
    """What each training took, as the mean over its seeds, and the pair that each seed's guard
    kept; below it the hours of all trainings, and of sampling all rows."""
    by_name = defaultdict(list)
    for entry in entries:
        by_name[entry["name"]].append(entry)
    body = []
    for name, own in by_name.items():
        means = [
            number(_mean(own, key), spec)
            for key, spec in (("updates", ".0f"), ("seconds", ".0f"), ("updates_per_second", ".3g"))
        ]
        kept = ", ".join(str(entry.get("kept_pair") or "none") for entry in own)
        body.append([name, str(len(own)), *means, kept])
    if not body:
        return ""
    head = ["training", "seeds", "updates", "seconds", "updates/s", "kept after"]
    trained, sampled = (
        sum(entry["seconds"] for entry in own if finite(entry, "seconds")) / 3600
        for own in (entries, rows)
    )
    return (
        "## Trainings\n\nAn update is a pair of IDLM or a step of any other training. "
        "The seconds are the program's, its start and the guard's looks among them.\n\n"
        f"{markdown(head, body)}\n"
        f"One program at a time: {trained:.1f} hours of training, {sampled:.1f} of sampling.\n"
    )


def _mean(entries, key):
    """The mean over all entries, None where one has no number."""
    known = all(finite(entry, key) for entry in entries)
    return sum(entry[key] for entry in entries) / len(entries) if known else None


def published() -> str:
    """The paper's own numbers (published.json) as a table over steps."""
    lines = json.loads(PUBLISHED.read_text())["methods"]
    steps = sorted({int(step) for line in lines.values() for step in line})
    body = []
    for name, line in lines.items():
        cells = {int(step): f"{ppl:.2f} / {entropy:.2f}" for step, (ppl, entropy) in line.items()}
        body.append([name, *(cells.get(step, "") for step in steps)])
    return markdown(["method", *map(str, steps)], body)


def plot(results: dict) -> Figure:
    """A figure with a column for each family: GenPPL over steps, and below it, for each number of
    steps, GenPPL over entropy of the seeds that were sampled over temperatures.

    ``results`` has a row for each seed; the lines show their means.
    """
    families = list(dict.fromkeys(row["family"] for row in results["rows"] if row.get("family")))
    panels = 1 + len(FRONTIER_STEPS)
    drawing = blank(5 * len(families), 3.4 * panels + 1.5)
    axes = drawing.subplots(panels, len(families), sharey="row", squeeze=False)
    judge = results["judge"]
    ppl = f"GenPPL under {judge['name']}"
    for column, family in enumerate(families):
        above, *below = axes[:, column]
        rows = [row for row in results["rows"] if row.get("family") == family]
        for index, ((_, name, sampler), line) in enumerate(lines(rows).items()):
            style = line_style(index, line[0]["model"])
            _plot_steps(above, line, f"{name} {sampler}".strip(), style)
            for steps, panel in zip(FRONTIER_STEPS, below, strict=True):
                frontiers = equal_entropy.frontiers([row for row in line if row["steps"] == steps])
                chosen = seeds_joined(list(itertools.chain.from_iterable(frontiers)))
                chosen.sort(key=lambda row: row["temperature"])
                entropy, ppls = ([row[key] for row in chosen] for key in ("entropy", "genppl"))
                panel.plot(entropy, ppls, **style)
        if judge["heldout_ppl"] is not None:
            above.axhline(judge["heldout_ppl"], color="0.45", linestyle=":", label="held-out text")
        dress(above, "steps", ppl, family)
        for steps, panel in zip(FRONTIER_STEPS, below, strict=True):
            dress(panel, "entropy of a sample (nats)", ppl, f"{steps} steps")
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2)}
        below[-1].legend(*above.get_legend_handles_labels(), fontsize=8, frameon=False, **place)
    return drawing


def _plot_steps(axes, line, label, style):
    """A line of the table over steps, with its 95 % intervals."""
    rows = over_steps(seeds_joined(line))
    steps = [row["steps"] for row in rows]
    low, ppl, high = ([row[key] for row in rows] for key in ("genppl_low", "genppl", "genppl_high"))
    with_interval(axes, steps, ppl, low, high, label, style)
