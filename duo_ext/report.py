"""results.json -> table.md and figure.png: ``python -m duo_ext.report FOLDER...``

A folder holds one results.json, hence one judge; tables of different judges are never merged. Rows
compare only where sampler, precision and family (a teacher with what was made from it) agree.
GenPPL means little alone, so that every comparison here keeps the entropy beside it or fixes it.
Rows of several seeds of one distillation become one.
"""

import argparse
import io
import json
import math
import os
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from duo_ext import Refused
from duo_ext.files import opened, write_whole

METRICS = ("genppl", "genppl_low", "genppl_high", "entropy", "unigram_kl", "bigram_tv")
SAMPLER = ("sampler", "predictor", "noise_removal", "precision")
SETTINGS = ("sampler", "predictor", "noise_removal", "temperature", "nucleus", "precision")
SETTINGS += ("samples", "seed")
PEERS = ("family", *SAMPLER)  # rows compare only where these agree
MEASURED = (*METRICS, "seconds")
ROW_KEYS = {"model", "name", "algo", "steps", "evaluations", "seconds", *SETTINGS, *METRICS}
ROW_KEYS -= {"sampler"}  # of rows from before there was a choice: the host's
WORDS = ("name", "algo", "sampler", "predictor", "noise_removal", "precision")
TRAINING = ("updates", "seconds", "updates_per_second", "kept_pair")
MODELS = ("teacher", "student", "judge")
NUMBERS = {
    "genppl": ("GenPPL [95 %]", ""),
    "entropy": ("entropy", ".3f"),
    "unigram_kl": ("unigram KL", ".4f"),
    "bigram_tv": ("bigram TV", ".3f"),
    "mauve": ("MAUVE", ".3f"),
    "seconds": ("seconds", ".1f"),
}

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*"  # one more than colours: a pair of them comes again after 56 lines


# ---------------------------------------------------------------------------------------- files


def load(folder: str) -> dict:
    """The results in ``folder``/results.json (a path or any URL that fsspec opens), checked.

    A metric that is null or infinite becomes nan; a row without ``sampler`` is the host's. Raises
    Refused when the file is missing, is not JSON or lacks something that the table needs.
    """
    path = f"{folder}/results.json"
    try:
        with opened(path) as file:
            results = json.load(file)
    except FileNotFoundError:
        raise Refused(f"{path} does not exist; an evaluation writes it") from None
    except ValueError as error:
        raise Refused(f"{path} is not JSON ({error})") from None
    _check(results, path)
    results["judge"]["heldout_ppl"] = _finite(results["judge"]["heldout_ppl"])
    for row in results["rows"]:
        row.setdefault("sampler", "host")
        row.update({key: math.nan for key in MEASURED if not finite(row, key)})
    return results


def save(results: dict, folder: str) -> None:
    """Write ``folder``/results.json whole or not at all; nan and infinities become null.

    ``folder`` is a path or any URL that fsspec writes; it is made where it is missing.
    """
    text = json.dumps(_finite(results), indent=1, allow_nan=False)
    write_whole(f"{folder}/results.json", text.encode())


def render(folder: str) -> None:
    """Rewrite ``folder``/table.md and ``folder``/figure.png from ``folder``/results.json."""
    from duo_ext import overview  # it uses this module

    results = load(folder)
    joined = results | {"rows": seeds_joined(results["rows"])}
    text, families = page(joined), any("family" in row for row in results["rows"])
    if families:
        text = f"{overview.page(results)}\n## All rows\n\n{text}"
    write_whole(f"{folder}/table.md", text.encode())
    figure(overview.draw(results) if families else draw(joined), f"{folder}/figure.png")


def _check(results, path: str) -> None:
    """Refused unless ``results`` has the parts of the schema that this module reads."""
    if not isinstance(results, dict) or not isinstance(results.get("rows"), list):
        raise Refused(f"{path} has no list of rows; it must be the results of an evaluation")
    if not results["rows"]:
        raise Refused(f"{path} has no rows; an evaluation writes at least one")
    judge = results.get("judge")
    present = {*results, *(f"judge.{key}" for key in judge)} if isinstance(judge, dict) else results
    missing = {"judge.name", "judge.heldout_ppl", "hardware", "command"}.difference(present)
    if missing:
        raise Refused(f"{path} lacks {', '.join(sorted(missing))}")
    if not _is_number(judge["heldout_ppl"], or_null=True):
        raise Refused(
            f"{path} has judge.heldout_ppl {judge['heldout_ppl']!r}; wanted: a positive number"
        )
    if not _are_trainings(results.get("distillations", [])):
        raise Refused(
            f"{path} has distillations; wanted: a list of objects, each with a name and numbers"
        )
    for number, row in enumerate(results["rows"]):
        missing = ROW_KEYS - row.keys() if isinstance(row, dict) else ROW_KEYS
        if missing:
            raise Refused(f"{path}: row {number} lacks {', '.join(sorted(missing))}")
        if row["model"] not in MODELS:
            raise Refused(
                f"{path}: row {number} has model {row['model']!r}; wanted: {', '.join(MODELS)}"
            )
        _check_row(row, f"{path}: row {number}")


