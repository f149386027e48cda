"""Exact resume: stopped or killed at any update and started again, a run ends as one that was never disturbed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import runs
from pellucid import experiment
from pellucid.config import load_config, parse_config
from pellucid.data.tokenizer import load_tokenizers
from pellucid.experiment import train
from pellucid.training.log import Silent
from runs import Ending, full_settings, traces
from toys import toy_settings, write_toy_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_toy_corpus(tmp_path_factory.mktemp("small"), pairs=120)
    lines = (folder / "train.src").read_text(encoding="utf-8").splitlines()
    (folder / "train.src").write_text("".join(f"{line}.\n" for line in lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert train(parse_config(full_settings(corpus, folder)), Silent()).finished == "all updates done"
    return traces(folder)


def test_the_undisturbed_run_exercises_what_could_go_wrong(undisturbed: dict[str, Any]) -> None:
    progress = undisturbed["progress"]
    assert progress["update"] == 12
    assert progress["epoch"] > 0 and progress["batch"] > 0
    assert [record["update"] for record in undisturbed["metrics"] if record["kind"] == "validation"] == [4, 8, 12]
    assert undisturbed["last/model.safetensors"] != undisturbed["last/training.safetensors"]


@pytest.mark.parametrize("stops", [[5], [1, 4, 11]])
def test_a_run_stopped_by_a_signal_goes_on_exactly(
    stops: list[int], undisturbed: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    config = parse_config(full_settings(corpus, tmp_path))
    for stop in stops:
        reporter = Ending(stop, signal.SIGINT)
        progress = train(config, reporter)
        assert (progress.update, progress.finished) == (stop, "")
        assert any("stopping after this update" in line for line in reporter.lines)
    assert train(config, Silent()).finished
    assert traces(tmp_path) == undisturbed


def test_r_drop_and_word_dropout_go_on_exactly(corpus: Path, tmp_path: Path) -> None:
    """Both passes and the words left out are drawn again as they were."""

    def settings(name: str, **training: Any) -> dict[str, Any]:
        found = full_settings(corpus, tmp_path / name, r_drop=5.0, max_updates=4, **training)
        found["model"] |= {"word_dropout": 0.2}
        return found

    train(parse_config(settings("whole")), Silent())
    train(parse_config(settings("stopped")), Ending(3, signal.SIGINT))
    assert json.loads((tmp_path / "stopped" / "last" / "training.json").read_text())["update"] == 3
    assert train(parse_config(settings("stopped")), Silent()).finished
    assert traces(tmp_path / "stopped") == traces(tmp_path / "whole")


@pytest.mark.parametrize(("update", "how"), [(7, "update"), (8, "save")])
def test_a_killed_run_goes_on_exactly(
    update: int, how: str, undisturbed: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    settings = full_settings(corpus, tmp_path)
    command = [sys.executable, runs.__file__, json.dumps(settings), str(update), how]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "last").exists() == (how == "update")
    assert train(parse_config(settings), Silent()).finished
    assert traces(tmp_path) == undisturbed


def test_a_finished_run_is_left_alone(toy_corpus: Path, tiny_run: Path) -> None:
    before = traces(tiny_run)
    reporter = Ending(-1, signal.SIGINT)
    assert train(parse_config(toy_settings(toy_corpus, tiny_run)), reporter).finished == "all updates done"
    assert len(reporter.lines) == 1 and "has finished (all updates done, best bleu" in reporter.lines[0]
    assert traces(tiny_run) == before


def test_what_the_machine_decided_holds_after_a_kill_before_the_first_save(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config(full_settings(corpus, tmp_path, precision="auto", threads=None, max_updates=2))
    monkeypatch.setattr(experiment, "fastest_precision", lambda step: torch.bfloat16)
    monkeypatch.setattr(experiment, "set_threads", lambda threads: threads or 3)
    train(config, Ending(1, signal.SIGINT))
    shutil.rmtree(tmp_path / "last")
    monkeypatch.setattr(experiment, "fastest_precision", lambda step: torch.float32)
    monkeypatch.setattr(experiment, "set_threads", lambda threads: threads or 4)
    train(config, Silent())
    stored = load_config(tmp_path / "config.yaml").training
    assert (stored.precision, stored.threads) == ("bfloat16", 3)


def test_other_settings_after_a_kill_before_the_first_save_get_their_own_tokenizer(
    corpus: Path, tmp_path: Path
) -> None:
    settings = full_settings(corpus, tmp_path, max_updates=2)
    train(parse_config(settings), Ending(1, signal.SIGINT))
    shutil.rmtree(tmp_path / "last")
    settings["tokenizer"]["vocab_size"] = 44
    train(parse_config(settings), Silent())
    assert load_tokenizers(tmp_path / "tokenizer")[0].vocab_size == 44
