"""What sampling costs at a large vocabulary: python -m benchmarks.sampling_cost --output FOLDER

The host's sampler, which forms probabilities (B, L, V) in float64 at every step, beside all of the
core's (``evaluate --sampler``) that a process takes, on random networks in the standalone tree, one
batch, the fastest of three times. On a CPU: float32, one thread, CPU seconds of the process. On a
GPU (--device cuda): the host's own bf16, wall-clock seconds. Both are in results.json. Memory is
what the tensors of sampling take at once, over what was there.
"""

import argparse
import itertools
import json
from pathlib import Path

import torch

from benchmarks.meters import Clock, allocations, gpu_peak, hardware, keep_memory, peak
from benchmarks.one_pair import Size
from duo_ext import evaluate, files, host
from duo_ext.core import samplers
from duo_ext.data import corpus
from duo_ext.hosting import trees
from duo_ext.measuring.subject import Setting
from duo_ext.report import tables

TIMES = 3
ALGORITHMS = {"mdlm": "absorbing", "duo_base": "uniform"}  # and their families


class Vocabulary:
    """What an algorithm asks of a tokenizer."""

    mask_token, pad_token, bos_token_id, eos_token_id, pad_token_id = None, None, 1, 2, 3

    def __init__(self, size):
        self.vocab_size = size

    def __len__(self):
        return self.vocab_size

    def get_vocab(self):
        return {str(id): id for id in range(self.vocab_size)}


def measure(subject, name, sampler, size, steps, device):
    """A row: seconds and memory of one batch."""
    clock = Clock(device)
    with subject.sampler(Setting(steps, sampler), "float64") as (draw, calls):
        run = lambda: draw(size.batch)  # noqa: E731
        memory = gpu_peak(run) if device.type == "cuda" else peak(allocations(run))
        taken = []
        for _ in range(TIMES):
            calls.clear()
            start = clock()
            draw(size.batch)
            taken.append(clock.since(start))
    wall, cpu = map(min, zip(*taken, strict=True))
    return {
        "process": name,
        "sampler": sampler,
        "steps": steps,
        "evaluations": len(calls),
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "seconds_per_text": (wall if device.type == "cuda" else cpu) / size.batch,
        "peak_bytes_over_base": memory,
    }


def subject_of(name, size, device):
    tree = host.find(host.STANDALONE).activate()
    corpus.register_resolvers()
    config = tree.compose(
        [
            *(f"algo={name}", "data=sotu", "model=sotu", f"model.length={size.length}"),
            *(f"model.hidden_size={size.width}", f"model.n_blocks={size.blocks}"),
            *(f"model.n_heads={max(1, size.width // 64)}", "model.cond_dim=128"),
            f"sampling.predictor={'ancestral_cache' if name == 'mdlm' else 'ancestral'}",
            *("sampling.use_float64=true", "eval.gen_ppl_eval_model_name_or_path=none"),
        ]
    )
    torch.manual_seed(0)
    masked = ALGORITHMS[name] == "absorbing"  # the mask comes on top of the tokenizer's
    tokenizer = Vocabulary(size.vocab - masked)
    model = tree.module("main").ALGORITHMS[name](config, tokenizer).eval()
    for parameter in model.backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    model.to(device)
    from duo_ext.families import FAMILIES  # imports the host

    process = FAMILIES[ALGORITHMS[name]].noisings["categorical"](model)
    unused = dict.fromkeys(("role", "path", "algo", "sha256", "tokenizer", "data", "constructed"))
    unused["plain_predictor"] = "ancestral"
    return evaluate.Subject(
        **unused, vocab_size=size.vocab, length=size.length, model=model, process=process
    )


def as_markdown(results):
    head = ["process", "sampler", "network evaluations", "seconds per text", "GiB over base"]
    lines = []
    for row in results["rows"]:
        memory = row["peak_bytes_over_base"] / 2**30
        numbers = f"{row['seconds_per_text']:.3f}", f"{memory:.2f}"
        lines.append([row["process"], row["sampler"], row["evaluations"], *numbers])
    body = tables.markdown(head, lines, words=2)
    size = ", ".join(f"{name} {value}" for name, value in results["size"].items())
    return f"{size}; {results['hardware']}\n\n{body}"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[2])
    default = Size()
    for field, value in vars(default).items():
        parser.add_argument(f"--{field}", type=int, default=value)
    parser.add_argument("--steps", type=int, nargs="+", default=(4, 8, 64))
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args(arguments)
    size = Size(**{field: getattr(options, field) for field in vars(default)})
    torch.set_num_threads(1)
    keep_memory()
    rows, device = [], options.device
    for name in ALGORITHMS:
        subject = subject_of(name, size, device)
        names = [sampler for sampler in ("host", *samplers.SAMPLERS) if subject.takes(sampler)]
        for sampler, steps in itertools.product(names, options.steps):
            rows.append(measure(subject, name, sampler, size, steps, device))
    results = {
        "rows": rows,
        "size": vars(size),
        "hardware": hardware(device),
        "commit": trees.own_commit(),
    }
    content = json.dumps(results, indent=1) + "\n"
    files.write_whole(f"{options.output}/results.json", content.encode())
    files.write_whole(f"{options.output}/table.md", as_markdown(results).encode())
    print(as_markdown(results))


if __name__ == "__main__":
    main()
