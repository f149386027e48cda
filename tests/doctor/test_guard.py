"""What `train` does with the quick checks: it warns, or does not begin; and the weights are none of their business."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doctor_cases import World, sentences

from pellucid import experiment
from pellucid.config import parse_config
from pellucid.errors import DataError
from pellucid.experiment import train
from runs import full_settings, traces
from toys import write_toy_corpus

WORLD = sentences()


class Heard:
    """A reporter that keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, task: str, done: int, total: int) -> None:
        pass


def start(world: World, folder: Path, **changes: Any) -> list[str]:
    heard = Heard()
    short = dict(training__max_updates=2, training__warmup_steps=1, training__metric="loss")
    train(world.config(folder, **{**short, **changes}), heard)
    return heard.lines


def slipped() -> World:
    targets = [target for _, target in WORLD.train]
    return replace(
        WORLD,
        train=[(source, target) for (source, _), target in zip(WORLD.train, [*targets[1:], targets[0]], strict=True)],
    )


def test_a_warning_comes_before_the_first_update_and_the_run_goes_on(tmp_path: Path) -> None:
    lines = start(WORLD, tmp_path, model__dropout=0.9)
    (number,) = [n for n, line in enumerate(lines) if line.startswith("warning: ") and "model.dropout = 0.9" in line]
    assert number < next(n for n, line in enumerate(lines) if "parameters" in line)
    assert (tmp_path / "run" / "last").is_dir()


def test_what_is_wrong_beyond_doubt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"slipped against each other.*training\.checks=warn goes on all the same"):
        start(slipped(), tmp_path)
    assert not (tmp_path / "run" / "last").exists() and not (tmp_path / "run" / "config.yaml").exists()


def test_a_refusal_can_be_a_warning_or_nothing(tmp_path: Path) -> None:
    lines = start(slipped(), tmp_path / "warned", training__checks="warn")
    assert any(line.startswith("warning: train: from about line 1") for line in lines)
    lines = start(slipped(), tmp_path / "silent", training__checks="skip")
    assert not any("warning" in line for line in lines)


def test_checks_touch_neither_the_weights_nor_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_toy_corpus(tmp_path / "corpus", pairs=120)
    left = {}
    for checks in ("warn", "skip"):
        settings = full_settings(corpus, tmp_path / checks, checks=checks, max_updates=4)
        train(parse_config(settings), Heard())
        left[checks] = {
            name: value for name, value in traces(tmp_path / checks).items() if not name.endswith("config.json")
        }
    assert left["warn"] == left["skip"]
    # A run that goes on has been looked at; and whether it was is no part of what it is.
    monkeypatch.setattr(experiment, "guard", None)
    settings = full_settings(corpus, tmp_path / "warn", checks="refuse", max_updates=4)
    assert train(parse_config(settings), Heard()).finished
