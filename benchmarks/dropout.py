"""Which passes have dropout: python -m benchmarks.dropout --output results/dropout

A pair runs the student twice, for the fake's update and for its own, and trains the fake; teacher
and fake are without dropout where the student's loss (10) is taken. The rules differ in the rest:

    none     nowhere, as the distiller has it
    own      the student in its own update, the fake in its own
    fake     the fake in its own update alone
    both     the student in both updates, the fake in its own

"gradients": the student's gradient under each rule against "none", the student being the teacher
and the fake fitted to it by that rule. "distillations": a shipped teacher, distilled under each
rule, sampled by the EMA student without dropout and scored by the shipped judge. All with
dropout .1 in networks that were trained without any.
"""

import argparse
import copy
import itertools
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import gradients, shipped
from benchmarks.meters import hardware
from duo_ext import files, host
from duo_ext.core import distiller
from duo_ext.core.networks import Tempered
from duo_ext.core.samplers import ancestral, blank, grids
from duo_ext.data import corpus
from duo_ext.hosting import trees
from duo_ext.measuring import metrics
from duo_ext.measuring.judge import Judge
from duo_ext.report.tables import markdown

DROPOUT = 0.1
BATCH, WARMUP, PAIRS, EMA = 16, 20, 60, 0.98
FIT, MICRO_BATCHES = 60, 16
STEPS, SAMPLES = (8, 16), 256


@dataclass(frozen=True)
class Rule:
    """Whether a network has dropout: the student in the fake's update and in its own, the fake."""

    student_for_fake: bool
    student: bool
    fake: bool


RULES = {
    "none": Rule(False, False, False),
    "own": Rule(False, True, True),
    "fake": Rule(False, False, True),
    "both": Rule(True, True, True),
}

# learning rates of student and fake as in the sotu experiments
RATES = {"mdlm": (8e-5, 1e-3), "categorical": (1e-4, 5e-4)}
ON_POLICY = {"mdlm": {"on_policy": 0.5}, "categorical": {}}


class Ruled(distiller.Distiller):
    """A distiller with a rule."""

    rule = RULES["none"]

    def _losses(self, phase, *batch):
        own = phase == (distiller.STUDENT,)
        student = self.rule.student if own else self.rule.student_for_fake
        self.networks[distiller.STUDENT].backbone.train(student)
        self.networks[distiller.FAKE].backbone.train(self.rule.fake and not own)
        return super()._losses(phase, *batch)


def prepared(case):
    """(process, teacher's network with dropout) of a case."""
    network = shipped.teacher(shipped.CASES[case].teacher, DROPOUT)
    return shipped.CASES[case].process(network.vocab_size, **ON_POLICY[case]), network


def make(case, rule, seed, warmup, rates=None):
    process, network = prepared(case)
    student, fake, teacher = shipped.denoisers(network, shipped.CASES[case].time_conditioning)
    made = []
    for net, lr in zip((student, fake), rates or RATES[case], strict=True):
        optimizer = torch.optim.AdamW(net.backbone.parameters(), lr=lr, weight_decay=0)
        rising = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=10)
        made.append((net, optimizer, rising))
    machine = Ruled(process, *made, teacher, distiller.Recipe(fake_warmup=warmup, seed=seed))
    machine.rule = RULES[rule]
    return machine


# gradients ---------------------------------------------------------------------------------------


def fitted(case, rule, texts_NL, updates):
    """A fake fitted to the teacher as the student."""
    machine = make(case, rule, 1, updates)
    order = torch.Generator().manual_seed(1)
    for _ in range(updates):
        machine.step(*picked(texts_NL, order))
    return machine


def picked(texts_NL, order):
    x0_BL = texts_NL[torch.randint(len(texts_NL), (BATCH,), generator=order)]
    return x0_BL, torch.zeros_like(x0_BL, dtype=torch.bool)


def gradient(machine, x0_BL, given_BL, seed):
    """Of the student's loss, under the machine's rule; one sample a seed, whatever the rule."""
    student, fake = (machine.networks[name] for name in (distiller.STUDENT, distiller.FAKE))
    student.backbone.train(machine.rule.student).requires_grad_(True)
    fake.backbone.eval().requires_grad_(False)
    torch.manual_seed(seed)
    machine.process.student_loss(student, fake, machine.teacher, x0_BL, given_BL).backward()
    fake.backbone.requires_grad_(True)
    return gradients.flat(student.backbone)


def compare(case, texts_NL, options):
    """A row for each rule: its gradients against those of "none" on the same micro-batches."""
    machines = {rule: fitted(case, rule, texts_NL, options.fit) for rule in RULES}
    # what dropout in the student's pass does where the fake is the exact one
    mixed = copy.copy(machines["none"])
    mixed.rule = Rule(False, True, False)
    ways = machines | {"none, but the student in its own update": mixed}
    found = {name: gradients.Comparison() for name in ways}
    order = torch.Generator().manual_seed(2)
    for seed in range(options.micro_batches):
        batch = picked(texts_NL, order)
        g = gradient(machines["none"], *batch, seed)
        for name, machine in ways.items():
            h = g if name == "none" else gradient(machine, *batch, seed)
            found[name].add(g, h)
    return [
        {"case": case, "rule": name, "fake_updates": options.fit, **value.summary()}
        for name, value in found.items()
    ]


# distillations -----------------------------------------------------------------------------------


