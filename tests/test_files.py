"""Files and folders are old or new, never half: after errors, after kills at every step, and for readers in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pellucid import files
from pellucid.files import atomic_file, present_folder, recover_folder, replace_folder, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


# -- files


def test_a_new_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path  # a rename is atomic only inside one file system
        assert not path.exists()
    assert contents(tmp_path) == {"a.txt": "new"}


def test_an_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert contents(tmp_path) == {"a.txt": "new"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_litter(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_file(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert contents(tmp_path) == {"a.txt": "old"}


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(os, function, _no_space)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert contents(tmp_path) == {"a.txt": "old"}


def test_a_file_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _record_calls(monkeypatch)
    write_text(tmp_path / "a.txt", "new")
    assert calls == ["fsync", "replace", "fsync"]  # the content, the name, and that the name is on the disk


def test_text_is_utf8_with_plain_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "我\n爱\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "我\n爱\r\n".encode()


def test_json_is_readable_by_people_and_machines(tmp_path: Path) -> None:
    value = {"text": "我爱中国", "scores": [0.1, -2.0], "none": None}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert '\n  "text": "我爱中国",\n' in text
    assert text.endswith("}\n")


# -- folders


def write_version(folder: Path, version: str) -> None:
    with replace_folder(folder) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "weights").write_text(version)
        (temporary / "inner" / "config").write_text(version)


def whole(version: str) -> dict[str, str]:
    return {"weights": version, "inner/config": version}


def test_a_new_folder_appears_whole_with_its_parents(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "best"
    write_version(folder, "new")
    assert contents(folder) == whole("new")
    assert names(folder.parent) == ["best"]


def test_an_old_folder_is_there_until_the_new_one_is_whole_and_nothing_of_it_stays(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    write_version(folder, "old")
    (folder / "only-in-old").touch()
    with replace_folder(folder) as temporary:
        assert names(temporary) == []
        (temporary / "weights").write_text("new")
        assert (folder / "weights").read_text() == "old"
    assert contents(folder) == {"weights": "new"}
    assert names(tmp_path) == ["best"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_folder_and_no_litter(tmp_path: Path, error: type[BaseException]) -> None:
    folder = tmp_path / "best"
    write_version(folder, "old")
    with pytest.raises(error), replace_folder(folder) as temporary:  # noqa: PT012
        (temporary / "weights").write_text("half")
        raise error
    assert contents(folder) == whole("old")
    assert names(tmp_path) == ["best"]


def test_a_full_disk_leaves_the_old_folder_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "best"
    write_version(folder, "old")
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(OSError, match="No space left"):
        write_version(folder, "new")
    assert contents(folder) == whole("old")
    assert names(tmp_path) == ["best"]


def test_a_failed_last_rename_gives_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "best"
    write_version(folder, "old")
    rename, failed = os.rename, []

    def fail_once(source: Path, target: Path) -> None:
        if target == folder and not failed:
            failed.append(target)
            _no_space()
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(OSError, match="No space left"):
        write_version(folder, "new")
    assert failed == [folder]
    assert contents(folder) == whole("old")
    assert names(tmp_path) == ["best"]


def test_every_file_of_a_folder_is_on_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_version(tmp_path / "best", "old")
    calls = _record_calls(monkeypatch)
    write_version(tmp_path / "best", "new")
    # Two files and two folders; the two names; and the folder of the names, before the old content is deleted.
    assert calls == ["fsync"] * 4 + ["rename"] * 2 + ["fsync"]


def test_a_reader_finds_the_folder_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "best"
    assert present_folder(folder) == folder  # neither is there: the name to complain about
    write_version(folder, "old")
    rename, seen = os.rename, []

    def rename_and_look(source: Path, target: Path) -> None:
        seen.append(contents(present_folder(folder)))
        rename(source, target)
        seen.append(contents(present_folder(folder)))

    monkeypatch.setattr(os, "rename", rename_and_look)
    write_version(folder, "new")
    assert seen == [whole("old"), whole("old"), whole("old"), whole("new")]
    assert present_folder(folder) == folder


def test_no_file_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    for version in "abc":
        write_version(tmp_path / "best", version)
    assert len(os.listdir("/dev/fd")) == before


# A kill runs no `finally`: a process that is really killed, at every call that changes the disk, before and after it.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from pellucid.files import replace_folder

folder, stop_at = Path(sys.argv[1]), int(sys.argv[2])
calls = 0

def deadly(function):
    def wrapper(*arguments, **keywords):
        global calls
        for moment in ("before", "after"):
            if calls == stop_at:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            if moment == "before":
                result = function(*arguments, **keywords)
        return result
    return wrapper

with replace_folder(folder) as temporary:
    os.rename, os.unlink, os.rmdir = map(deadly, (os.rename, os.unlink, os.rmdir))
    (temporary / "inner").mkdir()
    (temporary / "weights").write_text("new")
    (temporary / "inner" / "config").write_text("new")
print(calls)
"""


def replace_and_kill(folder: Path, stop_at: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", KILLED, str(folder), str(stop_at)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_kill_at_any_step_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    write_version(tmp_path / "undisturbed", "old")
    undisturbed = replace_and_kill(tmp_path / "undisturbed", stop_at=-1)
    steps = int(undisturbed.stdout)
    assert steps == 12  # before and after two renames and the four deletions of an old folder (two files, two folders)
    outcomes = []
    for step in range(steps):
        folder = tmp_path / str(step) / "best"
        write_version(folder, "old")
        assert replace_and_kill(folder, step).returncode == -signal.SIGKILL
        recover_folder(folder)
        assert names(folder.parent) == ["best"], f"litter after a kill at step {step}"
        outcomes.append(contents(folder))
        write_version(folder, "next")  # and the folder can be replaced again
        assert contents(folder) == whole("next")
        assert names(folder.parent) == ["best"]
    changed = outcomes.index(whole("new"))
    assert outcomes == [whole("old")] * changed + [whole("new")] * (steps - changed)
    assert 0 < changed < steps


def test_the_next_replacement_recovers_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    write_version(folder, "old")
    folder.rename(files._old(folder))  # killed between the two renames
    files._temporary(folder).mkdir()
    (files._temporary(folder) / "stray").touch()
    with replace_folder(folder) as temporary:
        assert names(temporary) == []
        assert contents(folder) == whole("old")
        (temporary / "weights").write_text("new")
    assert contents(folder) == {"weights": "new"}
    assert names(tmp_path) == ["best"]


def test_recovering_a_whole_folder_or_none_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    recover_folder(folder)
    assert names(tmp_path) == []
    write_version(folder, "old")
    recover_folder(folder)
    assert contents(folder) == whole("old")


def _no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def _record_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []

    def recorded(name: str) -> None:
        function = getattr(os, name)

        def wrapper(*arguments: object) -> None:
            calls.append(name)
            function(*arguments)

        monkeypatch.setattr(os, name, wrapper)

    for name in ("fsync", "rename", "replace"):
        recorded(name)
    return calls
