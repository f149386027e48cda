"""The native engine's library: found where the installation built it, else built once by the compiler that is there.

Knows files, compilers and what this CPU can do; knows nothing of models.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["SANITIZERS", "NativeUnavailableError", "cache_folder", "compile_library", "load_library"]

SOURCE = Path(__file__).parent / "source"
INSTALLED = Path(__file__).parent  # where an installation puts what it has built
NEEDED = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "fma", "f16c")
FLAGS = (
    *("-O3", "-std=c++17", "-fPIC", "-shared", "-pthread", "-w", "-fvisibility=hidden"),
    *(f"-m{name.replace('avx512_vnni', 'avx512vnni')}" for name in NEEDED),
)
SANITIZERS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


class NativeUnavailableError(Exception):
    """The engine cannot run here; the message says why, in words that fit behind "because".

    Attributes:
        loaded: the model in PyTorch, on the CPU, where it had to be loaded to know that.
    """

    loaded: Any = None


def cache_folder() -> Path:
    """Where what was built or packed is kept: $PELLUCID_CACHE, or ``pellucid`` in the user's cache folder."""
    if given := os.environ.get("PELLUCID_CACHE"):
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pellucid"
    except RuntimeError:  # no HOME, and no entry for this user: containers
        return Path(tempfile.gettempdir()) / f"pellucid-{os.getuid()}"


@lru_cache(maxsize=1)
def load_library() -> ctypes.CDLL:
    """The library, built if need be (some seconds, once).

    Raises:
        NativeUnavailableError: another CPU, no compiler, or it failed.
    """
    if missing := [name for name in NEEDED if name not in _cpu_flags()]:
        raise NativeUnavailableError(f"this CPU has no {missing[0].replace('_', '-').upper()}")
    if given := os.environ.get("PELLUCID_NATIVE_LIBRARY"):  # another build of it: with sanitizers, say
        return ctypes.CDLL(given)
    newest = max((file.stat().st_mtime for file in SOURCE.glob("*")), default=0.0)
    for file in sorted(INSTALLED.glob("_engine*.so")):
        # In a clone the sources may have changed since; an installation writes all files within a minute.
        if file.stat().st_mtime + 60 >= newest:
            return _opened(file)
    return _opened(_built())


def _opened(library: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise NativeUnavailableError(f"{library} cannot be used ({error}); where it is damaged, delete it") from None


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return set(line.partition(":")[2].split())


def _built() -> Path:
    sources = sorted(SOURCE.iterdir())
    compiler = next(
        (found for name in (os.environ.get("CXX"), "g++", "clang++") if name and (found := shutil.which(name))), None
    )
    if compiler is None:
        raise NativeUnavailableError("it is not built and there is no C++ compiler (g++ or clang++) to build it with")
    # The compiler by its path, size and age: asking for its version would start it every time.
    about = os.stat(compiler)
    key = hashlib.sha256(repr((compiler, about.st_size, about.st_mtime_ns, FLAGS)).encode())
    for file in sources:
        key.update(file.read_bytes())
    library = cache_folder() / f"engine-{key.hexdigest()[:16]}.so"
    if not library.is_file():
        compile_library(compiler, library)
    return library


def compile_library(compiler: str, library: Path, more: tuple[str, ...] = ()) -> None:
    """Build the library.

    Raises:
        NativeUnavailableError: the compiler failed, or the folder cannot be written to.
    """
    if sys.stderr is not None and sys.stderr.isatty():
        print("building the native engine (once, some seconds) ...", file=sys.stderr)  # noqa: T201
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            file = Path(folder) / library.name
            command = [compiler, *FLAGS, *more, str(SOURCE / "engine.cpp"), "-o", str(file)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:  # the compiler may know AMX and its assembler not
                done = subprocess.run([*command, "-DPELLUCID_NO_AMX"], capture_output=True, text=True, check=False)
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
                raise NativeUnavailableError(f"{compiler} could not build it ({lines[0].strip()})")
            with file.open("rb") as built:
                os.fsync(built.fileno())
            file.replace(library)
    except OSError as error:
        raise NativeUnavailableError(f"it could not be built in {library.parent} ({error.strerror or error})") from None
