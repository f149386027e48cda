"""``pellucid doctor``: a table and a status; 0 where nothing is found, 1 where something is, 2 where nothing can be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from toys import SYMBOLS, Run, toy_settings


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A copying task whose lines are too many to be the same twice, and settings that fit it."""
    import random

    rng = random.Random(4)
    lines = list(dict.fromkeys(" ".join(rng.choices(SYMBOLS, k=rng.randint(5, 12))) for _ in range(420)))
    folder = tmp_path / "text"
    folder.mkdir()
    for name, chosen in (("train", lines[:300]), ("dev", lines[300:400])):
        (folder / f"{name}.src").write_text("".join(line + "\n" for line in chosen))
        (folder / f"{name}.tgt").write_text("".join(line.upper() + "\n" for line in chosen))
    settings: dict[str, Any] = toy_settings(folder)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_sound_run_is_status_0(config: Path, run: Run, tmp_path: Path) -> None:
    result = run("doctor", config, "training.learning_rate=0.01")
    lines = result.out.splitlines()
    assert result.status == 0, result
    assert lines[:3] == ["train: 300 pairs read, 300 kept.", "dev: 100 pairs read, 100 kept.", "check" + lines[2][5:]]
    assert lines[2].split() == ["check", "measured"]
    assert lines[-1].endswith(" checks, nothing found")
    assert sum(line.split("  ")[0] == "causal mask" and " ok " in line for line in lines) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "text"]


def test_what_is_found_is_status_1_and_has_its_sentence(config: Path, run: Run) -> None:
    shutil.copy(config.parent / "text" / "train.src", config.parent / "text" / "dev.src")
    shutil.copy(config.parent / "text" / "train.tgt", config.parent / "text" / "dev.tgt")
    result = run("doctor", config, "training.learning_rate=0.5", "--quick")
    assert result.status == 1
    lines = result.out.splitlines()
    assert any(line.startswith("learning rate ") and "SUSPICIOUS" in line for line in lines)
    assert any(line.startswith("learning rate: training.learning_rate = 0.5 is above") for line in lines)
    assert any(line.startswith("dev: in train, too: 300 of 300 pairs of dev") for line in lines)
    assert lines[-1].endswith(" checks, 2 found")
    assert "causal mask" not in result.out


def test_as_json(config: Path, run: Run) -> None:
    result = run("doctor", config, "training.warmup_steps=500", "--quick", "--json")
    facts = json.loads(result.out)
    assert (result.status, facts["found"]) == (1, 1)
    (found,) = [check for check in facts["checks"] if check["verdict"] == "suspicious"]
    assert set(found) == {"name", "verdict", "figure", "sentence"}
    assert found["name"] == "warm-up inside the run"


def test_bad_input_is_status_2(config: Path, run: Run) -> None:
    result = run("doctor", config, "data.train.source=nope.src")
    assert (result.status, result.out) == (2, "")
    assert result.err.count("\n") == 1 and "nope.src: no such file" in result.err
    assert run("doctor", config, "training.learning_rte=1").status == 2
