"""A run folder: nobody else's files are touched, nothing goes before its successor stands, other text is noticed."""

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
from safetensors.torch import load_file, save_file

import runs
from pellucid.config import Config, parse_config
from pellucid.errors import ConfigError, DataError, TrainingError
from pellucid.experiment import train
from pellucid.run_folder import ACCEPTABLE, FREE, RunFolder
from pellucid.settings import fields_of
from pellucid.training.log import Silent
from runs import Ending
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


# -- other settings, where they are asked for


def stopped(data: Path, run: Path, update: int = 2, **training: Any) -> Path:
    """A run that was stopped behind an update, in the middle of an epoch where there is one."""
    train(parse_config(settings(data, run, batch_tokens=64, save_every=1, **training)), Ending(update, signal.SIGINT))
    return run


def go_on(data: Path, run: Path, reporter: Any = None, **training: Any) -> Any:
    """Go on with it, accepting the changes."""
    config = parse_config(settings(data, run, **{"batch_tokens": 64, "save_every": 1, **training}))
    return train(config, reporter or Silent(), accept_changes=True)


def progress_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "last" / "training.json").read_text())
    return found


def test_changes_are_refused_with_the_way_to_accept_them(data: Path, tmp_path: Path) -> None:
    run = stopped(data, tmp_path / "run")
    before = files(run)
    with pytest.raises(ConfigError) as refused:
        start(settings(data, run, batch_tokens=64, learning_rate=0.01, label_smoothing=0.2))
    assert str(refused.value) == (
        f"{run}: a run with other settings is in this folder; changed: training.learning_rate (0.02 → 0.01), "
        "training.label_smoothing (0.1 → 0.2): take the changes back, go on with them by --accept-changes, choose "
        "another --output, or start anew with --overwrite"
    )
    assert files(run) == before


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("model.hidden_size", 64, "the shape of the weights"),
        ("tokenizer.kind", "characters", "the tokenizer, whose token numbers the weights know"),
        ("data.max_target_tokens", 50, "which text the run reads"),
        ("training.metric", "bleu", "what best/ has been chosen by"),
        ("training.freeze", ["encoder.*"], "which weights have been trained"),
    ],
)
def test_what_the_state_depends_on_cannot_change(
    name: str, value: Any, reason: str, data: Path, tmp_path: Path
) -> None:
    run = stopped(data, tmp_path / "run")
    before = files(run)
    changed = settings(data, run, batch_tokens=64, learning_rate=0.01)
    group, _, key = name.partition(".")
    changed[group][key] = value
    for accept in (False, True):
        with pytest.raises(ConfigError) as refused:
            train(parse_config(changed), Silent(), accept_changes=accept)
        said = str(refused.value)
        assert f"{name} (" in said and "training.learning_rate (0.02 → 0.01)" in said
        assert f"; {name} cannot change in a run: decides {reason}" in said
        assert "--accept-changes" not in said
    assert files(run) == before


def test_every_setting_that_is_accepted_exists() -> None:
    names = [name for name, _ in fields_of(Config)]
    assert set(names) >= ACCEPTABLE
    assert [name for name in ACCEPTABLE if name.startswith(FREE)] == []


def test_a_run_goes_on_with_accepted_changes_and_keeps_the_old_settings(data: Path, tmp_path: Path) -> None:
    run = stopped(data, tmp_path / "run")
    old, state = (run / "config.yaml").read_text(), progress_of(run)
    assert state["batch"] > 0
    reporter = Ending(-1, signal.SIGINT)
    assert go_on(data, run, reporter, learning_rate=0.01).finished == "all updates done"
    assert (run / "config-until-000002.yaml").read_text() == old
    assert "learning_rate: 0.01" in (run / "config.yaml").read_text()
    assert "changed: training.learning_rate (0.02 → 0.01)" in reporter.lines
    assert progress_of(run)["epoch"] == state["epoch"], "nothing about the batches has changed"
    assert start(settings(data, run, batch_tokens=64, learning_rate=0.01)) == "all updates done"
    start(settings(data, run, max_updates=2), overwrite=True)
    assert not list(run.glob("config-until-*"))


