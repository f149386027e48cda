"""What the process itself needs to train fast: threads, memory allocator, device, precision.

Knows nothing about models, except that :func:`fastest_precision` is handed one step to time.
"""

from __future__ import annotations

import ctypes
import os
import platform
import time
from collections.abc import Callable

import torch

from pellucid.errors import ConfigError

__all__ = ["fastest_precision", "keep_memory", "resolve_device", "set_threads"]


def set_threads(threads: int | None) -> int:
    """Use this many CPU threads (default: all cores the process may use) and return the number."""
    if threads is None:
        # Linux knows which cores the process may use; elsewhere all are counted.
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        threads = usable or 1
    torch.set_num_threads(threads)
    return threads


def keep_memory() -> None:
    """Tell glibc's malloc to keep freed memory instead of handing it back to the system after every tensor.

    Training frees and allocates the same large tensors in each update; with the default settings each costs fresh page
    faults (7 % of the time where it was measured: benchmarks/NOTES.md). Elsewhere than glibc: nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
    mallopt(m_mmap_threshold, 32 * 2**20)  # the largest that glibc takes
    mallopt(m_trim_threshold, 2**31 - 1)
    mallopt(m_top_pad, 64 * 2**20)


def resolve_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is the first accelerator there is, else the CPU.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise ConfigError(
            f"device = {name!r}: not available here; use auto, cpu, or one that this machine has"
        ) from None
    return device


def fastest_precision(step: Callable[[torch.dtype], object], repeats: int = 3) -> torch.dtype:
    """Time ``step`` in float32 and in bfloat16, alternately, and return the faster.

    The first call of each is not counted. bfloat16 must win by a tenth: a tie goes to the more exact.
    """
    best: dict[torch.dtype, float] = {}
    for repeat in range(repeats + 1):
        for dtype in (torch.float32, torch.bfloat16):
            start = time.perf_counter()
            step(dtype)
            if repeat:
                best[dtype] = min(best.get(dtype, float("inf")), time.perf_counter() - start)
    return torch.bfloat16 if best[torch.bfloat16] < 0.9 * best[torch.float32] else torch.float32
