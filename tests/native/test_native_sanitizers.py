"""The engine's own tests, run on a build that watches every access to memory and every undefined operation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from native_models import needs_engine

from conftest import ROOT
from pellucid.native.build import SANITIZERS, cache_folder, compile_library

needs_engine()

TESTS = ("test_native_parity.py", "test_native_search.py", "test_native_boundary.py", "test_native_tiles.py")


@pytest.mark.slow
def test_no_access_outside_and_nothing_undefined() -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed: the runtime of its sanitizers is preloaded here")
    library = cache_folder() / "engine-watched.so"
    compile_library(compiler, library, SANITIZERS)
    found = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {
        **os.environ,
        "PELLUCID_NATIVE_LIBRARY": str(library),
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own, and PyTorch's
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), str(Path(__file__).parent)]),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    tests = [str(Path(__file__).with_name(name)) for name in TESTS]
    done = subprocess.run([*command, *tests], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
