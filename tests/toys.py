"""A small trained model that tests of several folders share, and the text it was trained on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

SYMBOLS = "ba da ga ka la ma na pa ra ta".split()


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