def _check_row(row: dict, named: str) -> None:
    """Refused unless what a row has is of the types that this module and ``overview`` read."""
    for key in WORDS:
        if not isinstance(row.get(key, ""), str):
            raise Refused(f"{named} has {key} {row[key]!r}; wanted: a text")
    for key in ("family", "after"):
        if not isinstance(row.get(key), str | None):
            raise Refused(f"{named} has {key} {row[key]!r}; wanted: a text")
    if not isinstance(row.get("distillation_seed"), str | int | float | None):
        raise Refused(f"{named} has distillation_seed {row['distillation_seed']!r}; wanted: one")
    for key in ("steps", "temperature", "nucleus", "evaluations", "samples"):
        if not _is_number(row[key]):
            raise Refused(f"{named} has {key} {row[key]!r}; wanted: a positive number")
    for key in (*MEASURED, "mauve", "seed"):
        positive = key.startswith("genppl") or key == "seconds"
        if not _is_number(row.get(key), positive, or_null=key != "seed"):
            wanted = "a positive number" if positive else "a number"
            raise Refused(f"{named} has {key} {row[key]!r}; wanted: {wanted}")


def _is_number(value, positive: bool = True, or_null: bool = False) -> bool:
    """Whether a value is a number; one that is not finite stands for null."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return value is None and or_null
    return not (positive and value <= 0) and (or_null or math.isfinite(value))


def _are_trainings(entries) -> bool:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return False
    return all(
        isinstance(entry.get("name"), str)
        and all(_is_number(entry.get(key), positive=False, or_null=True) for key in TRAINING)
        for entry in entries
    )


def finite(row: dict, *keys: str) -> bool:
    """Whether a row has a number for each of the keys."""
    return all(row.get(key) is not None and math.isfinite(row[key]) for key in keys)


def _finite(value):
    """``value`` with every number that JSON cannot hold replaced by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------------------------- comparisons


def seeds_joined(rows: list[dict]) -> list[dict]:
    """One row for all rows that differ in ``distillation_seed`` alone; others stay as they are.

    Numbers become means, except the ends of GenPPL's interval, which are the lowest and the highest
    of the seeds', and none where a seed has none; ``seeds`` is their number.
    """
    groups = defaultdict(list)
    for row in rows:
        keys = ("family", "model", "name", "steps", *SETTINGS)
        own = "checkpoint_sha256" if "distillation_seed" not in row else None
        groups[tuple(row.get(key) for key in (*keys, own))].append(row)
    return [_joined(group) for group in groups.values()]


def _joined(rows: list[dict]) -> dict:
    columns = {key: [row.get(key) for row in rows] for key in (*MEASURED, "mauve")}
    means = {key: None if None in row else float(np.mean(row)) for key, row in columns.items()}
    means["genppl_low"] = float(np.min(columns["genppl_low"]))
    means["genppl_high"] = float(np.max(columns["genppl_high"]))
    return rows[0] if len(rows) == 1 else rows[0] | means | {"seeds": len(rows)}


def step_reduction(results: dict, entropy_tolerance: float = 0.02) -> list[dict]:
    """How many teacher steps each student row stands for, at temperature 1 and nucleus 1.

    A student row counts for S teacher steps where every teacher row of S steps with the student's
    sampler, noise removal and precision has an entropy within ``entropy_tolerance`` (a share of
    the teacher's) and a GenPPL that the student matches: ``strict``, the student's is no higher;
    ``within_interval``, the student's 95 % interval reaches down to the teacher's or lies below.
    One dict a student row: name, sampler, predictor, noise_removal, precision, seed, steps, the
    largest S by both rules (None where there is none), ``strict_ratio``, ``within_interval_ratio``
    = S / steps, and ``strict_speedup``, ``within_interval_speedup``: the teacher's seconds / the
    student's.
    """
    rules = {
        "strict": lambda student, teacher: student["genppl"] <= teacher["genppl"],
        "within_interval": lambda student, teacher: student["genppl_low"] <= teacher["genppl_high"],
    }
    found = []
    for student in _plain(results, "student"):
        peers = [row for row in _plain(results, "teacher") if _same(row, student, PEERS)]
        entry = {key: student[key] for key in ("name", *SAMPLER, "seed", "steps")}
        for name, matches in rules.items():
            steps = _largest_steps(student, peers, matches, entropy_tolerance)
            entry[name] = steps
            entry[f"{name}_ratio"] = steps and steps / student["steps"]
            seconds = [row["seconds"] for row in peers if row["steps"] == steps]
            entry[f"{name}_speedup"] = steps and float(np.mean(seconds)) / student["seconds"]
        found.append(entry)
    return found


