"""Whole runs by the command line: a pair of 512, a look, a resume, one process of DDP, sotu_bpe."""

import itertools
import json
import math
import shutil
import time

import torch

from benchmarks import published
from benchmarks import sotu_bpe as bpe
from benchmarks.gpu_check.command_lines import Lines, furthest, pairs, updates
from duo_ext.weights import checkpoints

# name: (experiment, teacher, more words)
CASES = {
    "mdlm": ("owt_idlm_mdlm", "mdlm-owt", ()),
    "categorical": ("owt_idlm_duo", "duo.ckpt", ("algo.noising=categorical",)),
    "gaussian": ("owt_idlm_duo", "duo.ckpt", ()),
}
NO_GUARD = "algo.guard.every=0"
WAYS = {"": ("algo.compile=true", "loader.batch_size=16"), "as_published_": ()}
FEW = ("loader.global_batch_size=16", "loader.batch_size=8", NO_GUARD)
# Sums in a fixed order, so that two runs can be equal.
EXACT = ("+trainer.deterministic=true",)
GPT2_LARGE = {"n_embd": 1280, "n_layer": 36, "n_head": 20}
TINY_JUDGE = {"n_embd": 64, "n_layer": 2, "n_head": 2}
TRAINED = 1000  # steps of the teacher, in place of 20,000
GB = 1e9


def pair_of_512(report, setting):
    """Seconds of a pair of the published batch, and the most that it takes of the GPU: compiled, in
    larger micro-batches, and as published."""
    lines = Lines(setting)
    for (way, fast), (name, case) in itertools.product(WAYS.items(), CASES.items()):
        experiment, teacher, more = case
        words = (NO_GUARD, "trainer.max_steps=3", *more, *fast)
        laps = lines.run(name, lines.published(experiment, teacher, name, *words))
        found = {
            "pair_seconds": pairs(laps)[-1],
            "pairs": pairs(laps),
            "gpu_gb": _most(laps, "gpu_bytes"),
            "losses": updates(laps),
        }
        report.note(**{f"{name}_{way}{key}": value for key, value in found.items()})
        shutil.rmtree(lines.folder / name)


def _most(laps, key):
    return max((lap[key] or 0) / GB for lap in laps)


def look(report, setting):
    """A look and the teacher's measurement with a judge of GPT-2 large's size."""
    lines = Lines(setting)
    judge = lines.folder / "gpt2-large"
    published.make_judge(
        judge, lines.common["tokenizer"], TINY_JUDGE if setting.dry else GPT2_LARGE
    )
    lines.common["judge"] = judge
    guard = {"every": 1, "steps": "[8]", "teacher_steps": 16, "samples": 4 if setting.dry else 64}
    words = [f"algo.guard.{key}={value}" for key, value in guard.items()]
    words = lines.published(*CASES["mdlm"][:2], "look", *FEW[:2], "trainer.max_steps=1", *words)
    laps = lines.run("look", words)
    seconds = {lap["phase"]: lap["seconds"] for lap in laps}
    found = json.loads((lines.folder / "look" / "guard.json").read_text())
    report.note(
        looks=len(found["history"]),
        seconds_of_the_teacher=seconds["the teacher's samples"],
        seconds_of_a_look=seconds["look"],
        seconds_of_a_save=seconds["save"],
        gpu_gb=_most(laps, "gpu_bytes"),
        memory_gb=_most(laps, "peak_bytes"),
        guard=found,
    )
    shutil.rmtree(lines.folder / "look")
    shutil.rmtree(judge)


