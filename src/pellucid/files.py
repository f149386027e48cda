"""Writing files and folders so that a reader sees the old content or the new, never a half.

Knows nothing about what is written. POSIX ``rename`` replaces a file in one step; a folder cannot be replaced in one
step, so :func:`replace_folder` keeps the old one under a second name until the new one is in place and
:func:`recover_folder` finishes what a kill interrupted.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = [
    "atomic_file",
    "present_folder",
    "recover_folder",
    "replace_file",
    "replace_folder",
    "write_json",
    "write_text",
]


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds, delete it if not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        replace_file(temporary, path)
    except OSError as error:
        _name_place(error, temporary, path)
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


def replace_file(temporary: Path, path: Path) -> None:
    """Rename ``temporary`` to ``path`` in the same folder, so that it survives a power cut, too."""
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; put it in the place of ``folder`` if the block succeeds, delete it if not.

    At every moment either ``folder`` or its hidden ``.old`` twin is whole; after an error (disk full, Ctrl-C) it is
    ``folder`` again, and after a kill :func:`recover_folder` makes it so.
    """
    recover_folder(folder)
    temporary = _temporary(folder)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            _sync(path)
        if folder.exists():
            os.rename(folder, _old(folder))
        os.rename(temporary, folder)
        _sync(folder.parent)  # the new name is on the disk before the old content goes, also where the power fails
    except OSError as error:
        _name_place(error, temporary, folder)
        raise
    finally:
        recover_folder(folder)


def recover_folder(folder: Path) -> None:
    """Undo or finish a :func:`replace_folder` that was killed, so that ``folder`` is whole if it ever was."""
    old = _old(folder)
    if old.exists():
        if folder.exists():
            shutil.rmtree(old)
        else:
            os.rename(old, folder)
    shutil.rmtree(_temporary(folder), ignore_errors=True)


def _name_place(error: OSError, temporary: Path, place: Path) -> None:
    """Let an error name what its reader knows, not the temporary name beside it."""
    name = str(error.filename)
    if name.startswith(str(temporary)):
        error.filename = str(place) + name[len(str(temporary)) :]


def present_folder(folder: Path) -> Path:
    """Where the content of ``folder`` is for a reader, who changes nothing: a writer may be at work in another process.

    It is ``folder`` but for the moment (or after a kill in the moment) in which only its ``.old`` twin is there.
    """
    return _old(folder) if not folder.exists() and _old(folder).exists() else folder


def _temporary(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.tmp")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
