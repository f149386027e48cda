"""Started by torchrun itself: one process killed, Ctrl-C, and what is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from runs import full_settings, traces
from toys import write_toy_corpus

LONGEST = 300


class Torchrun:
    """A run with two processes, and what it has said so far."""

    def __init__(self, config: Path, *options: str) -> None:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *options]
        command += ["-m", "pellucid", "train", str(config)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.said = ""

    def read_until(self, pattern: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            if re.search(pattern, line):
                return
        raise AssertionError(self.said)

    def worker(self, rank: int) -> int:
        """The process's id."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            if f"\0RANK={rank}\0".encode() in Path(f"/proc/{child}/environ").read_bytes():
                return int(child)
        raise AssertionError(children)

    def end(self) -> int:
        assert self.process.stderr is not None
        self.said += self.process.stderr.read()
        return self.process.wait()


@contextmanager
def torchrun(config: Path, *options: str) -> Iterator[Torchrun]:
    run = Torchrun(config, *options)
    late = threading.Timer(LONGEST, run.process.kill)
    late.start()
    try:
        yield run
    finally:
        late.cancel()
        run.process.terminate()
        run.process.wait()
        if run.process.stderr is not None:
            run.process.stderr.close()


def write_config(folder: Path, name: str, **training: Any) -> Path:
    corpus = write_toy_corpus(folder / "corpus", pairs=120)
    often = {"log_every": 1, "save_every": 4, "validate_every": 50, **training}
    settings = full_settings(corpus, folder / name, **often)
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(settings))
    return config


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes where Linux lists them")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_run_with_one_sentence_and_it_goes_on_exactly(rank: int, tmp_path: Path) -> None:
    config = write_config(tmp_path, "killed", max_updates=60)
    with torchrun(config) as run:
        run.read_until(r"  update 10/")
        os.kill(run.worker(rank), signal.SIGKILL)
        assert run.end() != 0
    errors = [line for line in run.said.splitlines() if line.startswith("pellucid: error: ")]
    update = json.loads((tmp_path / "killed" / "last" / "training.json").read_text())["update"]
    assert errors == [
        "pellucid: error: another of the 2 processes of this run has ended without a word (killed, perhaps, or out of "
        f"memory); the run has stopped, and {tmp_path}/killed/last holds update {update}, whole: start the same "
        "command again"
    ], run.said
    assert update >= 8 and "stopping after" not in run.said
    for again in (config, write_config(tmp_path, "undisturbed", max_updates=60)):
        with torchrun(again) as run:
            assert run.end() == 0, run.said
    assert traces(tmp_path / "killed") == traces(tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes where Linux lists them")
def test_torchrun_can_start_a_run_again_by_itself(tmp_path: Path) -> None:
    with torchrun(write_config(tmp_path, "again", max_updates=40), "--max-restarts=1") as run:
        run.read_until(r"  update 10/")
        os.kill(run.worker(1), signal.SIGKILL)
        assert run.end() == 0, run.said
    assert run.said.count("pellucid: error: another of the 2 processes") == 1
    assert run.said.count("going on behind update") == 1
    assert json.loads((tmp_path / "again" / "last" / "training.json").read_text())["update"] == 40


@pytest.mark.slow
def test_ctrl_c_stops_all_and_saves(tmp_path: Path) -> None:
    with torchrun(write_config(tmp_path, "stopped", max_updates=5000, save_every=5000, validate_every=5000)) as run:
        run.read_until(r"  update 5/")
        run.process.send_signal(signal.SIGINT)
        assert run.end() != 0  # torchrun's own
    assert run.said.count("stopping after this update; the checkpoint is being saved") == 1
    assert run.said.count(f"stopped; the same command goes on from {tmp_path}/stopped/last\n") == 1
    assert "pellucid: error" not in run.said
    assert json.loads((tmp_path / "stopped" / "last" / "training.json").read_text())["update"] >= 5
