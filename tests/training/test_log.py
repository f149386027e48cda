"""The run log is a function of the updates done: what will be done again is removed, torn lines are dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pellucid.training.log import METRICS_FILE, Reporter, RunLog, Silent, training_line, validation_line


def records(folder: Path) -> list[dict[str, Any]]:
    content = (folder / METRICS_FILE).read_text(encoding="utf-8")
    assert not content or content.endswith("\n")
    return [json.loads(line) for line in content.splitlines()]


def write(folder: Path, start: int, updates: list[int]) -> None:
    log = RunLog(folder, start)
    for update in updates:
        log.record("train", update, {"loss": update / 10})
    log.close()


def test_records_are_one_json_object_a_line(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    log.record("train", 50, {"loss": 3.25, "epoch": 1})
    log.record("validation", 50, {"bleu": 12.5, "new_best": True})
    assert records(tmp_path) == [  # before the log is closed: a kill loses nothing
        {"kind": "train", "update": 50, "loss": 3.25, "epoch": 1},
        {"kind": "validation", "update": 50, "bleu": 12.5, "new_best": True},
    ]
    log.close()


def test_on_resume_records_behind_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    write(tmp_path, 0, [50, 100, 150, 200])
    write(tmp_path, 100, [150, 250])
    assert [record["update"] for record in records(tmp_path)] == [50, 100, 150, 250]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_torn_last_line_is_dropped(tmp_path: Path, cut: int) -> None:
    write(tmp_path, 0, [50, 100])
    path = tmp_path / METRICS_FILE
    path.write_bytes(path.read_bytes()[:-cut])
    write(tmp_path, 200, [250])
    # Without its line end alone, a record is still whole.
    expected = [50, 250] if cut > 1 else [50, 100, 250]
    assert [record["update"] for record in records(tmp_path)] == expected


def test_a_new_run_starts_with_an_empty_file(tmp_path: Path) -> None:
    write(tmp_path, 0, [])
    assert records(tmp_path) == []


def test_numbers_become_tensorboard_events(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    log.record("train", 50, {"loss": 3.25})
    log.record("validation", 50, {"bleu": 12.5, "sample": "a text is no curve"})
    log.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"train/loss" in content
    assert b"validation/bleu" in content
    assert b"sample" not in content


def test_the_training_line() -> None:
    values = {"epoch": 2, "loss": 3.14159, "tokens_per_second": 3856.4, "grad_norm": 0.987, "learning_rate": 0.002}
    line = training_line(1450, 12000, values)
    assert line == "epoch 2  update 1,450/12,000  loss 3.142  3,856 tokens/s  |g| 0.99  lr 2.00e-03"


def test_the_validation_line() -> None:
    line = validation_line(1450, {"loss": 2.34567, "bleu": 30.129}, "new best")
    assert line == "validation at update 1,450  loss 2.346  bleu 30.13  new best"


def test_silent_is_a_reporter_that_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Silent()
    assert isinstance(reporter, Reporter)
    reporter.line("text")
    reporter.progress("task", 1, 2)
    assert capsys.readouterr() == ("", "")
