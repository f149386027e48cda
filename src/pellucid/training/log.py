"""What a run writes down: ``metrics.jsonl``, TensorBoard events, and the lines that a person reads.

Knows nothing about models. The files are a function of the updates done: on resume, records of updates that will be
done again are removed first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pellucid.files import write_text

__all__ = ["Reporter", "RunLog", "Silent", "training_line", "validation_line"]

METRICS_FILE = "metrics.jsonl"


@runtime_checkable
class Reporter(Protocol):
    """Shows a person what is going on."""

    def line(self, text: str) -> None:
        """One line that stays."""
        ...

    def progress(self, task: str, done: int, total: int) -> None:
        """How far ``task`` is; ``done == total`` ends it."""
        ...


class Silent:
    """A reporter that shows nothing."""

    def line(self, text: str) -> None:
        """Nothing."""

    def progress(self, task: str, done: int, total: int) -> None:
        """Nothing."""


class RunLog:
    """Records of one run.

    Args:
        folder: the run folder.
        update: the update the run starts behind; later records of an earlier life are dropped.
    """

    def __init__(self, folder: Path, update: int) -> None:
        self.path = folder / METRICS_FILE
        self._keep_until(update)
        from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=update + 1, write_to_disk=True)

    def _keep_until(self, update: int) -> None:
        kept = []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except ValueError:  # the line that was being written when the run was killed
                    continue
                if record["update"] <= update:
                    kept.append(line + "\n")
        write_text(self.path, "".join(kept))

    def record(self, kind: str, update: int, values: Mapping[str, Any]) -> None:
        """Append one record of ``kind`` ("train" or "validation")."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "update": update, **values}) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float):
                self._events.add_scalar(f"{kind}/{name}", value, update)

    def close(self) -> None:
        """Flush the event file."""
        self._events.close()


def training_line(update: int, total: int, values: Mapping[str, Any]) -> str:
    """The field's usual log line."""
    return (
        f"epoch {values['epoch']}  update {update:,}/{total:,}  loss {values['loss']:.3f}  "
        f"{values['tokens_per_second']:,.0f} tokens/s  |g| {values['grad_norm']:.2f}  lr {values['learning_rate']:.2e}"
    )


def validation_line(update: int, values: Mapping[str, float], verdict: str) -> str:
    """One validation: every metric, and whether it is a new best."""
    metrics = "  ".join(f"{name} {value:.{3 if name == 'loss' else 2}f}" for name, value in values.items())
    return f"validation at update {update:,}  {metrics}  {verdict}"
