"""What algo.compile saves of each loss over the vocabulary: python -m benchmarks.compiled

A row a closed form of core/losses.py, on random logits, the student's in bf16 and the others' in
float32, as in ``algo.precision=mixed``. "bytes": of tensors over the vocabulary a row and entry, by
the rehearsal's counter, as torch runs the form. "bytes, compiled": what the loads and stores move
in the kernels that torch.compile writes for an H100, each loop over a row counted
(benchmarks/rehearsal/fused.py); none was run there. "ms": the least of some runs, one thread, as it
is and compiled for this CPU, whose kernels are others.
"""

import argparse
import json
import time

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.meters import hardware, keep_memory
from benchmarks.rehearsal import fused
from benchmarks.rehearsal.counts import Traffic, over_vocabulary
from duo_ext import files
from duo_ext.core import losses
from duo_ext.core.compiling import compiled
from duo_ext.hosting import trees
from duo_ext.report import tables

R, V, RUNS = 20, 50258, 20  # as many rows as a CPU takes at a time
# What a form takes: logits of student, teacher or fake (s, t), probabilities (p), a token (z),
# an alpha (a), a weight (w), a logarithm (l), the mask (m). All before the tokens is over V.
FORMS = {
    "absorbing_soft": "stwm",
    "absorbing_hard": "twzm",
    "absorbing_difference": "sttwm",
    "score_soft": "stwllm",
    "score_hard": "twzllm",
    "score_difference": "sttwm",
    "uniform_soft": "stzaw",
    "uniform_ratio": "sttzaw",
    "relaxed_soft": "ptzaw",
    "relaxed_ratio": "pttzaw",
}

BYTES, TIMES = ("bytes", "bytes_compiled"), ("ms", "ms_compiled")


def inputs(kinds, rows, vocabulary):
    """Fresh ones of the same numbers: a form overwrites logits."""
    draw = torch.Generator().manual_seed(0)
    make = {
        "s": lambda: torch.randn(rows, vocabulary, generator=draw).bfloat16(),
        "t": lambda: torch.randn(rows, vocabulary, generator=draw),
        "p": lambda: torch.randn(rows, vocabulary, generator=draw).softmax(-1),
        "z": lambda: torch.randint(vocabulary - 1, (rows,), generator=draw),
        "a": lambda: torch.rand(rows, generator=draw).mul(0.9).add(0.05),
        "w": lambda: torch.rand(rows, generator=draw).neg(),
        "l": lambda: torch.randn(rows, generator=draw),
        "m": lambda: vocabulary - 1,
    }
    return [make[kind]() for kind in kinds]


class Counted(TorchDispatchMode):
    """Bytes over the vocabulary of all that torch runs inside."""

    def __init__(self, vocabulary):
        super().__init__()
        self.traffic = Traffic(over_vocabulary(vocabulary, 0))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.traffic(function, args, kwargs or {}, result)
        return result


def on_gpu():
    """Bytes of each form as it is compiled for a GPU."""
    given = [map(fused.kind, inputs(kinds, 1, V)) for kinds in FORMS.values()]
    forms = [getattr(losses, name) for name in FORMS]
    return fused.of_each(*((form, *kinds) for form, kinds in zip(forms, given, strict=True)))


def measure(name, rows, vocabulary):
    form, kinds = getattr(losses, name), FORMS[name]
    with Counted(vocabulary) as counted:
        form(*inputs(kinds, rows, vocabulary))
    return {
        "loss": name,
        "bytes": counted.traffic.elementwise.total() / (rows * vocabulary),
        "ms": _least(form, kinds, rows, vocabulary),
        "ms_compiled": _least(compiled(form), kinds, rows, vocabulary),
    }


def _least(form, *given):
    seconds = []
    for _ in range(RUNS):
        values = inputs(*given)
        start = time.perf_counter()
        form(*values)
        seconds.append(time.perf_counter() - start)
    return 1e3 * min(seconds)


def as_markdown(results):
    lines = [
        [r["loss"], *(f"{r[key]:.0f}" for key in BYTES), *(f"{r[key]:.1f}" for key in TIMES)]
        for r in results["rows"]
    ]
    head = ["loss", "bytes", "bytes, compiled", "ms", "ms, compiled"]
    table = tables.markdown(head, lines, words=1)
    facts = f"{results['size']}; {results['hardware']}; torch {torch.__version__}"
    return "\n".join([__doc__.partition("\n\n")[2], facts, "", table])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[2])
    parser.add_argument("--rows", type=int, default=R)
    parser.add_argument("--vocabulary", type=int, default=V)
    parser.add_argument("--output", default="results/compiled")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_memory()
    rows = [measure(name, options.rows, options.vocabulary) for name in FORMS]
    results = {
        "rows": [
            row | {"bytes_compiled": count} for row, count in zip(rows, on_gpu(), strict=True)
        ],
        "size": f"{options.rows} rows, {options.vocabulary} entries",
        "hardware": hardware(torch.device("cpu")),
        "commit": trees.own_commit(),
    }
    table = as_markdown(results)
    content = json.dumps(results, indent=1) + "\n"
    files.write_whole(f"{options.output}/results.json", content.encode())
    files.write_whole(f"{options.output}/table.md", table.encode())
    print(table)


if __name__ == "__main__":
    main()
