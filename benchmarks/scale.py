"""The tables of docs/scale.md: python -m benchmarks.scale [--write]

Arithmetic on counts; nothing is run. A pair's matrix products come from the rows at which each
network's body and head run, forward 1 and backward 2 (1 where only the input's gradient is formed);
bytes that elementwise operations move, activations and the state of a parameter are those that
``benchmarks.rehearsal`` counted (results/rehearsal/results.json), the latest that are there.
"""

import argparse
import dataclasses
import functools
import re
from pathlib import Path

from benchmarks.rehearsal import report
from duo_ext import files

REPOSITORY = Path(__file__).parents[1]
PAGE, RESULTS = REPOSITORY / "docs" / "scale.md", REPOSITORY / "results" / "rehearsal"

GB = 1e9
BATCH, LENGTH, VOCAB = 512, 1024, 50258
PER_DEVICE = 8  # sequences at once on a GPU, the published setting
REACHED = 0.4  # of the peak of matrix products

# Of an H100: dense FLOP/s of products by the dtype of their operands (float32 is TF32), bytes/s of
# its memory, of an all-reduce for each GPU inside a machine of 8 and between machines (400 Gbit/s
# each), bytes of memory.
PEAK = {"bfloat16": 989e12, "float32": 494e12}
BANDWIDTH, NVLINK, NETWORK, MEMORY = 3.35e12, 300e9, 50e9, 80e9

# algo.precision: blocks of a network's own update, of teacher and fake in the student's
BLOCKS = {
    "mixed": ("bf16", "float32"),
    "float32": ("float32", "float32"),
    "bf16": ("bf16", "bf16"),
}
# bytes of a parameter: its gradient, the buckets of DDP, in which Lightning wraps the student on
# one GPU too, and autocast's copies of weights in bf16. What is sent goes through 64 MB.
GRADIENT, BUCKETS, COPIES, WEIGHT = 4, 4, 2, 4
# bytes a token, block and unit of width that algo.recompute_blocks keeps: a block's input
INPUT = 4
# Of adapters (algo.adapter): their rank, and bytes of a weight under them by how it is held; bytes
# of the core's chunk of the last layer; what a GPU has besides, in bytes, and the texts at once
# that are tried.
RANK, HELD, CHUNK = 16, {"float32": 4, "bf16": 2}, 3e9
GPUS, BESIDE, TEXTS = (16e9, 24e9, 80e9), 1e9, (64, 32, 16, 8, 4, 2, 1)


@dataclasses.dataclass(frozen=True)
class Process:
    """``name`` and ``host`` of its scenario in the rehearsal; ``bodies`` and ``heads`` of matrix
    products in a pair; how often teacher and fake run backward in the student's update."""

    name: str
    host: str
    bodies: int
    heads: float
    backward_through: int = 0

    def counted(self, precision):
        """The rehearsal's row of it."""
        return counted("pair", self.host, precision, process=self.name, options=False)


MASKED = (1 / 4 + 1 / 4 + 3 / 2) + (1 / 4 + 3 / 4 + 2 / 4)
PROCESSES = {
    "MDLM": Process("mdlm", "duo main", 4 + 5, MASKED),
    "SEDD": Process("sedd", "sedd", 4 + 5, MASKED),
    "uniform, categorical": Process(
        "categorical", "duo main", 4 + 5, (1 / 2 + 1 + 3) + (1 / 2 + 3 + 2)
    ),
    "uniform, Gaussian": Process(
        "gaussian", "duo main", 4 + 7, (1 + 3) + (3 + 4), backward_through=2
    ),
}


@functools.cache
def latest():
    """(which, the rows) of the latest rehearsal that is among the results."""
    found = report.read(RESULTS)
    return next((when, found[when]) for when in reversed(report.TIMES) if found[when])


def counted(what, host, precision, **wanted):
    wanted |= {"what": what, "host": host, "precision": precision}
    (row,) = (r for r in latest()[1] if all(r.get(key) == value for key, value in wanted.items()))
    return row


def precisions():
    """Values of algo.precision in the latest rehearsal."""
    known = {row["precision"] for row in latest()[1] if row["what"] == "pair"}
    return [precision for precision in report.PRECISIONS if precision in known]


