"""What this machine can do well: bf16 on a CPU, which many have no instructions for; its cores."""

import contextlib
import functools
import logging
import os
import platform
import time
from pathlib import Path

import torch

BF16 = ("bf16", "bf16-mixed", "bf16-true")  # Lightning's names for it


@functools.cache
def bf16_factor() -> float:
    """How many times longer than in float32 a matrix product takes on this CPU in bf16.

    Measured here in about 60 ms, on one thread, because a second one on a core that is busy makes
    any number of it: below 1 where the CPU has bf16 instructions, 5 to 9 where it imitates them
    (AVX2 alone).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _seconds(torch.bfloat16) / _seconds(torch.float32)
    finally:
        torch.set_num_threads(threads)


def _seconds(dtype, width=256, tries=7):
    """The shortest of some tries."""
    x_BD, weight_DD = torch.ones(width, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
    found = []
    for _ in range(tries):
        start = time.perf_counter()
        torch.nn.functional.linear(x_BD, weight_DD)
        found.append(time.perf_counter() - start)
    return min(found)


def cores() -> int:
    """How many cores this process may use, as far as the system says."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def cpu() -> str:
    """One line on this CPU's bf16, for --check."""
    factor = bf16_factor()
    if factor <= 1:
        return f"bf16 on this CPU: {1 / factor:.1f} times as fast as float32"
    return f"bf16 on this CPU: {factor:.1f} times slower than float32, which +machine=cpu sets"


def warn_of_bf16(device: str, precision: str, key: str) -> None:
    """Log what bf16 costs, where ``key`` asks for it as ``precision`` on a CPU that lacks it."""
    if device == "cpu" and precision in BF16 and bf16_factor() > 1.5:
        logging.getLogger("duo_ext").warning(
            "%s is %s: on this CPU a matrix product takes %.1f times as long in it as in float32; "
            "float32 is faster and more exact, and what +machine=cpu sets",
            *(key, precision, bf16_factor()),
        )


def hardware(device: str | torch.device) -> str:
    """One line on what runs a device's work: its name, the threads of a CPU, torch's version."""
    if str(device).startswith("cuda"):
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    name = platform.processor() or platform.machine()
    with contextlib.suppress(FileNotFoundError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), name)
    return f"{torch.get_num_threads()} threads of {name}, torch {torch.__version__}"
