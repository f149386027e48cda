"""Short runs that use everything that is random, ways to end them early, and what must be equal afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from toys import toy_settings

TIMING = ("tokens_per_second",)


def full_settings(data: Path, output: Path, **training: Any) -> dict[str, Any]:
    """Dropout, sampled texts, accumulation, averaged weights, several epochs, validations and saves."""
    settings = toy_settings(data, output)
    settings["tokenizer"] = {"vocab_size": 40, "sampling_alpha": 0.2, "byte_fallback": False}
    settings["data"]["drop_final_punctuation"] = 0.5
    settings["model"] |= {"dropout": 0.1, "attention_dropout": 0.1, "ff_dropout": 0.1}
    settings["training"] |= {
        "batch_tokens": 200,
        "accumulate": 2,
        "ema_decay": 0.9,
        "max_updates": 12,
        "metric": "loss",
        "warmup_steps": 4,
        "validate_every": 4,
        "save_every": 5,
        "log_every": 3,
        **training,
    }
    return settings


class Ending:
    """A reporter that ends its process when it hears of an update."""

    def __init__(self, update: int, number: signal.Signals) -> None:
        self.update, self.number = update, number
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, task: str, done: int, total: int) -> None:
        if task == "training" and done == self.update:
            os.kill(os.getpid(), self.number)


def traces(run: Path) -> dict[str, Any]:
    """What a run leaves behind, without what depends on the clock."""
    files = [path for name in ("last", "best", "tokenizer", "samples") for path in sorted((run / name).rglob("*.*"))]
    found: dict[str, Any] = {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "training.json"
    }
    progress = json.loads((run / "last" / "training.json").read_text())
    found["progress"] = {name: value for name, value in progress.items() if "seconds" not in name}
    found["metrics"] = [
        {name: value for name, value in json.loads(line).items() if name not in TIMING}
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    return found


def main(settings: str, update: str, how: str, accept: str = "") -> None:
    """In a process of its own: train and be killed, ``how``: at once, or between the renames of a save of last/."""
    from pellucid import experiment, files
    from pellucid.config import parse_config

    reporter = Ending(int(update) if how == "update" else -1, signal.SIGKILL)
    rename = os.rename

    def killing(source: Any, target: Any) -> None:
        rename(source, target)
        done = experiment.load_progress(Path(target)).update if Path(target).name == ".last.old" else 0
        if done == int(update):
            os.kill(os.getpid(), signal.SIGKILL)

    if how == "save":
        files.os.rename = killing
    experiment.train(parse_config(json.loads(settings)), reporter, accept_changes=bool(accept))


if __name__ == "__main__":
    main(*sys.argv[1:])