def _largest_steps(student: dict, teachers: list[dict], matches: Callable, tolerance: float):
    """The largest steps at which every teacher row is matched at its entropy, or None."""
    matched = defaultdict(list)
    for teacher in teachers:
        near = abs(student["entropy"] - teacher["entropy"]) <= tolerance * teacher["entropy"]
        matched[teacher["steps"]].append(near and matches(student, teacher))
    return max((steps for steps, rows in matched.items() if all(rows)), default=None)


def interpolate_at_entropy(points: list[tuple[float, float]], entropy: float) -> tuple[float, bool]:
    """(GenPPL of a model at ``entropy``, whether that lies outside the points).

    ``points`` are (entropy in nats, GenPPL) of one model over temperatures. log GenPPL is taken as
    linear in entropy between neighbours, and beyond the ends along the last two points; points of
    one entropy are averaged. Raises Refused with fewer than two different entropies.
    """
    x, where = np.unique([point[0] for point in points], return_inverse=True)
    if len(x) < 2:
        raise Refused(f"{len(x)} different entropies given; a line needs two")
    logs = np.log([point[1] for point in points])
    y = np.bincount(where, weights=logs) / np.bincount(where)
    right = int(np.clip(np.searchsorted(x, entropy), 1, len(x) - 1))
    slope = (y[right] - y[right - 1]) / (x[right] - x[right - 1])
    with np.errstate(over="ignore"):  # far beyond two points that are near each other
        value = float(np.exp(y[right] + slope * (entropy - x[right])))
    return value, not x[0] <= entropy <= x[-1]


def matched_entropy(results: dict) -> list[dict]:
    """Each student row against the teacher at the same steps, moved to the student's entropy.

    The teacher's rows over temperatures (nucleus 1) are interpolated; student rows without two such
    entropies are left out. One dict a student row at temperature 1 and nucleus 1: name, sampler,
    predictor, noise_removal, precision, seed, steps, entropy, ``student`` and ``teacher`` GenPPL,
    their ``ratio``, and whether the teacher's is ``extrapolated``.
    """
    found = []
    for student in _plain(results, "student"):
        points = [
            (row["entropy"], row["genppl"])
            for row in results["rows"]
            if row["model"] == "teacher"
            and row["nucleus"] == 1
            and _same(row, student, (*PEERS, "steps"))
            and finite(row, "genppl", "entropy")
        ]
        if len({entropy for entropy, _ in points}) < 2 or not finite(student, "genppl", "entropy"):
            continue
        teacher, extrapolated = interpolate_at_entropy(points, student["entropy"])
        entry = {key: student[key] for key in ("name", *SAMPLER, "seed", "steps", "entropy")}
        entry |= {"student": student["genppl"], "teacher": teacher}
        entry |= {"ratio": student["genppl"] / teacher, "extrapolated": extrapolated}
        found.append(entry)
    return found


def _plain(results: dict, *models: str) -> list[dict]:
    """The rows of ``models`` sampled as trained: temperature 1, nucleus 1."""
    rows = results["rows"]
    return [r for r in rows if r["model"] in models and r["temperature"] == r["nucleus"] == 1]


def _same(a: dict, b: dict, keys: tuple[str, ...]) -> bool:
    return all(a.get(key) == b.get(key) for key in keys)


# ------------------------------------------------------------------------------------- Markdown


def page(results: dict) -> str:
    """The content of table.md: the table, the step reduction and, over temperatures, the GenPPL at
    matched entropy."""
    parts = [table(results), _step_list(results), _entropy_list(results)]
    return "\n".join(part for part in parts if part)


