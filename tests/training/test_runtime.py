"""What the process sets for itself."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROBE = """
import resource, sys
import torch
from pellucid.training.runtime import keep_memory

def used():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

before = used()
keep_memory()
marked = used()
tensors = [torch.ones(2**21) for _ in range(20)]
full = used()
del tensors
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
tensors = [torch.ones(2**21) for _ in range(20)]
print(marked - before, full - marked, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_freed_memory_is_kept_and_nothing_is_taken_in_advance() -> None:
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    marked, taken, faults = map(float, run.stdout.split())
    assert marked < 20  # MiB
    assert 150 < taken < 200  # 20 tensors of 8 MiB
    assert faults < 2_000  # of the 40,960 pages that they fill
