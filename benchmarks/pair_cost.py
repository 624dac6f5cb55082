"""What a pair costs, in forward passes: python -m benchmarks.pair_cost --output results/pair_cost

A pair is one fake and one student update with AdamW and EMA, through the Distiller; F is one
forward pass of the whole backbone on tokens without gradient. Beside the core's losses stands the
textbook form of dense.py, with AdamW and EMA as loops over the tensors; it draws tokens as the core
does. "Core, shared forward" is the core with algo.shared_forward. In each repeat F and the pair of
each form follow each other, so that what disturbs the machine disturbs all. "Core, adapters" is the
core with algo.adapter.rank=16 (the library peft), "on bf16" with algo.adapter.frozen=bf16 besides.
State: bytes that networks, EMA, moments and gradients hold after a pair, shared ones once, over the
parameters of one network.

On a CPU: float32, one thread, CPU seconds of the process; results.json has wall-clock times as
well. glibc's malloc keeps the memory that it has (mallopt: no mmap, no trimming): page faults of
fresh tensors of 100 MB would be up to half of the textbook's time. Memory is what the tensors of a
pair take over what was there: the three networks, EMA and AdamW's moments; gradients count.

On a GPU: bf16 autocast, wall-clock times, the largest power of two that fits as the batch.
"""

import argparse
import dataclasses
import json
import math
import statistics
from pathlib import Path

import torch

from benchmarks.meters import hardware, keep_memory
from benchmarks.one_pair import CASES, CORE, FORMS, Pair, Size
from duo_ext import files, host
from duo_ext.hosting import trees

GIB = 2**30
CPU_WIDTHS = (256, 768)
GROWTH = ("batch", "length", "vocab", "width")
TABLES = ("pairs", "growth")


# measuring -------------------------------------------------------------------------------------


def measure(case, size, device, repeats, wanted=FORMS):
    """A row of results for each wanted form that the case has; batch 0 is the largest."""
    forms = []
    for name in filter(CASES[case].__contains__, wanted):
        fitted = size if size.batch else _largest(case, name, size, device)
        forms.append((name, fitted, Pair(case, name, fitted, device)))
    peaks = []
    for *_, pair in forms:
        pair.run()  # AdamW's moments and the allocator's memory are there after this
        peaks.append((pair.state(), *pair.memory()))
    seen = {name: [] for name, *_ in forms}
    for _ in range(repeats):
        for name, _, pair in forms:
            seen[name].append({"F": pair.forward(), **pair.run()})
    return [
        {"case": case, "form": name, **dataclasses.asdict(fitted), **_summary(seen[name], fitted)}
        | {"state_bytes": state, "peak_bytes": peak, "tensors_BLV": tensors}
        | {"repeats": seen[name]}
        for (name, fitted, _), (state, peak, tensors) in zip(forms, peaks, strict=True)
    ]


def _largest(case, form, size, device):
    """The size with the largest power of two as batch at which a pair fits on the GPU."""
    batch = 1
    while True:
        try:
            Pair(case, form, dataclasses.replace(size, batch=2 * batch), device).run()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return dataclasses.replace(size, batch=batch)
        batch *= 2


def _summary(repeats, size):
    """Medians over the repeats, of CPU seconds on a CPU and wall seconds on a GPU."""
    clock = 0 if torch.cuda.is_available() else 1
    seconds = {part: [r[part][clock] for r in repeats] for part in repeats[0]}
    parts = [part for part in seconds if part != "F"]
    pairs = [sum(values) for values in zip(*(seconds[part] for part in parts), strict=True)]
    ratios = [pair / F for pair, F in zip(pairs, seconds["F"], strict=True)]
    medians = {part: statistics.median(values) for part, values in seconds.items()}
    return {
        "seconds": medians,
        "pair_seconds": statistics.median(pairs),
        "pair_over_F": statistics.median(ratios),
        "pair_over_F_range": [min(ratios), max(ratios)],
        "tokens_per_second": size.tokens / statistics.median(pairs),
    }


def growth(case, base, device, repeats):
    """Exponents of time and memory: slopes of log cost at 1/2, 1 and 2 times the base."""
    exponents = []
    for key in GROWTH:
        sizes = [
            dataclasses.replace(base, **{key: int(getattr(base, key) * factor)})
            for factor in (0.5, 1, 2)
        ]
        found = [measure(case, size, device, repeats, [CORE])[0] for size in sizes]
        costs = {
            "pair": [row["pair_seconds"] for row in found],
            "F": [row["seconds"]["F"] for row in found],
            "memory": [row["peak_bytes"] for row in found],
        }
        slopes = {k: _slope(v) for k, v in costs.items()}
        exponents.append({"case": case, "doubled": key, "base": dataclasses.asdict(base)} | slopes)
    return exponents


