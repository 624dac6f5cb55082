"""The student's gradient in bf16 and in TF32: python -m benchmarks.gradient_precision

Gradient (10) is a difference of two nearly equal networks, so what rounds each of them may hide it.
It is taken after n updates of a fake that began as the teacher, in several precisions
(``rounding``) of one sample, and compared with float32's (``gradients``). The student is

    moved      the teacher with noise of 1 % of each tensor's spread; only the fake is trained
    distilled  trained for n pairs like the fake, at the same learning rate

AdamW, betas .9 and .999, no weight decay, no warm-up, in float32. "at the features": the cosine
that ``feature_gradient`` finds, without a backward pass through the networks. After the last of the
updates the fake's own gradient (9) is compared as well.
"""

import argparse
import copy
import functools
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks import gradients, shipped
from benchmarks.gradients import fake_gradient, feature_gradient, same_draws, student_gradient
from benchmarks.meters import hardware
from benchmarks.rounding import Precision
from duo_ext import files
from duo_ext.core import distiller
from duo_ext.hosting import trees
from duo_ext.report.tables import markdown

SPREAD = 0.01
REFERENCE = Precision.of("float32")
MAIN = ("TF32", "bf16", "bf16, opponents TF32")
MORE = ("bf16, opponents float32", "float64", "TF32 cut", "bf16, head float32", "TF32, head bf16")


@dataclass(frozen=True)
class Walk:
    """A student, the learning rate and the numbers of updates at which the gradient is taken."""

    student: str
    rate: float
    updates: tuple


WALKS = (
    Walk("moved", 1e-6, (1, 10, 100, 1000)),
    Walk("distilled", 1e-6, (10, 100)),
    Walk("moved", 1e-4, (1, 10)),
)


@dataclass(frozen=True)
class Size:
    """A network and how it is measured.

    ``make`` gives the network for a case; ``note`` says where it is from; ``look`` are the texts of
    the cheap measurement; ``fake``: whether its gradient is compared too. A quarter of the
    micro-batches has the cheap measurement, and MORE of the precisions.
    """

    make: callable
    note: str
    cases: tuple
    walks: tuple = WALKS
    length: int = shipped.LENGTH
    batch: int = 4
    micro_batches: int = 16
    look: int = 8
    precisions: tuple = MAIN + MORE
    fake: bool = True


def shipped_teacher(case):
    return shipped.teacher(shipped.CASES[case].teacher)


def trained_here(case, updates=150):
    """17.7 million parameters, trained as MDLM's for a few minutes on the shipped text."""
    torch.manual_seed(0)
    V = len(shipped.tokenizer()) + 1
    network = shipped.dit(V, width=512, blocks=5, cond=128, length=64).train()
    texts_NL = shipped.texts(length=64)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4, weight_decay=0)
    rising = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=20)
    for _ in range(updates):
        x0_BL, _ = shipped.batch(texts_NL, 8)
        share_B = torch.rand(len(x0_BL), 1).clamp(min=0.1)
        masked_BL = torch.rand(x0_BL.shape) < share_B
        z_BL = torch.where(masked_BL, V - 1, x0_BL)
        logits_BLV = network(z_BL, torch.zeros(len(x0_BL)))[..., : V - 1]
        loss = torch.nn.functional.cross_entropy(logits_BLV[masked_BL], x0_BL[masked_BL])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rising.step()
    print(f"trained: cross-entropy at masks {loss.item():.3f}", flush=True)
    return network.eval()


def random_full_size(case):
    """The published 170 million parameters at random, spread as those of a trained network."""
    torch.manual_seed(0)
    network = shipped.dit(50258, width=768, blocks=12, cond=128, heads=12, length=64)
    spreads = {"adaLN_modulation.bias": 0.2, "output_layer.linear.weight": 0.05}
    for name, parameter in network.named_parameters():
        own = [spread for end, spread in spreads.items() if name.endswith(end)]
        if own or parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=own[0] if own else 0.02)
    return network.eval()


FEW = (Walk("moved", 1e-6, (1, 10, 100, 1000)), Walk("distilled", 1e-6, (10,)))
FEWER = (Walk("moved", 1e-6, (1, 10)),)
SIZES = {
    "0.9M": Size(shipped_teacher, "the shipped teacher", tuple(shipped.CASES)),
    "18M": Size(
        trained_here, "trained for 150 updates", ("mdlm",), FEW, length=64, micro_batches=8
    ),
    "170M": Size(
        random_full_size, "random weights", ("mdlm",), FEWER, length=64, batch=1,
        micro_batches=3, look=1, precisions=MAIN, fake=False,
    ),
}  # fmt: skip


