"""What a pair costs, in forward passes: python -m benchmarks.pair_cost --output results/pair_cost

A pair is one fake and one student update with AdamW and EMA, through the Distiller; F is one
forward pass of the whole backbone on tokens without gradient. Beside the core's losses stands the
textbook form of dense.py, with AdamW and EMA as loops over the tensors; it draws tokens as the core
does. "Core, shared forward" is the core with algo.shared_forward. In each repeat F and the pair of
each form follow each other, so that what disturbs the machine disturbs all. "Core, adapters" is the
core with algo.adapter.rank=16 (the library peft). State: bytes that networks, EMA, moments and
gradients hold after a pair, shared ones once, over the parameters of one network.

On a CPU: float32, one thread, CPU seconds of the process; results.json has wall-clock times as
well. glibc's malloc keeps the memory that it has (mallopt: no mmap, no trimming): page faults of
fresh tensors of 100 MB would be up to half of the textbook's time. Memory is what the tensors of a
pair take over what was there: the three networks, EMA and AdamW's moments; gradients count.

On a GPU: bf16 autocast, wall-clock times, the largest power of two that fits as the batch.
"""

import argparse
import ctypes
import dataclasses
import itertools
import json
import math
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import dense, published
from duo_ext import files, host
from duo_ext.core import adapters, distiller, gaussian, schedules
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.compiling import compile_blocks
from duo_ext.core.networks import Denoiser
from duo_ext.core.score import ScoreProcess
from duo_ext.core.uniform import UniformProcess
from duo_ext.hosting import trees

GIB = 2**30
CPU_WIDTHS = (256, 768)
GROWTH = ("batch", "length", "vocab", "width")
TABLES = ("pairs", "growth")


@dataclasses.dataclass(frozen=True)
class Size:
    vocab: int = 50258
    length: int = 128
    batch: int = 4
    blocks: int = 4
    width: int = 256

    @property
    def tokens(self):
        return self.batch * self.length


def _gaussian(cls, **settings):
    def make(vocab):
        gammas = schedules.DUO_GAMMA if vocab == schedules.DUO_VOCAB else (None, None)
        return cls(vocab, schedules.GaussianSchedule.configured(vocab, *gammas), **settings)

    return make


FORMS = CORE, SHARED, TEXTBOOK, ADAPTED = (
    *("core", "core, shared forward", "textbook", "core, adapters"),
)
ADAPTER = {"rank": 16, "alpha": None, "whole": []}
ADAPTER |= {"targets": ["blocks.*", "sigma_map.*", "*.adaLN_modulation"]}  # the default
COMPILED = "core, compiled"  # with algo.compile; of gpu_check alone


def _masked(cls):
    return lambda V: cls(V, V - 1)


def _forms(core, textbook):
    return {CORE: core, COMPILED: core, SHARED: core, TEXTBOOK: textbook, ADAPTED: core}


# name: {form: process made of a vocabulary}; a mask is its last token
CASES = {
    "mdlm": _forms(_masked(AbsorbingProcess), _masked(dense.Absorbing)),
    "sedd": _forms(_masked(ScoreProcess), _masked(dense.Score)),
    "categorical": _forms(UniformProcess, dense.Uniform),
    "gaussian": {
        CORE: _gaussian(gaussian.GaussianUniformProcess),
        COMPILED: _gaussian(gaussian.GaussianUniformProcess),
        TEXTBOOK: _gaussian(dense.Gaussian, mixtures=False),
        ADAPTED: _gaussian(gaussian.GaussianUniformProcess),
    },
    # on a host whose network takes no mixtures; the textbook has no other inputs
    "gaussian, dense inputs": {CORE: _gaussian(gaussian.GaussianUniformProcess, mixtures=False)},
}