def _slope(values):
    """Least squares through three logs, one step of log 2 apart: the ends decide."""
    return math.log2(values[-1] / values[0]) / 2


# reporting -------------------------------------------------------------------------------------


def as_markdown(found):
    """Both tables."""
    rows, growths = found["pairs"], found["growth"]
    lines = [
        "| size | process | form | F, s | fake step | student step | optimizer, EMA | pair / F "
        "(range) | tokens/s | state, bytes a parameter | GiB over base | (B, L, V) at once |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        s, low_high = row["seconds"], row["pair_over_F_range"]
        steps = {part for part in s if part.endswith(" step")}
        rest = s["EMA"] + sum(s[f"{part}, optimizer"] for part in steps)
        fake, student = (_in_F(s, part) for part in ("fake step", "student step"))
        size = f"{row['blocks']} x {row['width']}, L {row['length']}, B {row['batch']}"
        cells = [
            f"{size}, V {row['vocab']}",
            row["case"],
            row["form"],
            f"{s['F']:.3f}",
            fake or "shared:",
            student or _in_F(s, "shared step"),
            f"{rest / s['F']:.1f} F",
            f"{row['pair_over_F']:.1f} ({low_high[0]:.1f} to {low_high[1]:.1f})",
            f"{row['tokens_per_second']:.0f}",
            f"{row['state_bytes']:.1f}" if "state_bytes" in row else "",
            f"{row['peak_bytes'] / GIB:.2f}",
            "" if row["tensors_BLV"] is None else str(row["tensors_BLV"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if growths:
        lines += [
            "",
            "| process | doubled | pair | F | memory over base |",
            "|---|---|---|---|---|",
        ]
    lines += [
        f"| {g['case']} | {g['doubled']} | {g['pair']:.2f} | {g['F']:.2f} | {g['memory']:.2f} |"
        for g in growths
    ]
    return "\n".join(lines) + "\n"


def _in_F(seconds, part):
    return f"{seconds[part] / seconds['F']:.1f} F" if part in seconds else ""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", help="folder for results.json and table.md")
    parser.add_argument("--host", help="the Duo tree whose backbone is measured")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--widths", nargs="+", type=int, help="default 256 768; on a GPU 768")
    for field in dataclasses.fields(Size):
        if field.name != "width":
            parser.add_argument(f"--{field.name}", type=int)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    return parser.parse_args()


def sizes(options, device):
    """What is measured by default, with what the command line says."""
    default, widths = Size(), CPU_WIDTHS
    if device.type == "cuda":
        default, widths = Size(length=1024, batch=0, blocks=12), (768,)
    given = {f.name: getattr(options, f.name, None) for f in dataclasses.fields(Size)}
    size = dataclasses.replace(default, **{k: v for k, v in given.items() if v is not None})
    return [dataclasses.replace(size, width=width) for width in options.widths or widths]


def main():
    options = arguments()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made = {
        "hardware": hardware(device),
        "precision": "bf16" if device.type == "cuda" else "float32",
        "clock": "wall" if device.type == "cuda" else "CPU seconds of the process",
        "malloc": keep_memory(),
        "torch": torch.__version__,
        "host": host.find(options.host or host.STANDALONE).activate().name,
        "commit": trees.own_commit(),
    }
    for table, key, rows in tables(options, device):
        print(as_markdown({"pairs": [], "growth": []} | {table: rows}), flush=True)
        if options.output:
            write(Path(options.output), table, key, [row | made for row in rows])


def tables(options, device):
    """(table, what tells its rows apart, rows), as they are measured."""
    for size in sizes(options, device) if "pairs" in options.tables else []:
        for case in options.cases:
            rows = measure(case, size, device, options.repeats, options.forms)
            yield "pairs", ("case", "form", *(f.name for f in dataclasses.fields(Size))), rows
    base = sizes(options, device)[0]
    base = dataclasses.replace(base, batch=max(2, base.batch // 2), vocab=base.vocab // 2)
    for case in options.cases if "growth" in options.tables else []:
        rows = growth(case, base, device, max(1, options.repeats // 2))
        yield "growth", ("case", "doubled"), rows


def write(folder, table, key, rows):
    """Put rows among those that the folder's results.json has, in the place of their like."""
    path = folder / "results.json"
    found = json.loads(path.read_text()) if path.exists() else {table: [] for table in TABLES}
    new = {tuple(row[k] for k in key) for row in rows}
    found[table] = [row for row in found[table] if tuple(row[k] for k in key) not in new] + rows
    files.write_whole(str(path), (json.dumps(found, indent=1) + "\n").encode())
    files.write_whole(str(folder / "table.md"), as_markdown(found).encode())


if __name__ == "__main__":
    main()
