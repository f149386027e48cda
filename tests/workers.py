"""Processes of one run, started as torchrun starts them, but without torchrun, which takes seconds to do so."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

from runs import Ending

STORES: list[TCPStore] = []
LONGEST = 300  # seconds, for all jobs together, on a machine with much else to do


def start(command: Sequence[str], size: int) -> list[subprocess.Popen[str]]:
    """The processes, by rank; each runs ``command``."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    STORES.append(store)  # outlives the processes, as torchrun's does
    common = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}
    common |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    found = []
    for rank in range(size):
        own = {name: str(value) for name, value in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()}
        found.append(subprocess.Popen(list(command), env={**os.environ, **own}, **pipes))
    return found


def finish(workers: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """(status, stdout, stderr) of each."""
    try:
        said = [worker.communicate(timeout=LONGEST) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
        STORES.clear()
    return [(worker.returncode, *texts) for worker, texts in zip(workers, said, strict=True)]


def train_with(size: int, *jobs: dict[str, Any]) -> list[dict[str, Any]]:
    """Train what each job says, one after another, with ``size`` processes.

    A job: ``settings`` of a run; ``stop`` and ``rank``: the update behind which that process gets SIGINT; ``drift``,
    ``spoil``: the process whose weights become others, whose loss is no number.

    Returns:
        What each process reports: ``updates`` and ``lines`` of each job, and ``written``, every file it has touched.
    """
    command = [sys.executable, __file__, json.dumps(jobs)]
    results = finish(start(command, size))
    assert [status for status, _, _ in results] == [0] * size, results
    return [json.loads(out) for _, out, _ in results]


def _spoil_loss(update: int) -> None:
    """Let the loss be no number from that batch on."""
    from pellucid.training import trainer

    good, calls = trainer.batch_loss, iter(range(10**9))

    def bad(*arguments: Any) -> Any:
        loss, nll = good(*arguments)
        return (loss * math.nan if next(calls) >= update else loss), nll

    trainer.batch_loss = bad


def _drift(update: int) -> None:
    """Let the weights be others behind that update."""
    import torch

    step, calls = torch.optim.AdamW.step, iter(range(10**9))

    def drifting(optimizer: Any, *arguments: Any) -> Any:
        found = step(optimizer, *arguments)
        if next(calls) == update:
            optimizer.param_groups[0]["params"][0].data += 0.01
        return found

    torch.optim.AdamW.step = drifting  # type: ignore[method-assign]


class Listening:
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, task: str, done: int, total: int) -> None:
        """Nothing."""


def _watch_writing(folder: str) -> list[str]:
    written: list[str] = []

    def see(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
        if event == "open" and isinstance(arguments[2], int):
            changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if changes and str(arguments[0]).startswith(folder):
            written.append(f"{event} {arguments[0]}")

    sys.addaudithook(see)
    return written


def main(jobs: str) -> None:
    """One of the processes."""
    from pellucid import experiment
    from pellucid.config import parse_config
    from pellucid.training.parallel import together

    todo = json.loads(jobs)
    written = _watch_writing(str(Path(todo[0]["settings"]["output"]).parent))
    updates, lines = [], []
    with together() as processes:
        for job in todo:
            told = job.get("stop") is not None and job.get("rank", 0) == processes.rank
            reporter: Any = Ending(job["stop"], signal.SIGINT) if told else Listening()
            experiment.Silent = lambda reporter=reporter: reporter
            if job.get("spoil") == processes.rank:
                _spoil_loss(3)
            if job.get("drift") == processes.rank:
                _drift(2)
            updates.append(experiment.train(parse_config(job["settings"]), reporter, False, processes).update)
            lines.append(reporter.lines)
    sys.stdout.write(json.dumps({"updates": updates, "lines": lines, "written": written}))


if __name__ == "__main__":
    main(*sys.argv[1:])