class Clock:
    """(wall, CPU) seconds of this process; a GPU is waited for."""

    def __init__(self, device):
        self.device = device

    def __call__(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def since(self, start):
        return tuple(now - then for now, then in zip(self(), start, strict=True))


class Timed(distiller.Distiller):
    """Notes how long the last update took beyond its loss and gradient."""

    def _update(self, phase):
        start = self.clock()
        done = super()._update(phase)
        self.optimizing = self.clock.since(start)
        return done


class Pair:
    """Networks, optimizers and EMA of one form of a case."""

    def __init__(self, case, form, size, device):
        torch.manual_seed(0)
        self.size, self.device, self.plain = size, device, form == TEXTBOOK
        networks = _networks(size, device, adapted=form == ADAPTED)
        if form == COMPILED:
            for network in networks:
                compile_blocks(network)
        self.student, self.teacher = networks[0], networks[2]
        optimizers = [torch.optim.AdamW(adapters.trained(n), lr=1e-6) for n in networks[:2]]
        scheduled = [(o, torch.optim.lr_scheduler.ConstantLR(o, 1.0)) for o in optimizers]
        student, fake, teacher = (Denoiser(n, True) for n in networks)
        self.machine = Timed(
            CASES[case][form](size.vocab),
            (student, *scheduled[0]),
            (fake, *scheduled[1]),
            teacher,
            distiller.Recipe(shared_forward=form == SHARED, compile=form == COMPILED),
        )
        self.machine.clock = self.clock = Clock(device)
        if self.plain:
            for group in itertools.chain(*(o.param_groups for o in optimizers)):
                group["fused"] = None
        average = host.active().module("models.ema").ExponentialMovingAverage
        self.ema = average(self.student.parameters(), decay=0.9999)
        self.x0_BL = torch.randint(size.vocab - 1, (size.batch, size.length), device=device)
        self.given_BL = torch.zeros_like(self.x0_BL, dtype=torch.bool)

    def run(self):
        """Seconds (wall, CPU) of each part of one pair."""
        parts = {}
        shared = self.machine.recipe.shared_forward
        for part in ("shared step",) if shared else ("fake step", "student step"):
            start = self.clock()
            with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
                self.machine.step(self.x0_BL, self.given_BL)
            whole = self.clock.since(start)
            parts[part] = _minus(whole, self.machine.optimizing)
            parts[f"{part}, optimizer"] = self.machine.optimizing
        start = self.clock()
        self._average()
        parts["EMA"] = self.clock.since(start)
        return parts

    @torch.no_grad()
    def _average(self):
        if not self.plain:
            self.ema.update(self.student.parameters())
            return
        for shadow, p in zip(self.ema.shadow_params, self.student.parameters(), strict=True):
            shadow.sub_((1 - self.ema.decay) * (shadow - p))

    @torch.no_grad()
    def forward(self):
        """Seconds (wall, CPU) of F."""
        sigma_B = torch.full((self.size.batch,), 0.7, device=self.device)
        start = self.clock()
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            self.teacher(self.x0_BL, sigma_B)
        return self.clock.since(start)

    def state(self):
        """Bytes a parameter of one network: all that lasts from pair to pair, and gradients."""
        backbones = [n.backbone for n in (*self.machine.networks.values(), self.machine.teacher)]
        parameters = [p for network in backbones for p in network.parameters()]
        moments = [m for o in self.machine.optimizers.values() for m in o.state.values()]
        tensors = [*parameters, *(p.grad for p in parameters), *self.ema.shadow_params]
        tensors += [value for moment in moments for value in moment.values()]
        sizes = {t.data_ptr(): t.nbytes for t in tensors if isinstance(t, torch.Tensor)}
        return sum(sizes.values()) / sum(p.numel() for p in self.teacher.parameters())

    def clear(self):
        """Drop the gradients, which an update would only drop when the next one begins."""
        for optimizer in self.machine.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def memory(self):
        """(bytes a pair takes at most over what is there before, tensors of (B, L, V) at once)."""
        self.clear()
        if self.device.type == "cuda":
            return gpu_peak(self.run), None
        changes = allocations(self.run)
        whole = 4 * self.size.tokens * self.size.vocab
        parameters = {4 * p.numel() for p in self.student.parameters()}
        return peak(changes), most_tensors(changes, whole, parameters)


def _networks(size, device, adapted):
    """Student, fake and teacher."""
    if not adapted:
        return [_network(size, device) for _ in range(3)]
    student = _network(size, device)
    teacher = adapters.adapt(student, ADAPTER, seed=0)
    return [student, adapters.twin(student), teacher]


def _network(size, device):
    heads = max(1, size.width // 64)
    shape = published.Shape(size.width, 128, size.length, size.blocks, heads)
    network = published.dit(shape, size.vocab)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return network.to(device)


def _minus(a, b):
    return tuple(x - y for x, y in zip(a, b, strict=True))


def gpu_peak(run):
    """Most bytes of a GPU that ``run`` takes at once over what was there."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def allocations(run):
    """(address, bytes; less than 0 where it is freed) of what ``run`` allocates, in order."""
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as watch:
        run()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        watch.export_chrome_trace(file.name)
        events = json.loads(Path(file.name).read_text())["traceEvents"]
    events = sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"])
    return [(e["args"]["Addr"], e["args"]["Bytes"]) for e in events]


def peak(changes):
    """Most bytes at once."""
    return max(itertools.accumulate((size for _, size in changes), initial=0))


def most_tensors(changes, whole, parameters):
    """Most tensors of ``whole`` bytes or more at once.

    A tensor with as many bytes as one of the parameters is taken for its gradient.
    """
    live, most = set(), 0
    for address, size in changes:
        if size < 0:
            live.discard(address)
        elif size >= whole and size not in parameters:
            live.add(address)
        most = max(most, len(live))
    return most


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


def keep_memory():
    """Let glibc's malloc neither map large blocks on their own nor give memory back."""
    if platform.libc_ver()[0] != "glibc":
        return "the C library's default"
    libc = ctypes.CDLL(None)
    mmap_max, trim_threshold, top_pad = -4, -1, -2  # malloc.h
    settings = ((mmap_max, 0), (trim_threshold, -1), (top_pad, 2**28))
    if not all(libc.mallopt(key, value) for key, value in settings):
        raise RuntimeError("mallopt refuses M_MMAP_MAX, M_TRIM_THRESHOLD or M_TOP_PAD")
    return "mallopt: M_MMAP_MAX 0, M_TRIM_THRESHOLD -1, M_TOP_PAD 256 MiB"


def hardware(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, one thread"


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
