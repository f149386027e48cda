"""Packed weights in the user's cache folder: their names, how they get there, and which of them go again.

A name has three parts: the place that the model was at, what was there, the precision. Knows files; knows nothing of
what is in them. Several processes may do any of this at once: whoever has mapped a file keeps it, though its name goes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pellucid.native.build import cache_folder
from pellucid.native.packing import PACK_VERSION

__all__ = ["MOST_BYTES", "MOST_DAYS", "packed_name", "packing_folder", "prune", "touch"]

MOST_BYTES = 16 << 30
"""Of all packed weights; beyond it those go that were not used for longest."""
MOST_DAYS = 60
"""Packed weights that nobody has used for so long go."""
LEFTOVER_SECONDS = 3600
DAY = 86_400
PREFIX = ".packing-"
PACKED = re.compile(r"([0-9a-f]{12}-)?[0-9a-f]{16}-(float32|int8)\.bin")
"""Names of packed weights, those of earlier versions, too: whatever else is in the folder is not ours to delete."""


def packed_name(place: Path, about: Any, precision: str) -> Path:
    """Where the packed weights of a model are kept.

    Args:
        place: of the model; what was packed of it before, in this precision, goes when it is packed anew.
        about: what tells one state of it from another, such as names, sizes and ages of files.
        precision: of the packed weights.
    """
    where = hashlib.sha256(os.fsencode(place.resolve())).hexdigest()[:12]
    what = hashlib.sha256(repr((PACK_VERSION, about)).encode()).hexdigest()[:16]
    return cache_folder() / "packed" / f"{where}-{what}-{precision}.bin"


def touch(packed: Path) -> None:
    """Note that it was used, once a day: the time is that of the file."""
    with suppress(OSError):
        if time.time() - packed.stat().st_mtime > DAY:
            os.utime(packed)


@contextmanager
def packing_folder(packed: Path) -> Iterator[tuple[Path, bool]]:
    """A folder to pack in, and whether it is beside ``packed``, to be renamed there; else that cannot be written to.

    The folder is locked while this process lives, so that others know it for one in use.

    Raises:
        OSError: there is no room for temporary files either.
    """
    try:
        packed.parent.mkdir(parents=True, exist_ok=True)
        kept = os.access(packed.parent, os.W_OK)
    except OSError:
        kept = False
    with tempfile.TemporaryDirectory(dir=packed.parent if kept else None, prefix=PREFIX) as name:
        descriptor = os.open(name, os.O_RDONLY)
        try:
            with suppress(OSError):  # where files cannot be locked, an hour must do
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(name), kept
        finally:
            os.close(descriptor)


def prune(packed: Path) -> None:
    """Beside a file that was just written: drop what it replaces, what is old, what is too much, and what is left over.

    A leftover is a folder that a process has packed in and that has ended without clearing up, more than an hour ago.
    """
    now = time.time()
    used: list[tuple[float, int, Path]] = []
    place, precision = packed.stem.partition("-")[0], packed.stem.rpartition("-")[2]
    for path in _entries(packed.parent):
        with suppress(OSError):
            stat = path.stat()
            if path.name.startswith(PREFIX):
                _drop_leftover(path, now)
            elif path == packed or not PACKED.fullmatch(path.name):
                continue
            elif _is_earlier(path, place, precision) or now - stat.st_mtime > MOST_DAYS * DAY:
                path.unlink()
            else:
                used.append((stat.st_mtime, stat.st_size, path))
    total = 0
    with suppress(OSError):  # another process may have replaced it already
        total = packed.stat().st_size
    for _, size, path in sorted(used, reverse=True):
        total += size
        if total > MOST_BYTES:
            with suppress(OSError):  # another user's, in a shared folder
                path.unlink()


def _is_earlier(path: Path, place: str, precision: str) -> bool:
    """Whether it was packed of the same model folder, in the same precision."""
    parts = path.stem.split("-")
    return len(parts) == 3 and (parts[0], parts[2]) == (place, precision)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _drop_leftover(folder: Path, now: float) -> None:
    times = [path.stat().st_mtime for path in (folder, *_entries(folder))]
    if now - max(times) < LEFTOVER_SECONDS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where its owner lives
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
