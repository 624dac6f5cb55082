"""Comparisons of rows: seeds as one, step reduction, GenPPL at equal entropy.

Rows compare only where sampler, precision and family (a teacher with what was made from it) agree.
GenPPL means little alone, so that every comparison keeps the entropy beside it or fixes it.
"""

from collections import defaultdict
from collections.abc import Callable

import numpy as np

from duo_ext import Refused
from duo_ext.report.results import MEASURED, MODELS, OTHERS, PEERS, SAMPLER, SETTINGS, finite

OF_CORE = ("sampler", "grid")  # what goes without saying of a host's rows


def seeds_joined(rows: list[dict]) -> list[dict]:
    """One row for all rows that differ in ``distillation_seed`` alone; others stay as they are.

    Numbers become means. GenPPL's interval reaches from the lowest end of the seeds' intervals to
    the highest. MAUVE is None where a seed has none. ``seeds`` is the number of rows that were
    joined.
    """
    groups = defaultdict(list)
    for row in rows:
        keys = ("family", "model", "name", "steps", *SETTINGS)
        own = "checkpoint_sha256" if "distillation_seed" not in row else None
        groups[tuple(row.get(key) for key in (*keys, own))].append(row)
    return [_joined(group) for group in groups.values()]


def _joined(rows: list[dict]) -> dict:
    columns = {key: [row.get(key) for row in rows] for key in (*MEASURED, *OTHERS)}
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
    student's. Where a sampler of the core draws from the student, one more against the teacher
    under the host's: ``plain`` is true.
    """
    rules = {
        "strict": lambda student, teacher: student["genppl"] <= teacher["genppl"],
        "within_interval": lambda student, teacher: student["genppl_low"] <= teacher["genppl_high"],
    }
    found = []
    teachers = plain(results["rows"], "teacher")
    pairs = [
        (student, [row for row in teachers if _same(row, student, PEERS)], False)
        for student in plain(results["rows"], "student")
    ]
    pairs += [
        (student, peers, True)
        for student, _, _ in pairs
        if student["sampler"] != "host" and (peers := under_the_host(teachers, student))
    ]
    for student, peers, by_host in pairs:
        entry = {key: student[key] for key in ("name", *SAMPLER, "seed", "steps")}
        entry["plain"] = by_host
        for name, matches in rules.items():
            steps = _largest_steps(student, peers, matches, entropy_tolerance)
            entry[name] = steps
            entry[f"{name}_ratio"] = steps and steps / student["steps"]
            seconds = [row["seconds"] for row in peers if row["steps"] == steps]
            entry[f"{name}_speedup"] = steps and float(np.mean(seconds)) / student["seconds"]
        found.append(entry)
    return found


def under_the_host(rows: list[dict], other: dict) -> list[dict]:
    """The rows that the host drew by its plain sampler, of the family and last step of another."""
    keys = ("family", "noise_removal", "precision")
    return [row for row in rows if row["sampler"] == "host" and _same(row, other, keys)]


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

    The teacher's rows over temperatures (nucleus 1) are interpolated; student rows for which they
    have less than two different entropies are left out. One dict a student row at temperature 1 and
    nucleus 1: name, sampler, predictor, noise_removal, precision, seed, steps, entropy, ``student``
    and ``teacher`` GenPPL, their ``ratio``, and whether the teacher's is ``extrapolated``.
    """
    found = []
    for student in plain(results["rows"], "student"):
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


def plain(rows: list[dict], model: str | None = None) -> list[dict]:
    """The rows, of one kind of ``model`` if it is named, sampled as trained: temperature 1,
    nucleus 1."""
    return [
        row
        for row in rows
        if row["temperature"] == row["nucleus"] == 1 and model in (None, row["model"])
    ]


def over_steps(rows: list[dict]) -> list[dict]:
    """The rows sampled as trained, by steps."""
    return sorted(plain(rows), key=lambda row: row["steps"])


def lines(rows: list[dict]) -> dict[tuple, list[dict]]:
    """{(family, name, what differs of the samplers of its family): rows over steps}, in the order
    of the rows."""
    families, found = defaultdict(list), defaultdict(list)
    for row in rows:
        families[row.get("family")].append(row)
    for family, own in families.items():
        differing = varying(own, SAMPLER)
        for row in own:
            told = [
                str(row[key]) for key in differing if row["sampler"] != "host" or key not in OF_CORE
            ]
            found[family, row["name"], ", ".join(told)].append(row)
    return found


def label(name: str, sampler: str) -> str:
    """How a line is called."""
    return f"{name} ({sampler})" if sampler else name


def _same(a: dict, b: dict, keys: tuple[str, ...]) -> bool:
    return all(a.get(key) == b.get(key) for key in keys)


def order(row: dict) -> tuple:
    """Teacher before student before judge; inside, by name, setting and steps."""
    return (
        MODELS.index(row["model"]),
        row["name"],
        *(row[key] for key in SETTINGS),
        row["steps"],
    )


def varying(rows: list[dict], keys: tuple[str, ...] = SETTINGS) -> list[str]:
    """The settings that are not the same in all rows."""
    return [key for key in keys if len({row[key] for row in rows}) > 1]


def told_apart(entry: dict, rows: list[dict]) -> str:
    """The name of an entry, and its sampler, precision and seed where ``rows`` differ."""
    differing = varying(rows, (*SAMPLER, "seed"))
    told = [f"{key} {entry[key]}" if key == "seed" else entry[key] for key in differing]
    return ", ".join([entry["name"], *told])
