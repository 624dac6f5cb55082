"""What benchmarks are measured with: clocks, memory, the name of the machine."""

import ctypes
import itertools
import json
import platform
import tempfile
import time
from pathlib import Path

import torch


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