@dataclasses.dataclass(frozen=True)
class Model:
    width: int
    blocks: int
    conditioning: int = 128

    @property
    def head(self):
        return VOCAB * self.width

    @property
    def block(self):
        return 12 * self.width**2 + 6 * self.width * self.conditioning

    @property
    def parameters(self):
        return 2 * self.head + self.blocks * self.block

    @property
    def body_flops(self):
        """A token's, forward, with attention over LENGTH."""
        return self.blocks * (24 * self.width**2 + 4 * LENGTH * self.width)

    @property
    def head_flops(self):
        return 2 * self.head

    def pair_in_F(self, process):
        F = self.body_flops + self.head_flops
        return (process.bodies * self.body_flops + process.heads * self.head_flops) / F

    def product_seconds(self, process, precision):
        """Of a pair's matrix products on one GPU, each at the rate of its dtype."""
        row = process.counted(precision)
        parts = (
            (process.bodies * self.body_flops, row["bodies"]),
            (process.heads * self.head_flops, row["heads"]),
        )
        return sum(
            BATCH * LENGTH * flops * passes / sum(by_dtype.values()) / (REACHED * PEAK[dtype])
            for flops, by_dtype in parts
            for dtype, passes in by_dtype.items()
        )

    def elementwise_seconds(self, process, precision):
        """(over the vocabulary, in the blocks) of a pair on one GPU, bound by its memory alone."""
        own, compared = (
            counted("blocks", process.host, way, dropout=0.1) for way in BLOCKS[precision]
        )
        through = process.backward_through
        moved = 3 * own["forward"] + 2 * own["backward"]
        moved += 2 * compared["forward"] + through * compared["backward"]
        sizes = (
            VOCAB * process.counted(precision)["elementwise_bytes"],
            self.width * self.blocks * moved,
        )
        return [BATCH * LENGTH * size / BANDWIDTH for size in sizes]

    def message_seconds(self, gpus):
        """Of all-reducing the gradients of the two updates in float32."""
        bandwidth = NVLINK if gpus <= 8 else NETWORK
        return 2 * 2 * GRADIENT * self.parameters / bandwidth * (gpus - 1) / gpus

    @property
    def adapters(self):
        """Parameters of one network's adapters, at the default targets."""
        block = 22 * self.width + self.conditioning  # inputs and outputs of its five layers
        time = 256 + 3 * self.conditioning
        return RANK * (self.blocks * block + time + self.conditioning + 2 * self.width)

    def adapted_state(self, held):
        """Bytes with student and fake as adapters on the teacher's weights; ``held`` of HELD."""
        trained = state_of_a_parameter() - WEIGHT
        frozen = WEIGHT * 2 * self.head + HELD[held] * self.blocks * self.block
        return frozen + trained * self.adapters

    def texts(self, state, copied, memory):
        """How many texts at once fit a GPU with blocks recomputed in bf16; 0 where none does."""
        left = memory - BESIDE - CHUNK - state
        fitting = (n for n in TEXTS if self.activations("bf16", True, n, copied) <= left)
        return next(fitting, 0)

    def activations(self, precision, recomputed=False, texts=PER_DEVICE, copied=None):
        """Bytes kept for a backward pass of one network, in the DIT that keeps most; recomputed:
        all blocks' inputs, and what one block keeps. ``copied``: how many parameters autocast keeps
        a copy of; None: all."""
        kept = max(
            row["kept"]
            for row in latest()[1]
            if row["what"] == "blocks" and row["precision"] == precision
        )
        blocks = kept * self.blocks if not recomputed else INPUT * self.blocks + kept
        copied = self.parameters if copied is None else copied
        copies = COPIES * copied if precision == "bf16" else 0
        return blocks * self.width * texts * LENGTH + copies

    def state(self, gpus=1):
        """Bytes on each GPU, where teacher, fake and its moments lie on so many of them."""
        return self.parameters * state_of_a_parameter(gpus)