def resume(report, setting):
    """A run that gets SIGTERM amid its second pair and goes on, beside one that does not."""
    lines = Lines(setting)
    case, steps = CASES["mdlm"][:2], "trainer.max_steps=3"
    straight = lines.published(*case, "straight", *FEW, steps, *EXACT)
    laps = lines.run("straight", straight)
    report.note(straight=updates(laps), seconds_of_a_save=_last(laps, "save"))
    words = lines.published(*case, "stopped", *FEW, steps, *EXACT)
    stopped = updates(lines.interrupt("stopped", words))
    report.note(stopped=stopped)
    resumed = updates(lines.run("resumed", words))
    ours, theirs = stopped + resumed, updates(laps)
    report.note(
        resumed=resumed,
        stopped_amid=0 < len(stopped) < len(theirs),
        resumed_differs_by=furthest(ours, theirs),
        weights_equal=_same_weights(lines.folder / "straight", lines.folder / "stopped"),
    )
    for name in ("straight", "stopped"):
        shutil.rmtree(lines.folder / name)


def _last(laps, phase):
    return [lap["seconds"] for lap in laps if lap["phase"] == phase][-1]


def _same_weights(*folders):
    """Whether the averages in the last checkpoints of two runs are the same to the last bit."""
    paths = [str(folder / "checkpoints" / "last.ckpt") for folder in folders]
    ours, theirs = (checkpoints.denoiser(checkpoints.read(path, "last")) for path in paths)
    return all(map(torch.equal, ours.average, theirs.average))


def distributed(report, setting):
    """torchrun's one process with nccl (gloo in a dry run): the losses of a plain process."""
    report.note(**_all_reduce("gloo" if setting.dry else "nccl", setting))
    lines, found = Lines(setting), {}
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m")
    for name, before in {"plain": (), "torchrun": torchrun}.items():
        steps = "trainer.max_steps=1"
        words = lines.published(*CASES["mdlm"][:2], name, *FEW, steps, *EXACT)
        laps = lines.run(name, words, before)
        found[name] = updates(laps)
        report.note(**{name: found[name], f"{name}_pair_seconds": pairs(laps)})
        shutil.rmtree(lines.folder / name)
    report.note(differs_by=furthest(found["plain"], found["torchrun"]))


def _all_reduce(backend, setting):
    """Seconds of an all-reduce of one process's gradients of 170 million parameters."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    flat = torch.ones(1000 if setting.dry else 170_000_000, device=setting.device)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        torch.distributed.all_reduce(flat)
        whole = flat.sum().item()  # waits for it
        seconds.append(time.perf_counter() - start)
    torch.distributed.destroy_process_group()
    return {"backend": backend, "all_reduce_seconds": seconds, "sum_kept": whole == len(flat)}


def sotu_bpe(report, setting):
    """200 pairs of the shipped experiment, of a teacher that is trained for a part of its steps."""
    lines, dry = Lines(setting), setting.dry
    place = {name: lines.folder / f"bpe-{name}" for name in ("teacher", "student")}
    for folder in place.values():
        shutil.rmtree(folder, ignore_errors=True)
    teacher = [f"trainer.max_steps={TRAINED}", "trainer.val_check_interval=500"]
    teacher = bpe.SMOKE_TEACHER if dry else teacher
    words = ["+experiment=sotu_bpe_mdlm", *teacher, lines.run_dir("bpe-teacher")]
    start = time.perf_counter()
    lines.run("bpe-teacher", words)
    report.note(seconds_of_teacher=time.perf_counter() - start)
    student = ["trainer.max_steps=200", "algo.guard.every=100"]
    student = bpe.SMOKE_STUDENT if dry else student
    words = [
        *("+experiment=sotu_bpe_idlm_mdlm", *student, lines.run_dir("bpe-student")),
        f"algo.teacher_path={place['teacher']}/checkpoints/last.ckpt",
    ]
    laps = lines.run("bpe-student", words)
    seconds, found = pairs(laps), updates(laps)
    report.note(
        pairs=len(seconds),
        finite=all(math.isfinite(value) for log in found for value in log.values()),
        median_pair_seconds=sorted(seconds)[len(seconds) // 2],
        gpu_gb=_most(laps, "gpu_bytes"),
        first=found[0],
        last=found[-1],
        guard=json.loads((place["student"] / "guard.json").read_text()),
    )