class Scored:
    """The shipped judge and held-out text."""

    def __init__(self, vocab):
        self.judge = Judge(corpus.asset("judge"), "cpu", batch_size=64)
        self.tokenizer = shipped.tokenizer()
        self.reference = metrics.Reference(shipped.texts("validation", every=1), vocab)

    def row(self, process, student, steps, samples, seed):
        torch.manual_seed(seed)
        start = blank(student, (samples, shipped.LENGTH))
        tokens = ancestral.sample(process, student, *start, grids.times("host", steps))
        scores = self.judge.score(self.tokenizer.batch_decode(tokens))
        return metrics.measure(tokens, scores, self.reference, seed)


def distil(case, rule, seed, texts_NL, scored, options):
    """A row for each number of steps."""
    start = time.perf_counter()
    machine = make(case, rule, seed, WARMUP)
    student = machine.networks[distiller.STUDENT]
    average_of = host.active().module("models.ema").ExponentialMovingAverage
    average = average_of(student.backbone.parameters(), decay=EMA)
    order = torch.Generator().manual_seed(seed)
    while machine.pairs < options.pairs:
        done = machine.step(*picked(texts_NL, order))
        if done.ends_pair:
            average.update(student.backbone.parameters())
    average.copy_to(student.backbone.parameters())
    sampled = Tempered(student.backbone.eval(), student.time_conditioning)
    for steps in STEPS:
        yield {
            "case": case,
            "rule": rule,
            "seed": seed,
            "pairs": options.pairs,
            "steps": steps,
            "samples": options.samples,
            **scored.row(machine.process, sampled, steps, options.samples, seed),
            "seconds": time.perf_counter() - start,
        }


# reporting ---------------------------------------------------------------------------------------


SCORES = {"genppl": 2, "entropy": 3, "unigram_kl": 4}


def as_markdown(found):
    """Both tables."""
    parts = []
    if found["gradients"]:
        row = found["gradients"][0]
        said = (
            f'The student\'s gradient under a rule against "none", {row["micro_batches"]} '
            f"micro-batches of {BATCH} texts; the fake fitted by the rule in {row['fake_updates']} "
            f"updates, the student being the teacher. {gradients.LEGEND}"
        )
        cells = [
            [r["case"], r["rule"], *(make(r) for make in gradients.COLUMNS.values())]
            for r in found["gradients"]
        ]
        titles = ["process", "rule", *gradients.COLUMNS]
        parts.append(f"{said} {_made(row)}\n\n{markdown(titles, cells)}")
    if found["distillations"]:
        row = found["distillations"][0]
        said = (
            f"Students after {row['pairs']} pairs of {BATCH} texts under a rule, {row['samples']} "
            "samples of the EMA student, in float64: the mean of the seeds, and each."
        )
        titles = ["process", "rule", "steps", "seeds", "GenPPL", "entropy", "unigram KL"]
        cells = _students(found["distillations"])
        parts.append(f"{said} {_made(row)}\n\n{markdown(titles, cells)}")
    return "\n".join(parts)


def _made(row):
    return (
        f"Dropout {DROPOUT}; trained in {row['precision']}; {row['hardware']}; `{row['command']}`."
    )


def _students(rows):
    def key(row):
        return row["case"], row["steps"], list(RULES).index(row["rule"])

    for (case, steps, _), group in itertools.groupby(sorted(rows, key=key), key):
        group = list(group)
        seeds = ", ".join(str(row["seed"]) for row in group)
        yield [case, group[0]["rule"], str(steps), seeds, *(_score(group, k) for k in SCORES)]


def _score(group, key):
    digits, values = SCORES[key], [row[key] for row in group]
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"{statistics.fmean(values):.{digits}f} ({each})"


def save(folder, table, key, rows):
    """Put rows into results.json, in the place of their like, and write table.md."""
    path = folder / "results.json"
    found = {"gradients": [], "distillations": []}
    found |= json.loads(path.read_text()) if path.exists() else {}
    new = {tuple(row[k] for k in key) for row in rows}
    found[table] = [row for row in found[table] if tuple(row[k] for k in key) not in new] + rows
    files.write_whole(str(path), (json.dumps(found, indent=1) + "\n").encode())
    files.write_whole(str(folder / "table.md"), as_markdown(found).encode())


def arguments(given=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tables", nargs="+", default=["distillations", "gradients"])
    parser.add_argument("--cases", nargs="+", choices=RATES, default=list(RATES))
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--fit", type=int, default=FIT, help="updates of the fake")
    parser.add_argument("--micro-batches", type=int, default=MICRO_BATCHES)
    parser.add_argument("--output", default="results/dropout")
    return parser.parse_args(given)


def main(given=None):
    options = arguments(given)
    torch.set_num_threads(1)
    folder, texts_NL = Path(options.output), shipped.texts()
    made = {
        "hardware": hardware(torch.device("cpu")),
        "precision": "float32",
        "dropout": DROPOUT,
        "torch": torch.__version__,
        "commit": trees.own_commit(),
        "command": "python -m benchmarks.dropout",
    }
    if "distillations" in options.tables:
        scored = Scored(prepared("mdlm")[1].vocab_size)
        for seed, case, rule in itertools.product(options.seeds, options.cases, options.rules):
            rows = [r | made for r in distil(case, rule, seed, texts_NL, scored, options)]
            save(folder, "distillations", ("case", "rule", "seed", "steps"), rows)
            print(*rows, sep="\n", flush=True)
    for case in options.cases if "gradients" in options.tables else ():
        rows = [r | made for r in compare(case, texts_NL, options)]
        save(folder, "gradients", ("case", "rule"), rows)
        print(*rows, sep="\n", flush=True)


if __name__ == "__main__":
    main()
