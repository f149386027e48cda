"""Full disks, numbers that are none, edited configs: the run stops with a sentence, loses nothing, and goes on exactly.

Afterwards every file is, to the last bit, that of a run to which nothing happened. Kills are in test_kill.py.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pellucid import experiment, files
from pellucid.config import parse_config
from pellucid.errors import ConfigError, TrainingError
from pellucid.experiment import train
from pellucid.training import log, trainer
from pellucid.training.log import Silent
from runs import Ending, full_settings, traces
from toys import write_toy_corpus

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_corpus(tmp_path_factory.mktemp("mishaps"), pairs=120)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert train(parse_config(full_settings(corpus, folder)), Silent()).finished == "all updates done"
    return traces(folder)


def no_room(path: object) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", str(path))


def full_while(where: str, time: int) -> Callable[[Patch], None]:
    """The disk is full when a file of that kind is written for the ``time``-th time."""

    def mishap(patch: Patch) -> None:
        sync, seen = files._sync, []

        def full(path: Path) -> None:
            if where in str(path):
                seen.append(path)
                if len(seen) >= time:
                    raise no_room(path)
            sync(path)

        patch.setattr(files, "_sync", full)

    return mishap


def half_a_record(patch: Patch) -> None:
    """Of the second record there was room for a half."""
    record, seen = log.RunLog.record, []

    def half(self: log.RunLog, kind: str, update: int, values: Any) -> None:
        seen.append(update)
        if len(seen) < 2:
            record(self, kind, update, values)
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write('{"kind": "train", "upd')
        raise no_room(self.path)

    patch.setattr(log.RunLog, "record", half)


def poisoned(what: str) -> Callable[[Patch], None]:
    """At update 7, whose second batch is the 14th."""

    def mishap(patch: Patch) -> None:
        good, calls = trainer.batch_loss, []

        def bad(*arguments: Any, **settings: Any) -> Any:
            loss, nll = good(*arguments, **settings)
            if loss.requires_grad:
                calls.append(loss)
                if len(calls) == 14 and what == "loss":
                    loss = loss * math.nan
                elif len(calls) == 14:
                    loss.register_hook(lambda gradient: gradient * math.inf)
            return loss, nll

        patch.setattr(trainer, "batch_loss", bad)

    return mishap


def poisoned_validation(patch: Patch) -> None:
    good = experiment._Validation.__call__

    def bad(self: Any, model: Any, update: int) -> dict[str, float]:
        found = good(self, model, update)
        return {**found, "loss": math.nan} if update == 8 else found

    patch.setattr(experiment._Validation, "__call__", bad)


MISHAPS: dict[str, tuple[Callable[[Patch], None], str]] = {
    "disk full before anything is saved": (full_while(".last.tmp", 1), "the disk is full; nothing had been saved yet"),
    "disk full at the last save": (full_while(".last.tmp/training.json", 5), "full; .*/last holds update 10, whole"),
    "disk full while best is written": (full_while(".best.tmp/model", 2), "full; .*/last holds update 5, whole"),
    "disk full while a record is written": (half_a_record, "full; .*/last holds update 5, whole|nothing had been"),
    "a loss that is no number": (poisoned("loss"), r"update 7: the loss \(nan\).*/last holds update 5, whole"),
    "a gradient that is no number": (poisoned("gradient"), r"update 7: .* the gradient's norm \((nan|inf)\).*update 5"),
    "a validation that is no number": (poisoned_validation, "update 8: the loss on the development set is not a fin"),
}


@pytest.mark.parametrize("name", MISHAPS)
def test_a_run_goes_on_behind_a_mishap_as_if_nothing_had_happened(
    name: str, undisturbed: dict[str, Any], corpus: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    config = parse_config(full_settings(corpus, tmp_path))
    mishap, sentence = MISHAPS[name]
    with monkeypatch.context() as patch:
        mishap(patch)
        with pytest.raises(TrainingError, match=sentence):
            train(config, Silent())
    assert train(config, Silent()).finished == "all updates done"
    assert traces(tmp_path) == undisturbed


def test_an_edited_config_is_refused_and_the_old_one_goes_on_exactly(
    undisturbed: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    train(parse_config(full_settings(corpus, tmp_path)), Ending(5, signal.SIGINT))
    edited = full_settings(corpus, tmp_path, learning_rate=0.5)
    edited["model"]["hidden_size"] = 64
    with pytest.raises(ConfigError, match=r"model\.hidden_size \(32 → 64\), training\.learning_rate \(0\.02 → 0\.5\)"):
        train(parse_config(edited), Silent(), accept_changes=True)
    assert train(parse_config(full_settings(corpus, tmp_path)), Silent()).finished
    assert traces(tmp_path) == undisturbed


# A file system of its own, with so much room and no more; then with enough.
SMALL_DISK = """
set -e
mount -t tmpfs -o size=$1 none "$2"
set +e
$3 -m pellucid train "$4" output="$2/run" 2>"$5/first" && echo "first: 0" || echo "first: $?"
set -e
mount -o remount,size=200m "$2"
$3 -m pellucid train "$4" output="$2/run" 2>"$5/second"
cp -r "$2/run" "$5/run"
"""


def may_mount() -> bool:
    try:
        command = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs none /mnt"]
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a file system of Linux")
@pytest.mark.parametrize("share", [0.1, 0.4, 0.6, 0.8, 1.0])
def test_a_disk_that_is_really_full(share: float, undisturbed: dict[str, Any], corpus: Path, tmp_path: Path) -> None:
    """With room for a share of what the run leaves behind (while it saves it needs more, so even all is too little)."""
    if not may_mount():
        pytest.skip("this machine lets nobody mount a file system")
    config = tmp_path / "config.yaml"
    settings = full_settings(corpus, tmp_path)
    del settings["output"]
    config.write_text(yaml.safe_dump(settings))
    whole = tmp_path / "whole"
    train(parse_config({**settings, "output": str(whole)}), Silent())
    # In pages of 4 KiB, as the small disk counts.
    size = sum(-(-path.stat().st_size // 4096) * 4096 for path in whole.rglob("*") if path.is_file())
    (tmp_path / "disk").mkdir()
    places = [str(int(share * size)), tmp_path / "disk", sys.executable, config, tmp_path]
    command = ["unshare", "-rm", "bash", "-c", SMALL_DISK, "small-disk", *map(str, places)]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    said = [(tmp_path / name).read_text() for name in ("first", "second")]
    assert result.returncode == 0, (result, said)
    assert "first: 2" in result.stdout, (result, said)
    assert "the disk is full" in said[0] and "Traceback" not in said[0], said[0]
    assert traces(tmp_path / "run") == undisturbed
