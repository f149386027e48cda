"""What tests of several folders share: a small trained model, the text it was trained on, and the command line."""

from __future__ import annotations

import io
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SYMBOLS = ["ba", "da", "ga", "ka", "la", "ma", "na", "pa", "ra", "ta"]


def write_toy_corpus(folder: Path, pairs: int = 400, seed: int = 1) -> Path:
    """A copying task in two aligned files, train and dev: the target has the source's symbols in capitals."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for name, count in (("train", pairs), ("dev", 20)):
        lines = [" ".join(rng.choices(SYMBOLS, k=rng.randint(1, 5))) for _ in range(count)]
        (folder / f"{name}.src").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        (folder / f"{name}.tgt").write_text("".join(line.upper() + "\n" for line in lines), encoding="utf-8")
    return folder


def toy_settings(data: Path, output: Path | None = None) -> dict[str, Any]:
    """Settings that learn the toy corpus in a few seconds on one core."""
    return {
        **({} if output is None else {"output": str(output)}),
        "data": {
            "dir": str(data),
            "train": {"source": "train.src", "target": "train.tgt"},
            "dev": {"source": "dev.src", "target": "dev.tgt"},
        },
        "tokenizer": {"kind": "symbols"},
        "model": {"hidden_size": 32, "encoder_layers": 1, "decoder_layers": 1, "num_heads": 2, "ff_size": 64},
        "training": {
            "batch_tokens": 512,
            "max_updates": 120,
            "learning_rate": 0.02,
            "warmup_steps": 20,
            "validate_every": 60,
            "threads": 1,
            "precision": "float32",
            "device": "cpu",
        },
        "decoding": {"beam_size": 2},
    }


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.src, train.tgt, dev.src, dev.tgt; not to be changed."""
    return write_toy_corpus(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, toy_corpus: Path) -> Path:
    """A finished run on the toy corpus; not to be changed: copy it."""
    from pellucid.config import parse_config
    from pellucid.experiment import train
    from pellucid.training.log import Silent

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(parse_config(toy_settings(toy_corpus, folder)), Silent())
    return folder


class Result(NamedTuple):
    """What a command line did."""

    status: int
    out: str
    err: str


Run = Callable[..., Result]


class _Stdin(io.TextIOWrapper):
    def __init__(self, content: io.BytesIO, typed: bool) -> None:
        super().__init__(content, encoding="utf-8")
        self.typed = typed

    def isatty(self) -> bool:
        return self.typed


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in this process: ``run("info", folder, stdin=b"")``."""
    from pellucid.cli import main

    # Commands take all cores by default; tests have one.
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)

    def call(*arguments: object, stdin: bytes = b"", typed: bool = False) -> Result:
        monkeypatch.setattr(sys, "stdin", _Stdin(io.BytesIO(stdin), typed))
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return Result(status, *capsys.readouterr())

    return call
