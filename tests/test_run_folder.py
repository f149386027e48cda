"""A run folder: nobody else's files are touched, nothing goes before its successor stands, other text is noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pellucid.config import parse_config
from pellucid.errors import ConfigError, DataError, TrainingError
from pellucid.experiment import train
from pellucid.run_folder import RunFolder
from pellucid.training.log import Silent
from toys import toy_settings, write_toy_corpus


def settings(data: Path, output: Path, **training: Any) -> dict[str, Any]:
    values = toy_settings(data, output)
    values["training"] |= {"max_updates": 4, "validate_every": 2, "metric": "loss", **training}
    return values


def start(values: dict[str, Any], overwrite: bool = False) -> str:
    return train(parse_config(values), Silent(), overwrite).finished


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_toy_corpus(tmp_path / "data", pairs=60)


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Path:
    start(settings(data, tmp_path / "run"))
    return tmp_path / "run"


def stop_early(run: Path) -> None:
    """Let the finished run look as if it had been stopped at its last save."""
    path = run / "last" / "training.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"finished": "", "update": 2, "epoch": 2, "batch": 0}))


@pytest.mark.parametrize("name", ["config.yaml", "tokenizer", "samples", "best"])
def test_a_folder_with_files_of_such_names_that_is_not_a_run_is_refused(data: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    if "." in name:
        (folder / name).write_text("mine")
    else:
        (folder / name).mkdir()
        (folder / name / "file").write_text("mine")
    before = files(folder)
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=rf"not a run of pellucid.*{name}"):
            start(settings(data, folder), overwrite)
    assert files(folder) == before


def test_overwrite_keeps_the_old_run_until_the_new_one_has_passed_its_checks(data: Path, run: Path) -> None:
    before = files(run / "best") | files(run / "last")
    wrong = settings(data, run)
    wrong["data"]["train"]["source"] = "nope.src"
    with pytest.raises(DataError, match=r"nope\.src"):
        start(wrong, overwrite=True)
    assert files(run / "best") | files(run / "last") == before
    assert start(settings(data, run, max_updates=2), overwrite=True)
    assert json.loads((run / "last" / "training.json").read_text())["update"] == 2


@pytest.mark.parametrize("kind", ["dev", "test"])
def test_another_shape_of_corpora_is_named_not_a_crash(data: Path, run: Path, kind: str) -> None:
    stop_early(run)
    changed = settings(data, run, learning_rate=0.5)
    changed["data"]["test"] = {"source": "dev.src", "target": "dev.tgt"}
    if kind == "dev":
        del changed["data"]["dev"]
    with pytest.raises(ConfigError, match=r"changed: training\.learning_rate \(0\.02 → 0\.5\)"):
        start(changed)


def test_what_does_not_touch_the_weights_may_change(data: Path, run: Path, tmp_path: Path) -> None:
    stop_early(run)
    moved = settings(shutil.copytree(data, tmp_path / "elsewhere"), run, log_every=1, save_every=7)
    moved["decoding"] = {"beam_size": 3}
    assert start(moved) == "all updates done"
    assert "beam_size: 3" in (run / "config.yaml").read_text()


def test_other_text_under_the_same_name_is_noticed(data: Path, run: Path) -> None:
    stop_early(run)
    write_toy_corpus(data, pairs=50, seed=2)
    with pytest.raises(TrainingError, match="the training text and the development text changed since this run began"):
        start(settings(data, run))


def test_loading_does_not_move_the_callers_random_numbers(run: Path) -> None:
    import torch

    import pellucid

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    pellucid.load(run)
    assert torch.equal(torch.rand(2), expected)


def test_what_a_killed_process_was_writing_goes(data: Path, run: Path) -> None:
    left = [run / ".config.yaml.77.tmp", run / "samples" / ".update-000240.txt.77.tmp"]
    (run / "samples").mkdir(exist_ok=True)
    for file in left:
        file.write_text("half a fi", encoding="utf-8")
    RunFolder(run, overwrite=False)
    assert not any(file.exists() for file in left)
