"""What only a process of its own shows: Ctrl-C, and a reader that goes away."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from toys import toy_settings

LONGEST = 60  # seconds to wait for a process that should end at once


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    pipe: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-m", "pellucid", *map(str, arguments)]
    # A suite started in the background of a script ignores SIGINT, and what it starts would inherit that. An exec puts
    # handlers back to the default, but leaves what is ignored ignored.
    ignored = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        child = subprocess.Popen(command, text=True, bufsize=1, **pipe)
    finally:
        signal.signal(signal.SIGINT, ignored)
    with child:
        try:
            yield child
        finally:
            child.kill()


def test_ctrl_c_saves_and_says_how_to_go_on(toy_corpus: Path, tmp_path: Path) -> None:
    settings = toy_settings(toy_corpus, tmp_path / "run")
    settings["training"] |= {"max_updates": 100_000, "log_every": 1, "validate_every": 100_000}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with process("train", tmp_path / "config.yaml") as child:
        assert child.stderr is not None
        next(line for line in child.stderr if "  update 3/" in line)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=LONGEST)
    assert (child.returncode, out) == (130, "")
    assert "stopping after this update; the checkpoint is being saved" in err
    assert err.endswith(f"stopped; the same command goes on from {tmp_path / 'run'}/last\n")
    assert "Traceback" not in err
    assert json.loads((tmp_path / "run" / "last" / "training.json").read_text())["update"] >= 3


def test_each_line_is_answered_and_ctrl_c_is_quiet(tiny_run: Path) -> None:
    with process("translate", "--model", tiny_run, "--batch-size", 1, "--threads", 1) as child:
        assert child.stdin is not None and child.stdout is not None
        for text in ("ba da\n", "ga\n"):
            child.stdin.write(text)
            child.stdin.flush()
            assert child.stdout.readline().strip()
        child.send_signal(signal.SIGINT)
        assert (child.wait(LONGEST), *child.communicate()) == (130, "", "")


def test_a_reader_that_has_had_enough_is_no_error(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "many").write_text("ba\n" * 5000)
    base = ("translate", "--model", tiny_run, "--batch-size", 1, "--threads", 1, "--beam-size", 1)
    with process(*base, "--input", tmp_path / "many") as child:
        assert child.stdout is not None and child.stderr is not None
        assert child.stdout.readline().strip()
        child.stdout.close()
        assert (child.wait(LONGEST), child.stderr.read()) == (141, "")


@pytest.mark.parametrize(
    ("arguments", "redirection"),
    [(["--version"], ">&-"), (["translate", "-m", "{run}"], "<&-"), (["translate", "-m", "{run}", "ba"], ">&- 2>&-")],
)
def test_a_closed_stream_is_an_empty_one(tiny_run: Path, arguments: list[str], redirection: str) -> None:
    command = [sys.executable, "-m", "pellucid", *(argument.format(run=tiny_run) for argument in arguments)]
    result = subprocess.run(
        f"{shlex.join(command)} {redirection}", shell=True, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
