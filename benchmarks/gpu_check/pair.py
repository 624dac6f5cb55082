"""A pair of 170 million parameters in this process: seconds, MFU, memory, where the time goes."""

import dataclasses
import gc
import statistics

import torch

from benchmarks import one_pair, scale
from duo_ext import host

CASES = {
    "mdlm": "MDLM",
    "categorical": "uniform, categorical",
    "gaussian": "uniform, Gaussian",
}
PROFILED = 8
FORMS = tuple(
    (form, batch)
    for batch in (PROFILED, 32, 4, 16)
    for form in (one_pair.COMPILED, one_pair.CORE)  # what is compiled has a slow first pair
)
SMALL = one_pair.Size(vocab=512, length=32, blocks=1, width=64)
FULL = one_pair.Size(vocab=scale.VOCAB, length=scale.LENGTH, blocks=12, width=768)
REPEATS, LINES, COLUMNS = 3, 25, 40


def run(report, setting):
    host.find(host.STANDALONE).activate()
    device = torch.device(setting.device)
    for form, batch in FORMS:
        for case in CASES:
            size = SMALL if setting.dry else FULL
            size = dataclasses.replace(size, batch=batch)
            name = f"{case}_compiled" if form == one_pair.COMPILED else case
            try:
                found = _measured(case, form, size, device)
            except torch.OutOfMemoryError as error:  # the smaller batches still count
                found = {"error": str(error)[:200]}
            report.note(**{f"{name}_{key}_{batch}": value for key, value in found.items()})
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _measured(case, form, size, device):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    pair = one_pair.Pair(case, form, size, device)
    first = sum(wall for wall, _ in pair.run().values())
    parts = [pair.run() for _ in range(REPEATS)]
    seconds = statistics.median(sum(wall for wall, _ in part.values()) for part in parts)
    F = statistics.median(pair.forward()[0] for _ in range(REPEATS))
    model = scale.Model(size.width, size.blocks)
    flops = (
        model.pair_in_F(scale.PROCESSES[CASES[case]])
        * (model.body_flops + model.head_flops)
        * size.tokens
    )
    found = {
        "first_seconds": first,
        "seconds": seconds,
        "seconds_of_512": seconds * scale.BATCH / size.batch,
        "seconds_of_F": F,
        "mfu": flops / seconds / scale.PEAK["bfloat16"],
        "parts": {name: [part[name][0] for part in parts] for name in parts[0]},
    }
    if device.type == "cuda":
        found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    if size.batch == PROFILED:
        found["profile"] = profile(pair, device)
    return found


def profile(pair, device):
    """torch.profiler's table of one pair, its lines."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    key = "self_cpu_time_total"
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        key = "self_device_time_total"
    with torch.profiler.profile(activities=activities) as watch:
        pair.run()
    table = watch.key_averages().table(sort_by=key, row_limit=LINES, max_name_column_width=COLUMNS)
    return table.splitlines()
