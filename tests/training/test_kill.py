"""Fifty SIGKILLs at random moments: the run ends as one that was never disturbed, to the last bit."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from runs import full_settings, traces
from toys import write_toy_corpus

KILLS = 50
STARTING = 12  # of them while the process starts: imports, reading, going back to the checkpoint
UPDATES = 1700
LIFE = 40  # most updates of a life: so few that the run outlives all kills


def start(config: Path, folder: Path, stderr: Any = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pellucid", "train", str(config), f"output={folder}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, text=True)


def kill_after_updates(child: subprocess.Popen[str], updates: int, seconds: float) -> int:
    """Kill when so many updates have been reported, and then a moment later; the update that was reported last."""
    assert child.stderr is not None
    reports = (
        int(found[1].replace(",", "")) for line in child.stderr if (found := re.search(r"  update ([\d,]+)/", line))
    )
    first = last = next(reports)
    while last < first + updates:
        last = next(reports)
    time.sleep(seconds)
    child.kill()
    return last


@pytest.mark.slow
def test_fifty_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("KILL_SEED") or int.from_bytes(os.urandom(4), "big"))
    sys.stdout.write(f"KILL_SEED={seed} repeats these moments, as far as the machine does\n")
    rng = random.Random(seed)
    corpus = write_toy_corpus(tmp_path / "corpus", pairs=120)
    settings: dict[str, Any] = full_settings(
        corpus, tmp_path, max_updates=UPDATES, save_every=7, validate_every=40, log_every=1, metric="bleu"
    )
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings))

    undisturbed = start(config, tmp_path / "undisturbed", subprocess.DEVNULL)
    killed_at: list[int] = []
    for starting in rng.sample([True] * STARTING + [False] * (KILLS - STARTING), KILLS):
        with start(config, tmp_path / "killed") as child:
            if starting:
                time.sleep(rng.uniform(0, 4))
                child.kill()
            else:
                killed_at.append(kill_after_updates(child, rng.randrange(LIFE), rng.uniform(0, 0.05)))
        assert child.returncode == -signal.SIGKILL
    with start(config, tmp_path / "killed") as child:
        assert child.stderr is not None
        said = child.stderr.read()
    assert child.returncode == 0, said
    assert "going on behind update" in said
    assert len(killed_at) == KILLS - STARTING and max(killed_at) > 100

    assert undisturbed.wait() == 0
    expected = traces(tmp_path / "undisturbed")
    found = traces(tmp_path / "killed")
    assert found["last/model.safetensors"] == expected["last/model.safetensors"], killed_at
    assert found == expected, killed_at
    assert len([record for record in found["metrics"] if record["kind"] == "train"]) == UPDATES
