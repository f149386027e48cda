"""What of this machine a process may use: CPUs and memory, by the system's own limits and those of a container.

Knows Linux's control groups (v1 and v2) from their files, and asks the system for the rest; knows nothing of what is
computed. Everything is read anew each time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["free_memory", "usable_cpus"]

ROOT = Path("/")
"""Where proc and sys are; another place in tests."""


def usable_cpus() -> int:
    """CPUs that the process may keep busy: those it may run on, no more than a container's quota gives, rounded up."""
    if hasattr(os, "process_cpu_count"):
        count = os.process_cpu_count()
    else:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = [math.ceil(quota) for quota in _quotas()]
    return max(1, min([count or 1, *quotas]))


def free_memory() -> int | None:
    """Bytes that the process may still take without swapping; None where nobody says.

    What a container has read from files and may be dropped counts as free.
    """
    found = list(_rooms())
    available = next((words[1] for words in _words("proc/meminfo") if words[0] == "MemAvailable:"), None)
    if available is not None:
        found.append(int(available) * 1024)
    return max(0, min(found)) if found else None


def _quotas() -> Iterator[float]:
    """CPUs that each control group around the process may keep busy, where it has a limit."""
    for folder in _groups("cpu"):
        limit = _text(folder / "cpu.max").split()  # v2: "max 100000", or microseconds out of that many
        if len(limit) == 2 and limit[0] != "max":
            yield int(limit[0]) / int(limit[1])
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")  # v1; -1: no limit
        if quota is not None and period and quota > 0:
            yield quota / period


def _rooms() -> Iterator[int]:
    """Bytes that each control group around the process has left, where it has a limit."""
    for folder in _groups("memory"):
        for most, used, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, taken = _number(folder / most), _number(folder / used)
            if limit is not None and taken is not None:
                statistics = dict(line.split(maxsplit=1) for line in _text(folder / "memory.stat").splitlines())
                yield limit - taken + int(statistics.get(cached, 0))


def _groups(controller: str) -> Iterator[Path]:
    """The folders of the process's control groups for that controller, and of all around them."""
    for line in _text(ROOT / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        mount = ROOT / "sys/fs/cgroup" / names
        if names and not mount.is_dir():  # v1 may have a folder for the controller by itself
            mount = ROOT / "sys/fs/cgroup" / controller
        # In a container the path may be the host's, and what is mounted is the group itself.
        inside = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(inside), -1, -1):
            yield mount.joinpath(*inside[:depth])


def _words(path: str) -> Iterator[list[str]]:
    return (line.split() for line in _text(ROOT / path).splitlines() if line.strip())


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None