def compare(process, networks, texts_NL, size):
    """{precision: what the student's gradients are beside the reference's}."""
    found = {name: (gradients.Comparison(), gradients.Comparison()) for name in size.precisions}
    ways = (student_gradient, size.batch), (feature_gradient, size.look)
    for seed in range(size.micro_batches):
        few = seed < max(2, size.micro_batches // 4)
        names = size.precisions if few else MAIN
        for place, (way, texts) in enumerate(ways[: 1 + few]):
            own = {name: found[name][place] for name in names}
            _add(own, way, process, networks, _batch(texts_NL, texts, seed), seed)
    return {
        name: own.summary() | {"features": at.summary()["cosine"]}
        for name, (own, at) in found.items()
    }


def compare_fake(process, networks, texts_NL, size):
    """{precision: what the fake's gradients are beside the reference's}."""
    found = {name: gradients.Comparison() for name in MAIN if not Precision.of(name).others}
    for seed in range(size.micro_batches):
        batch = _batch(texts_NL, size.batch, seed)
        _add(found, fake_gradient, process, networks, batch, seed)
    return {name: own.summary() for name, own in found.items()}


def _batch(texts_NL, texts, seed):
    torch.manual_seed(1000 + seed)
    return shipped.batch(texts_NL, texts)


def _add(found, way, process, networks, batch, seed):
    with same_draws():
        g = way(process, networks, batch, seed, REFERENCE)
        for name, comparison in found.items():
            comparison.add(g, way(process, networks, batch, seed, Precision.of(name)))


def moved(network):
    """A network a little away from another."""
    network = copy.deepcopy(network)
    torch.manual_seed(9)
    for parameter in network.parameters():
        if parameter.numel() > 1:
            parameter.data += SPREAD * parameter.std() * torch.randn_like(parameter)
    return network


def walk(case, network, texts_NL, size, plan):
    """Rows after each number of updates."""
    process = shipped.CASES[case].process(network.vocab_size)
    networks = shipped.denoisers(network, shipped.CASES[case].time_conditioning)
    student, fake, teacher = networks
    if plan.student == "moved":
        student.backbone = moved(network)
    machine = distiller.Distiller(
        process,
        *(_trained(n, plan.rate) for n in (student, fake)),
        teacher,
        # a moved student waits for ever
        distiller.Recipe(fake_warmup=10**9 if plan.student == "moved" else 0, seed=1),
    )
    done = 0
    for updates in plan.updates:
        while done < updates:
            torch.manual_seed(10**6 + machine.updates)
            step = machine.step(*shipped.batch(texts_NL, size.batch))
            done += step.ends_pair or plan.student == "moved"
        _zero(networks)
        looks = {distiller.STUDENT: compare}
        if size.fake and updates == plan.updates[-1]:
            looks[distiller.FAKE] = compare_fake
        for of, look in looks.items():
            for precision, numbers in look(process, networks, texts_NL, size).items():
                yield {
                    "case": case,
                    "student": plan.student,
                    "fake_lr": plan.rate,
                    "updates": updates,
                    "gradient": of,
                    "precision": precision,
                    **numbers,
                }


def _trained(denoiser, rate):
    optimizer = torch.optim.AdamW(denoiser.backbone.parameters(), lr=rate, weight_decay=0)
    return denoiser, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)


def _zero(networks):
    for network in networks:
        network.backbone.eval().zero_grad()


# reporting ---------------------------------------------------------------------------------------

FROM = ("size", "case", "student", "fake_lr", "updates", "gradient", "precision")


def as_markdown(found):
    """The table."""
    columns = gradients.COLUMNS | {"at the features": lambda r: gradients.number(r, "features")}
    cells = [
        [
            *(f"{row[key]:g}" if key == "fake_lr" else str(row[key]) for key in FROM),
            str(row["micro_batches"]),
            *(make(row) for make in columns.values()),
        ]
        for row in found
    ]
    titles = [*(key.replace("_", " ") for key in FROM), "micro-batches", *columns]
    notes = {
        f"{r['size']}: {r['network']}, {r['length']} tokens, {r['batch']} texts" for r in found
    }
    said = f"{gradients.LEGEND} Networks: {'; '.join(sorted(notes))}."
    made = f"{found[0]['hardware']}; seed {found[0]['seed']}; `{found[0]['command']}`."
    return f"{said} {made}\n\n{markdown(titles, cells)}"


def save(folder, new):
    """Put rows into results.json, in the place of their like, and write table.md."""
    path = folder / "results.json"
    found = json.loads(path.read_text()) if path.exists() else []
    made = {tuple(row[k] for k in FROM) for row in new}
    found = [row for row in found if tuple(row[k] for k in FROM) not in made] + new
    files.write_whole(str(path), (json.dumps(found, indent=1) + "\n").encode())
    files.write_whole(str(folder / "table.md"), as_markdown(found).encode())


def arguments(given=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--cases", nargs="+", choices=shipped.CASES, default=list(shipped.CASES))
    parser.add_argument("--updates", nargs="+", type=int, help="these of a walk's")
    parser.add_argument("--walks", nargs="+", type=int, help="these of a size's, from 0")
    parser.add_argument("--output", default="results/precision")
    return parser.parse_args(given)


def _walks(size, options):
    """What the command line leaves of a size's walks."""
    for index, plan in enumerate(size.walks):
        updates = [n for n in plan.updates if n in (options.updates or plan.updates)]
        if updates and index in (options.walks or range(len(size.walks))):
            yield replace(plan, updates=tuple(updates))


def main(given=None):
    options = arguments(given)
    torch.set_num_threads(1)
    made = {
        "hardware": hardware(torch.device("cpu")),
        "torch": torch.__version__,
        "commit": trees.own_commit(),
        "command": "python -m benchmarks.gradient_precision",
    }
    for name, size in zip(options.sizes, map(SIZES.get, options.sizes), strict=True):
        make, texts_NL = functools.cache(size.make), shipped.texts(length=size.length)
        for case in (c for c in size.cases if c in options.cases):
            for plan in _walks(size, options):
                start = time.perf_counter()
                for row in walk(case, make(case), texts_NL, size, plan):
                    about = {"size": name, "network": size.note, "length": size.length}
                    about |= {"batch": size.batch, "seed": 1}
                    seconds = {"seconds": time.perf_counter() - start}
                    save(Path(options.output), [about | row | seconds | made])
                    print(row, flush=True)


if __name__ == "__main__":
    main()