def state_of_a_parameter(gpus=1):
    row = counted("state", "duo main", precisions()[0])
    network, moments = row["networks"] / 3, row["moments"] / 2
    student = network + moments + row["average"]
    others = 2 * network + moments
    return student + GRADIENT + BUCKETS + others / gpus


MODELS = {"169M": Model(768, 12), "863M": Model(1536, 24), "8B": Model(4096, 38)}


# the tables ------------------------------------------------------------------------------------

TIME = "| model | process | algo.precision | pair / F | products | over V | in blocks "
TIME += "| 1 GPU | 8 GPUs | 64 GPUs |"
SIZE = "| model | parameters | DDP | teacher and fake on 8 GPUs | on 64 "
SIZE += "| activations, float32 | bf16 | bf16, blocks recomputed |"


def table(head, lines):
    rule = "|---" * (head.count("|") - 1) + "|"
    return "\n".join([head, rule, *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def times():
    return table(TIME, [_time(*case) for case in _cases()])


def _cases():
    for name in MODELS:
        for process in PROCESSES:
            for precision in precisions():
                yield name, process, precision


def _time(name, process, precision):
    model, pair = MODELS[name], PROCESSES[process]
    seconds = [model.product_seconds(pair, precision), *model.elementwise_seconds(pair, precision)]
    whole = [
        f"{sum(seconds) / gpus:.2f} + {model.message_seconds(gpus):.2f} s" for gpus in (1, 8, 64)
    ]
    ratio = f"{model.pair_in_F(pair):.1f}"
    return [name, process, precision, ratio, *(f"{part:.1f} s" for part in seconds), *whole]


def sizes():
    lines = []
    for name, model in MODELS.items():
        found = [model.state(gpus) for gpus in (1, 8, 64)]
        found += [model.activations(precision) for precision in ("float32", "bf16")]
        found.append(model.activations("bf16", recomputed=True))
        cells = [name, f"{model.parameters / 1e6:.0f}M"]
        lines.append(cells + [f"{size / GB:.1f} GB" for size in found])
    return table(SIZE, lines)


ADAPTED = "| model | student and fake | trained | state | 8 texts at once "
ADAPTED += "| 16 GB holds | 24 GB | 80 GB |"


def adapted():
    lines = []
    for name, model in MODELS.items():
        kinds = {"full networks": (2 * model.parameters, model.state(), model.parameters)}
        # of what is frozen autocast keeps copies for one pass of the last layer, and of one block
        copied = model.adapters + model.head + model.block
        for held in HELD:
            kind = f"adapters of rank {RANK}" + f" on {held}" * (held != "float32")
            kinds[kind] = (2 * model.adapters, model.adapted_state(held), copied)
        for kind, (trained, state, copied) in kinds.items():
            whole = state + CHUNK + model.activations("bf16", recomputed=True, copied=copied)
            texts = [model.texts(state, copied, memory) for memory in GPUS]
            cells = [name, kind, f"{trained / 1e6:.0f}M", f"{state / GB:.1f} GB"]
            cells += [f"{whole / GB:.1f} GB", *(str(n) if n else "none" for n in texts)]
            lines.append(cells)
    return table(ADAPTED, lines)


def sentences():
    logits = 4 * PER_DEVICE * LENGTH * VOCAB
    state = state_of_a_parameter()
    most = (MEMORY - 10e9) / state
    return (
        f"State: {state:.0f} bytes a parameter.\n"
        f"One tensor of (B, L, V) in float32, B = {PER_DEVICE}: {logits / GB:.2f} GB.\n"
        f"DDP's state alone fills {MEMORY / GB:.0f} GB less 10 at {most / 1e9:.1f}B parameters.\n"
    )


def page(text):
    """The page with the tables of today."""
    for head, new in ((TIME, times()), (SIZE, sizes()), (ADAPTED, adapted())):
        text = re.sub(rf"{re.escape(head)}\n(\|.*\n)*", lambda _, new=new: new, text)
    return text


def main(given=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    if parser.parse_args(given).write:
        files.write_whole(str(PAGE), page(PAGE.read_text()).encode())
    print(times(), sizes(), adapted(), sentences(), sep="\n")


if __name__ == "__main__":
    main()
