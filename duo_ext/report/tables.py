"""Results as Markdown: the table of rows, the comparisons as lists, samples to read."""

import math
import textwrap

from duo_ext.report.compare import matched_entropy, order, step_reduction, told_apart, varying
from duo_ext.report.results import SETTINGS, finite

WORDS = (
    "model",
    "name",
    "sampler",
    "grid",
    "predictor",
    "noise removal",
)  # columns; the rest is numbers
NUMBERS = {
    "accuracy": ("accuracy [95 %]", ".3f"),
    "genppl": ("GenPPL [95 %]", ""),
    "entropy": ("entropy", ".3f"),
    "unigram_kl": ("unigram KL", ".4f"),
    "bigram_tv": ("bigram TV", ".3f"),
    "mauve": ("MAUVE", ".3f"),
    "energy": ("energy distance", ".4f"),
    "known_words": ("known words", ".3f"),
    "known_long_words": ("known long words", ".3f"),
    "word_length": ("word length", ".2f"),
    "seconds": ("seconds", ".1f"),
}


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
    rows = sorted(results["rows"], key=order)
    differing = varying(rows)
    columns = {"model": "model", "name": "name"}
    columns |= {key.replace("_", " "): key for key in differing}
    columns |= {"steps": "steps", "network evaluations": "evaluations"}
    numbers = [key for key in NUMBERS if any(row.get(key) is not None for row in rows)]
    lines = [
        [str(row[key]) for key in columns.values()] + [_cell(row, key) for key in numbers]
        for row in rows
    ]
    head = [*columns, *(NUMBERS[key][0] for key in numbers)]
    words = sum(title in WORDS for title in head)
    return f"{_headline(results, differing)}\n\n{markdown(head, lines, words)}"


def markdown(head: list[str], body: list[list], words: int | None = None) -> str:
    """A Markdown table; all columns after the first ``words`` are numbers, none without it."""
    numbers = 0 if words is None else len(head) - words
    rule = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    lines = ([str(cell).replace("|", "\\|") for cell in cells] for cells in (head, rule, *body))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _headline(results: dict, varying: list[str]) -> str:
    """One line: judge, its held-out perplexity, what all rows share, hardware, command."""
    judge, row = results["judge"], results["rows"][0]
    shared = [
        f"{key.replace('_', ' ')} {row[key]}"
        for key in SETTINGS
        if key not in varying and (key, row[key]) != ("grid", "host")
    ]
    parts = [
        f"Judge {judge['name']} (held-out perplexity {perplexity(judge['heldout_ppl'])})",
        *shared,
        str(results["hardware"]),
        f"`{results['command']}`",
    ]
    return "; ".join(parts)


def _cell(row: dict, key: str) -> str:
    if key == "genppl":
        return "{} [{}, {}]".format(*_perplexities(row))
    found = number(row.get(key), NUMBERS[key][1])
    if key == "accuracy" and finite(row, key, "accuracy_low", "accuracy_high"):
        found += f" [{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}]"
    return found


def measured(row: dict) -> str:
    """GenPPL / entropy and GenPPL's interval, in a cell."""
    ppl, low, high = _perplexities(row)
    return f"{ppl} / {number(row['entropy'], '.3f')} [{low}, {high}]"


def _perplexities(row):
    """GenPPL and the ends of its interval."""
    return [perplexity(row[key]) for key in ("genppl", "genppl_low", "genppl_high")]


def number(value: float | None, spec: str) -> str:
    """A number in Python's format, or what stands for one that there is not."""
    return "n/a" if value is None or not math.isfinite(value) else format(value, spec)


def perplexity(value: float | None) -> str:
    """A perplexity in about four digits, never in powers of ten."""
    digits = 2 if value is None or value < 100 else 1 if value < 1000 else 0
    return number(value, f".{digits}f")


def _step_list(results: dict, entropy_tolerance: float = 0.02) -> str:
    """``step_reduction`` as a Markdown list; empty without a student."""
    lines = [
        f"Teacher steps that the student matches (GenPPL no higher, entropy within "
        f"{entropy_tolerance:.0%} of the teacher's), as multiples of its own. In brackets: by "
        "overlap of the 95 % intervals. The plain teacher is the one under the host's sampler.",
        "",
    ]
    for entry in step_reduction(results, entropy_tolerance):
        strict, loose = (_matched(entry, rule) for rule in ("strict", "within_interval"))
        name = told_apart(entry, results["rows"])
        of = " of the plain teacher" if entry["plain"] else ""
        lines.append(f"- {name}, steps {entry['steps']}: {strict}{of} [{loose}]")
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
        name = told_apart(entry, results["rows"])
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
