"""What the process itself needs to train fast: threads, memory allocator, device, precision.

Knows nothing about models, except that :func:`fastest_precision` is handed one step to time.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import time
from collections.abc import Callable

import torch

from pellucid.errors import ConfigError
from pellucid.machine import usable_cpus

__all__ = ["fastest_precision", "keep_memory", "resolve_device", "set_threads"]


def set_threads(threads: int | None) -> int:
    """Use this many CPU threads (default: one for each CPU that the process may use) and return the number."""
    if threads is None:
        threads = usable_cpus()
    torch.set_num_threads(threads)
    return threads


def keep_memory() -> None:
    """Tell glibc's malloc to keep freed memory instead of handing it back to the system after every tensor.

    Training frees and allocates the same large tensors in each update; with the default settings each costs fresh page
    faults (7 % of the time where it was measured: benchmarks/NOTES.md). And the heap's first GiB is to consist of huge
    pages, where Linux gives them to those who ask: small ones cost 8 % in misses of the address cache. Elsewhere than
    glibc: nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    mallopt = libc.mallopt
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
    mallopt(m_mmap_threshold, 32 * 2**20)  # the largest that glibc takes
    mallopt(m_trim_threshold, 2**31 - 1)
    mallopt(m_top_pad, 64 * 2**20)
    _ask_for_huge_pages(libc)


def _ask_for_huge_pages(libc: ctypes.CDLL, pieces: int = 40, size: int = 30 * 2**20) -> None:
    """Let the heap grow by pieces below the threshold above, mark them, and free them: none is touched here."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    page, madv_hugepage = mmap.PAGESIZE, 14
    held = [address for address in (libc.malloc(size) for _ in range(pieces)) if address]
    for address in held:
        start = address // page * page  # the page before is the heap's, too: pieces without a gap are one range
        libc.madvise(start, size, madv_hugepage)  # a kernel without huge pages refuses, and nothing is changed
    for address in held:
        libc.free(address)


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
