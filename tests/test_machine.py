"""CPUs and memory that a process may use, by the files of containers as Docker, Kubernetes and systemd leave them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pellucid import machine
from pellucid.machine import free_memory, usable_cpus


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 16 CPUs."""
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    return tmp_path


def put(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_without_limits(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (usable_cpus(), free_memory()) == (16, None)
    put(root, **{"proc/meminfo": "MemTotal:       16000 kB\nMemAvailable:    8000 kB\n"})
    put(root, **{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"})
    put(root, **{"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "4096\n"})
    assert (usable_cpus(), free_memory()) == (16, 8000 * 1024)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 5, raising=False)  # Python 3.13: PYTHON_CPU_COUNT, too
    assert usable_cpus() == 5


@pytest.mark.parametrize(("quota", "cpus"), [(200_000, 2), (150_000, 2), (50_000, 1), (1_000, 1), (9_900_000, 16)])
def test_a_quota_of_version_2(root: Path, quota: int, cpus: int) -> None:
    put(root, **{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": f"{quota} 100000\n"})
    assert usable_cpus() == cpus


def test_the_narrowest_of_all_groups_around_counts(root: Path) -> None:
    put(root, **{"proc/self/cgroup": "0::/kube/pod/container\n"})
    put(root, **{"sys/fs/cgroup/kube/cpu.max": "300000 100000\n"})
    put(root, **{"sys/fs/cgroup/kube/pod/cpu.max": "700000 100000\n"})
    put(root, **{"sys/fs/cgroup/kube/pod/container/cpu.max": "max 100000\n"})
    assert usable_cpus() == 3


def test_a_path_of_the_host_within_a_container(root: Path) -> None:
    put(root, **{"proc/self/cgroup": "0::/../docker/1234\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"})
    assert usable_cpus() == 4


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
def test_a_quota_of_version_1(root: Path, mount: str) -> None:
    put(root, **{"proc/self/cgroup": "12:memory:/docker/1234\n4:cpu,cpuacct:/docker/1234\n1:name=systemd:/x\n0::/\n"})
    put(root, **{f"sys/fs/cgroup/{mount}/cpu.cfs_period_us": "100000\n"})
    quota = f"sys/fs/cgroup/{mount}/cpu.cfs_quota_us"
    put(root, **{quota: "-1\n"})
    assert usable_cpus() == 16
    put(root, **{quota: "250000\n"})
    assert usable_cpus() == 3


def test_memory_of_both_versions_without_what_may_be_dropped(root: Path) -> None:
    put(root, **{"proc/meminfo": "MemAvailable:    8000000 kB\n", "proc/self/cgroup": "7:memory:/docker/1\n0::/\n"})
    put(root, **{"sys/fs/cgroup/memory.max": "1000000\n", "sys/fs/cgroup/memory.current": "900000\n"})
    put(root, **{"sys/fs/cgroup/memory.stat": "anon 500000\ninactive_file 300000\n"})
    assert free_memory() == 400_000
    group = "sys/fs/cgroup/memory/docker/1"
    put(root, **{f"{group}/memory.limit_in_bytes": "700000\n", f"{group}/memory.usage_in_bytes": "600000\n"})
    put(root, **{f"{group}/memory.stat": "total_inactive_file 50000\n"})
    assert free_memory() == 150_000