def table(results: dict) -> str:
    """Markdown table of all rows under one line that names the judge and what the rows share.

    A setting (noise removal, temperature, nucleus, precision, samples, seed) that varies over the
    rows is a column, one that does not is said in that line.
    """
    rows = sorted(results["rows"], key=_order)
    varying = _varying(rows)
    columns = {"model": "model", "name": "name"}
    columns |= {key.replace("_", " "): key for key in varying}
    columns |= {"steps": "steps", "network evaluations": "evaluations"}
    numbers = [key for key in NUMBERS if any(row.get(key) is not None for row in rows)]
    lines = [
        [str(row[key]) for key in columns.values()] + [_cell(row, key) for key in numbers]
        for row in rows
    ]
    titles = [*columns, *(NUMBERS[key][0] for key in numbers)]
    rule = [
        "---" if title in ("model", "name", "sampler", "predictor", "noise removal") else "---:"
        for title in titles
    ]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rule, *lines))
    return f"{_headline(results, varying)}\n\n{body}\n"


def _headline(results: dict, varying: list[str]) -> str:
    """One line: judge, its held-out perplexity, what all rows share, hardware, command."""
    judge, row = results["judge"], results["rows"][0]
    shared = [f"{key.replace('_', ' ')} {row[key]}" for key in SETTINGS if key not in varying]
    parts = [
        f"Judge {judge['name']} (held-out perplexity {perplexity(judge['heldout_ppl'])})",
        *shared,
        str(results["hardware"]),
        f"`{results['command']}`",
    ]
    return "; ".join(parts)


def _cell(row: dict, key: str) -> str:
    if key == "genppl":
        ppl, low, high = (perplexity(row[key]) for key in ("genppl", "genppl_low", "genppl_high"))
        return f"{ppl} [{low}, {high}]"
    return number(row.get(key), NUMBERS[key][1])


def number(value: float | None, spec: str) -> str:
    """A number in Python's format, or what stands for one that there is not."""
    return "n/a" if value is None or not math.isfinite(value) else format(value, spec)


def perplexity(value: float | None) -> str:
    """A perplexity in about four digits, never in powers of ten."""
    digits = 2 if value is None or value < 100 else 1 if value < 1000 else 0
    return number(value, f".{digits}f")


def _order(row: dict) -> tuple:
    """Teacher before student before judge; inside, by name, setting and steps."""
    return (
        MODELS.index(row["model"]),
        row["name"],
        *(row[key] for key in SETTINGS),
        row["steps"],
    )


def _varying(rows: list[dict], keys: tuple[str, ...] = SETTINGS) -> list[str]:
    """The settings that are not the same in all rows."""
    return [key for key in keys if len({row[key] for row in rows}) > 1]


def _told_apart(entry: dict, rows: list[dict]) -> str:
    """The name of an entry, and its sampler, precision and seed where ``rows`` differ."""
    varying = _varying(rows, (*SAMPLER, "seed"))
    told = [f"{key} {entry[key]}" if key == "seed" else entry[key] for key in varying]
    return ", ".join([entry["name"], *told])


def _step_list(results: dict, entropy_tolerance: float = 0.02) -> str:
    """``step_reduction`` as a Markdown list; empty without a student."""
    lines = [
        f"Teacher steps that the student matches (GenPPL no higher, entropy within "
        f"{entropy_tolerance:.0%} of the teacher's), as multiples of its own. In brackets: by "
        "overlap of the 95 % intervals.",
        "",
    ]
    for entry in step_reduction(results, entropy_tolerance):
        strict, loose = (_matched(entry, rule) for rule in ("strict", "within_interval"))
        name = _told_apart(entry, results["rows"])
        lines.append(f"- {name}, steps {entry['steps']}: {strict} [{loose}]")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _matched(entry: dict, rule: str) -> str:
    if not entry[rule]:
        return "none"
    ratio, speedup = entry[f"{rule}_ratio"], number(entry[f"{rule}_speedup"], ".2g")
    return f"{entry[rule]} = {ratio:.3g}x, {speedup}x the seconds"


def _entropy_list(results: dict) -> str:
    """``matched_entropy`` as a Markdown list; empty where there is nothing to compare."""
    lines = [
        "GenPPL of the student against the teacher at the same steps, moved to the student's "
        "entropy by temperature (* beyond the temperatures sampled):",
        "",
    ]
    for entry in matched_entropy(results):
        name = _told_apart(entry, results["rows"])
        star = "*" if entry["extrapolated"] else ""
        lines.append(
            f"- {name}, steps {entry['steps']}: {perplexity(entry['student'])} against "
            f"{perplexity(entry['teacher'])}{star} at entropy {entry['entropy']:.3f}, "
            f"ratio {entry['ratio']:.2f}"
        )
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def samples_markdown(samples: dict[str, list[str]]) -> str:
    """A file of samples to read: one section a key (a model and its steps), one block a text.

    Lines longer than 100 characters are broken; nothing else is changed.
    """
    lines = ["Lines are broken at 100 characters."]
    for title, texts in samples.items():
        lines += ["", f"## {title}"]
        for number, text in enumerate(texts, start=1):
            fence = "```"
            while fence in text:
                fence += "`"
            lines += ["", f"Sample {number}", "", f"{fence}text", *_broken(text), fence]
    return "\n".join(lines) + "\n"


