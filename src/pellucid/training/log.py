"""What a run writes down: ``metrics.jsonl``, TensorBoard events, and the lines that a person reads.

Knows nothing about models. The files are a function of the updates done: on resume, records of updates that will be
done again are removed first.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pellucid.files import write_text

__all__ = ["NoLog", "Reporter", "RunLog", "Silent", "training_line", "validation_line"]

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


class NoLog:
    """Of a process that writes nothing, since another one does."""

    def record(self, kind: str, update: int, values: Mapping[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
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
        self._events = _EventFile(folder / "tensorboard", update)

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
        self._events.add(
            {f"{kind}/{name}": float(v) for name, v in values.items() if isinstance(v, int | float)}, update
        )

    def close(self) -> None:
        """Close the event file; everything has been written already."""
        self._events.close()


class _EventFile:
    """Scalars for TensorBoard: protocol buffers of tensorboardX in TFRecord frames.

    Not its SummaryWriter: that hands events to a thread, and where the disk is full the thread dies and training waits
    for it for ever.
    """

    def __init__(self, folder: Path, update: int) -> None:
        from tensorboardX.proto.event_pb2 import SessionLog  # type: ignore[import-untyped]

        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab")
        self._write(file_version="brain.Event:2")
        # Tells TensorBoard to forget what an earlier life of the run has written behind this update.
        self._write(step=update + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, scalars: Mapping[str, float], update: int) -> None:
        from tensorboardX.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(step=update, summary=Summary(value=values))

    def _write(self, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c  # type: ignore[import-untyped]

        data = Event(wall_time=time.time(), **content).SerializeToString()
        length = struct.pack("<Q", len(data))
        frame = (length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data)))
        self._file.write(b"".join(frame))
        self._file.flush()

    def close(self) -> None:
        with suppress(OSError):  # the disk was full at the last write, which has said so
            self._file.close()


def training_line(update: int, total: int, values: Mapping[str, Any]) -> str:
    """The field's usual log line."""
    return (
        f"epoch {values['epoch']}  update {update:,}/{total:,}  loss {values['loss']:.3f}  "
        f"{values['tokens_per_second']:,.0f} tokens/s  |g| {values['grad_norm']:.2f}  lr {values['learning_rate']:.2e}"
    )


def validation_line(update: int, values: Mapping[str, float], verdict: str) -> str:
    """One validation: every metric, and whether it is a new best."""
    metrics = "  ".join(f"{name} {value:.{3 if name.startswith('loss') else 2}f}" for name, value in values.items())
    return f"validation at update {update:,}  {metrics}  {verdict}"
