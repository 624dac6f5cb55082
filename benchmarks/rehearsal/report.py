"""How the rehearsal's rows are printed and kept: results.json, table.md, figure.png."""

import json

from duo_ext import files
from duo_ext.report import figures
from duo_ext.report.tables import markdown

TIMES = ("before", "after")
KEY = ("name", "precision", "dropout")
HOSTS = ("standalone", "duo ch-1", "duo main", "sedd")
PRECISIONS = ("mixed", "float32", "bf16")
PROCESSES = ("mdlm", "sedd", "categorical", "gaussian")


def printed(row):
    """A row as lines for who reads along."""
    if row["what"] != "pair":
        numbers = {k: v for k, v in row.items() if isinstance(v, float | dict)}
        return f"{row['name']}, {row['precision']}: {json.dumps(numbers)}"
    lines = [f"{row['name']}, {row['precision']}: mixed devices {len(row['mixed']) or 'none'}"]
    lines += [f"  mixed {times} x {what} at {place}" for times, what, place in row["mixed"]]
    for key, total in row["waits"].items():
        lines.append(f"  {key}: the host waits {total} times")
        lines += [f"    {n} x {what} at {place}" for n, what, place in row["waits_at"][key]]
    operators = [f"{k} {v:.1f}" for k, v in row["bytes_by_operator"].items() if v >= 1]
    modules = ", ".join(f"{k} {' or '.join(v)}" for k, v in row["modules"].items())
    lines += [
        f"  outputs: {modules}",
        f"  products {row['products']}, logarithms {row['logarithms']}",
        "  bytes a token and entry of the vocabulary, in a pair: elementwise "
        f"{row['elementwise_bytes']:.1f}, {_compiled(row)} compiled, of products "
        f"{row['product_bytes']:.1f}",
        f"    {', '.join(operators)}",
        f"  kernels of a pair {row['kernels']:.0f}; bodies {_passes(row['bodies'])}, heads "
        f"{_passes(row['heads'])}",
    ]
    return "\n".join(lines)


def read(folder):
    """{time: rows} of a folder of results."""
    path = folder / "results.json"
    return json.loads(path.read_text()) if path.exists() else {time: [] for time in TIMES}


def write(folder, when, rows):
    """Put rows among those of a time, in the place of their like, and draw all anew."""
    found, new = read(folder), {_key(row) for row in rows}
    found[when] = [row for row in found[when] if _key(row) not in new] + rows
    found[when].sort(key=lambda row: json.dumps(_key(row)))
    files.write_whole(str(folder / "results.json"), (json.dumps(found, indent=1) + "\n").encode())
    files.write_whole(str(folder / "table.md"), as_markdown(found).encode())
    figures.figure(drawn(found), str(folder / "figure.png"))


def _key(row):
    return tuple(row.get(key) for key in KEY)


def select(found, what, **wanted):
    """(time, row) of a kind of row, the rows of a scenario together."""
    chosen = [
        (when, row)
        for when in TIMES
        for row in found[when]
        if all(row[key] == value for key, value in ({"what": what} | wanted).items())
    ]
    return sorted(chosen, key=_place)


def _place(chosen):
    when, row = chosen
    process = PROCESSES.index(row["process"]) if row["process"] else 0
    return (
        *(HOSTS.index(row["host"]), process, row.get("dropout"), TIMES.index(when)),
        PRECISIONS.index(row["precision"]),
    )


def as_markdown(found):
    parts = [HEAD, _pairs(found), OPTIONS, _options(found), BLOCKS, _blocks(found), STATE]
    return "\n".join([*parts, _state(found), MADE, _made(found)])


HEAD = """# A rehearsal of the GPU, on a CPU

Pairs of updates on tensors that claim to be on cuda and compute on the CPU. No number here was
measured on a GPU. What is counted, and how, is in benchmarks/rehearsal/counts.py.

**A pair.** "networks": algo.precision, before it existed the host's own bf16. "mixed": operators
that got tensors of two devices. "waits": how often the host waits for the device, in a micro-batch
of the fake's update and of the student's, and at the end of an update beyond that; results.json has
their lines. "elementwise", "products": bytes that a pair moves of tensors over the vocabulary, for
each token and entry of it. "compiled": the former with algo.compile, whose kernels are those that
inductor writes for an H100 (benchmarks/rehearsal/fused.py); none was built or run. "kernels": of a
pair of two micro-batches an update. "bodies", "heads": floating point operations of its matrix
products, by their operands' dtype, in forward passes of the blocks and of the head.
"""