def _broken(text: str, width: int = 100) -> list[str]:
    """The lines of ``text``, the long ones broken, every character kept."""
    wrap = textwrap.TextWrapper(
        width, expand_tabs=False, replace_whitespace=False, drop_whitespace=False
    )
    return [part for line in text.split("\n") for part in wrap.wrap(line) or [""]]


# --------------------------------------------------------------------------------------- figure


def figure(drawing, path: str) -> None:
    """Write a matplotlib figure as a PNG, whole or not at all."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=150)
    write_whole(path, buffer.getvalue())


def blank(width: float, height: float):
    """An empty matplotlib figure. It needs no backend, so that none that MPLBACKEND names is asked
    for."""
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        from matplotlib.figure import Figure
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    return Figure(figsize=(width, height), layout="constrained")


def draw(results: dict):
    """A figure of three panels: GenPPL over steps, entropy over steps, GenPPL over entropy.

    The first two show temperature 1 and nucleus 1, with the 95 % intervals of GenPPL, and 2 %
    around the entropy of the teacher's largest number of steps; they are left out where there is no
    such row. The third has one line for each model and number of steps over the temperatures
    sampled, or one point each without them.
    """
    drawing = blank(15, 5.2)
    drawing.get_layout_engine().set(w_pad=0.1)
    left, middle, right = drawing.subplots(1, 3)
    for index, (label, rows) in enumerate(_series(results["rows"]).items()):
        style = line_style(index, rows[0]["model"])
        plain = [row for row in rows if row["temperature"] == row["nucleus"] == 1]
        _draw_steps(left, middle, plain, label, style)
        _draw_entropy(right, rows, style)
    name = results["judge"]["name"]
    heldout = results["judge"]["heldout_ppl"]
    if heldout is not None:
        left.axhline(heldout, color="0.45", linestyle=":", label="held-out text")
    ppl, entropy = f"GenPPL under {name}", "entropy of a sample (nats)"
    dress(left, "steps", ppl, "shaded: 95 % intervals")
    dress(middle, "steps", entropy, "shaded: within 2 % of the teacher at its most steps")
    dress(right, entropy, ppl, "numbers: steps")
    sampled_plainly = bool(_plain(results, *MODELS))
    for axes in (left, middle):  # without a point they have no scale
        axes.set_visible(sampled_plainly)
    handles, labels = left.get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return drawing


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
    for row in sorted(rows, key=_order):
        series[f"{row['model']} {_told_apart(row, rows)}"].append(row)
    return series


def _draw_steps(ppl_axes, entropy_axes, rows: list[dict], label: str, style: dict) -> None:
    """One series in both panels over steps; for a teacher the 2 % band around its last entropy."""
    rows = sorted(rows, key=lambda row: row["steps"])
    steps, ppl, low, high, entropy = (
        [row[key] for row in rows]
        for key in ("steps", "genppl", "genppl_low", "genppl_high", "entropy")
    )
    ppl_axes.plot(steps, ppl, label=label, **style)
    ppl_axes.fill_between(steps, low, high, color=style["color"], alpha=0.2, linewidth=0)
    entropy_axes.plot(steps, entropy, **style)
    if rows and rows[-1]["model"] == "teacher" and finite(rows[-1], "entropy"):
        band = (0.98 * entropy[-1], 1.02 * entropy[-1])
        entropy_axes.axhspan(*band, color=style["color"], alpha=0.12, linewidth=0)


def _draw_entropy(axes, rows: list[dict], style: dict) -> None:
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


def dress(axes, xlabel: str, ylabel: str, title: str) -> None:
    """Words, scales and grid of a panel; steps in powers of two, GenPPL in powers of ten."""
    from matplotlib.ticker import LogFormatter

    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title, fontsize=9, color="0.35")
    if xlabel == "steps":
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
    if ylabel.startswith("GenPPL"):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(3, 0.4)))
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)


# --------------------------------------------------------------------------------- command line


def main(arguments: list[str] | None = None) -> int:
    """Render each folder; the exit code is 1 if one could not be."""
    parser = argparse.ArgumentParser(
        prog="python -m duo_ext.report", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("folder", nargs="+", help="a folder with results.json")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook's is none
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack a character
    failed = 0
    for folder in parser.parse_args(arguments).folder:
        try:
            render(folder)
            print(f"{folder}: table.md, figure.png")
        except (ImportError, OSError, Refused) as error:
            print(error, file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
