"""Packed weights in the cache folder: kept while they are used, dropped when they are not, whoever else is at it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pellucid.native import cache
from pellucid.native.cache import LEFTOVER_SECONDS, MOST_DAYS, packed_name, packing_folder, prune, touch

DAY = 86_400


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path))
    (tmp_path / "packed").mkdir()
    return tmp_path / "packed"


def put(path: Path, *, age: float = 0.0, size: int = 100) -> Path:
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_what_is_replaced_goes_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    old, new = (packed_name(tmp_path / "m", about, "int8") for about in (["old"], ["new"]))
    others = [packed_name(tmp_path / "m", ["old"], "float32"), packed_name(tmp_path / "n", ["old"], "int8")]
    for path in (old, new, *others, folder / "0123456789abcdef-int8.bin", folder / "notes.txt"):
        put(path)
    prune(new)
    assert not old.exists() and all(path.exists() for path in (new, *others))
    assert (folder / "0123456789abcdef-int8.bin").exists() and (folder / "notes.txt").exists()


def test_what_is_not_ours_stays_whatever_its_age_and_size(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES", 1000)
    age = (MOST_DAYS + 1) * DAY
    others = [put(folder / name, age=age, size=2000) for name in ("pytorch_model.bin", "a-b-int8.bin", "corpus.bin")]
    earlier = put(folder / "0123456789abcdef-int8.bin", age=age)
    prune(put(packed_name(tmp_path / "m", [], "int8")))
    assert all(path.exists() for path in others) and not earlier.exists()


def test_what_cannot_be_deleted_is_no_error(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES", 0)
    stuck, new = (packed_name(tmp_path / name, [], "int8") for name in "ab")
    stuck.mkdir()  # as another user's file in a shared folder
    prune(new)  # which another process has replaced meanwhile
    assert stuck.is_dir()


def test_what_nobody_uses_goes_and_what_is_used_stays(folder: Path, tmp_path: Path) -> None:
    unused, used = (packed_name(tmp_path / name, [], "int8") for name in "ab")
    for path in (unused, used):
        put(path, age=(MOST_DAYS + 1) * DAY)
    touch(used)
    prune(put(packed_name(tmp_path / "c", [], "int8")))
    assert used.exists() and not unused.exists()


def test_the_last_used_stay_within_the_bound(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES", 1000)
    paths = [put(packed_name(tmp_path / str(n), [], "int8"), age=n * DAY, size=300) for n in range(5)]
    new = put(packed_name(tmp_path / "new", [], "int8"), age=9 * DAY, size=350)
    prune(new)
    assert [path.exists() for path in paths] == [True, True, False, False, False] and new.exists()
    prune(put(packed_name(tmp_path / "huge", [], "int8"), size=5000))
    assert [path.name for path in folder.iterdir()] == [packed_name(tmp_path / "huge", [], "int8").name]


OWNER = """
import sys
from pathlib import Path
from pellucid.native.cache import packing_folder

with packing_folder(Path(sys.argv[1])) as (folder, kept):
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(folder: Path, tmp_path: Path) -> None:
    new = put(packed_name(tmp_path / "m", [], "int8"))
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(new)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdin is not None
    place = Path(process.stdout.readline().strip())
    put(place / "half")
    past = time.time() - LEFTOVER_SECONDS - 60

    def grow_old() -> None:
        for path in (place / "half", place):
            os.utime(path, (past, past))

    grow_old()
    prune(new)
    assert place.is_dir()  # it is still at it
    process.kill()
    process.wait()
    process.stdout.close()
    process.stdin.close()
    put(place / "half")
    prune(new)
    assert place.is_dir()  # it has just gone
    grow_old()
    prune(new)
    assert not place.exists() and new.exists()


def test_where_nothing_can_be_written_it_is_packed_elsewhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with packing_folder(tmp_path / "file" / "packed" / "x-y-int8.bin") as (place, kept):
        assert place.is_dir() and not kept
    assert not place.exists()


def test_several_processes_prune_at_once(folder: Path, tmp_path: Path) -> None:
    for number in range(200):
        put(packed_name(tmp_path / str(number), [], "int8"), age=(MOST_DAYS + 1) * DAY)
    new = put(packed_name(tmp_path / "new", [], "int8"))
    line = f"from pathlib import Path; from pellucid.native.cache import prune; prune(Path({str(new)!r}))"
    processes = [subprocess.Popen([sys.executable, "-c", line], stderr=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == [b""] * 3
    assert [path.name for path in folder.iterdir()] == [new.name]