OPTIONS = """
**With every option**: half of the inputs on-policy, a shared forward pass (not with Gaussian
noising), three given positions; then sampling in two steps. Its last columns are the dtypes of the
time embedding and of the head in distillation and in sampling.
"""

BLOCKS = """
**A block**, bytes a token and unit of width: what is kept for the backward pass, and what
elementwise operations move forward and backward. Under bf16 the autocast's copies of the weights, 2
bytes a parameter, come on top. float32: with autocasts that do nothing.
"""

STATE = """
**A parameter**, bytes: three networks, two optimizers, the average, what the host's average keeps
of a look at it, and what an update takes at most beyond these (a gradient; copies of weights in
bf16).
"""

MADE = "\n**Made by**\n"


def _pairs(found):
    head = ["DIT", "process", "", "networks", "mixed", "waits", "at an update", "elementwise"]
    head += ["compiled", "products", "kernels", "bodies", "heads"]
    return markdown(head, [_pair(when, row) for when, row in select(found, "pair", options=False)])


def _pair(when, row):
    waits = row["waits"]
    return [
        *(row["host"], row["process"], when, row["precision"], len(row["mixed"]) or "none"),
        " and ".join(str(n) for key, n in waits.items() if "micro-batch" in key),
        max(n for key, n in waits.items() if "update" in key),
        *(f"{row['elementwise_bytes']:.0f}", _compiled(row)),
        *(f"{row[key]:.0f}" for key in ("product_bytes", "kernels")),
        *(_passes(row[key]) for key in ("bodies", "heads")),
    ]


def _compiled(row):
    """A tree of before has no compiled losses."""
    count = row.get("compiled_bytes")
    return "none" if count is None else f"{count:.0f}"


def _passes(by_dtype):
    return " + ".join(f"{n:.1f} {dtype}" for dtype, n in sorted(by_dtype.items()) if n >= 0.05)


def _options(found):
    head = ["DIT", "process", "", "networks", "mixed", "waits", "sampling waits", "time embedding"]
    lines = [
        [
            *(row["host"], row["process"], when, row["precision"], len(row["mixed"]) or "none"),
            " and ".join(str(n) for key, n in row["waits"].items() if "micro-batch" in key),
            row["waits"]["sampling of 2 steps"],
            _dtypes(row, "sigma_map"),
            _dtypes(row, "output_layer.linear"),
        ]
        for when, row in select(found, "pair", options=True)
    ]
    return markdown([*head, "head"], lines)


def _dtypes(row, module):
    """In distillation, then in sampling."""
    return ", ".join(" or ".join(row[key][module]) for key in ("modules", "sampling_modules"))


def _blocks(found):
    head = ["DIT", "", "networks", "dropout", "kept", "forward", "backward", "kernels"]
    lines = [
        [
            *(row["host"], when, row["precision"], row["dropout"]),
            *(f"{row[key]:.0f}" for key in ("kept", "forward", "backward")),
            f"{row['forward_kernels']:.0f} and {row['backward_kernels']:.0f}",
        ]
        for when, row in select(found, "blocks")
    ]
    return markdown(head, lines)


def _state(found):
    keys = ("networks", "moments", "average", "left_of_a_look")
    head = ["DIT", "", "networks", *keys[:3], "left of a look", "an update"]
    lines = [
        [
            *(row["host"], when, row["precision"]),
            *(f"{row[key]:.0f}" for key in keys),
            f"{max(row['update'].values()):.1f}",
        ]
        for when, row in select(found, "state")
    ]
    return markdown(head, lines)


def _made(found):
    """What made the rows of each time: commits and versions."""
    lines = {
        (when, row["commit"], row["host"], row["host_commit"], row["torch"], row["command"])
        for when in TIMES
        for row in found[when]
    }
    return markdown(["", "commit", "DIT", "of commit", "torch", "command"], sorted(lines, key=str))


def drawn(found):
    """A figure of the bytes over the vocabulary, in the standalone tree."""
    drawing = figures.blank(7, 3.5)
    axes = drawing.subplots()
    rows = select(found, "pair", options=False, host="standalone")
    bars = {f"{row['process']}\n{when}\n{row['precision']}": row for when, row in rows}
    base = [0.0] * len(bars)
    for key, label in (("elementwise_bytes", "elementwise"), ("product_bytes", "products")):
        heights = [row[key] for row in bars.values()]
        axes.bar(list(bars), heights, bottom=base, label=label)
        base = [low + height for low, height in zip(base, heights, strict=True)]
    axes.set_ylabel("bytes a token and entry, in a pair")
    axes.tick_params(axis="x", labelsize=7)
    axes.legend()
    return drawing