def test_a_suspicious_change_is_warned_of(data: Path, tmp_path: Path) -> None:
    run = stopped(data, tmp_path / "run")
    reporter = Ending(-1, signal.SIGINT)
    go_on(data, run, reporter, learning_rate=0.9)
    assert any(line.startswith("warning: training.learning_rate = 0.9 is above") for line in reporter.lines)


@pytest.mark.parametrize("changes", [{"batch_tokens": 200}, {"ema_decay": 0.9}, {"learning_rate": 0.01}])
def test_a_changed_run_that_is_killed_goes_on_as_one_that_is_not(
    changes: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    """Even where the kill comes before anything has been saved with the new settings."""
    whole = stopped(data, tmp_path / "whole")
    before = progress_of(whole)
    shutil.copytree(whole, tmp_path / "killed")
    go_on(data, whole, **changes)
    command = [sys.executable, runs.__file__]
    again = settings(data, tmp_path / "killed", **{"batch_tokens": 64, "save_every": 100, **changes})
    killed = subprocess.run([*command, json.dumps(again), "3", "update", "accept"], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    state = progress_of(tmp_path / "killed")
    assert state["update"] == 2
    expected = (before["epoch"] + 1, 0) if "batch_tokens" in changes else (before["epoch"], before["batch"])
    assert (state["epoch"], state["batch"]) == expected
    assert start({**again, "training": {**again["training"], "save_every": 1}}) == "all updates done"
    assert files(whole / "last")["model.safetensors"] == files(tmp_path / "killed" / "last")["model.safetensors"]


def test_averaging_can_begin_and_end(data: Path, tmp_path: Path) -> None:
    """The raw weights are those that go on, and an average that begins begins with them."""
    run = stopped(data, tmp_path / "run")
    weights = load_file(run / "last" / "model.safetensors")
    config = dict(learning_rate=1e-9, warmup_steps=0, weight_decay=0.0, max_updates=6, validate_every=100)
    go_on(data, run, ema_decay=0.5, **config)
    state = load_file(run / "last" / "training.safetensors")
    averaged = load_file(run / "last" / "model.safetensors")
    for name, tensor in weights.items():
        assert torch.allclose(state[f"weights.{name}"], tensor, atol=1e-6)
        assert torch.allclose(averaged[name], tensor, atol=1e-6)
    raw = {name: tensor + 1.0 if name.startswith("weights.") else tensor for name, tensor in state.items()}
    save_file(raw, run / "last" / "training.safetensors")
    go_on(data, run, ema_decay=0.0, **{**config, "max_updates": 7})
    assert not any(name.startswith("weights.") for name in load_file(run / "last" / "training.safetensors"))
    for name, tensor in load_file(run / "last" / "model.safetensors").items():
        assert torch.allclose(tensor, weights[name] + 1.0, atol=1e-6)


def test_a_new_dropout_is_that_of_the_model(data: Path, tmp_path: Path) -> None:
    ends = {}
    for dropout in (0.0, 0.4):
        run = tmp_path / str(dropout)
        values = settings(data, run, save_every=1)
        values["model"]["dropout"] = 0.0
        train(parse_config(values), Ending(2, signal.SIGINT))
        values["model"]["dropout"] = dropout
        train(parse_config(values), Silent(), accept_changes=True)
        assert json.loads((run / "last" / "config.json").read_text())["model"]["dropout"] == dropout
        ends[dropout] = files(run / "last")["model.safetensors"]
    assert ends[0.0] != ends[0.4]


def test_a_finished_run_goes_on_where_there_is_more_to_do(data: Path, run: Path) -> None:
    with pytest.raises(ConfigError, match=r"changed: training\.max_updates \(4 → 6\): take the changes back, go on"):
        start(settings(data, run, max_updates=6))
    before = files(run / "last")
    with pytest.raises(ConfigError, match=r"4 updates are done, and the settings end the run at 3: raise"):
        train(parse_config(settings(data, run, max_updates=3)), Silent(), accept_changes=True)
    assert files(run / "last") == before
    assert "max_updates: 4" in (run / "config.yaml").read_text()
    assert train(parse_config(settings(data, run, max_updates=6)), Silent(), accept_changes=True).update == 6
    assert train(parse_config(settings(data, run, max_updates=6)), Silent()).update == 6
