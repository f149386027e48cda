"""A trained model with grouped queries, and a real server of the explorer for it, for tests in a browser."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from conftest import ROOT
from pellucid.explorer.api import Api
from pellucid.explorer.server import bind, create_app
from toys import toy_settings

TEXT = "ba da ga ka la"


@pytest.fixture(scope="session")
def grouped_run(tmp_path_factory: pytest.TempPathFactory, toy_corpus: Path) -> Path:
    """A finished run of two layers and four heads in two groups; not to be changed."""
    from pellucid.config import parse_config
    from pellucid.experiment import train
    from pellucid.training.log import Silent

    folder = tmp_path_factory.mktemp("runs") / "grouped"
    settings = toy_settings(toy_corpus, folder)
    settings["model"] |= {"encoder_layers": 2, "decoder_layers": 2, "num_heads": 4, "num_kv_heads": 2}
    train(parse_config(settings), Silent())
    return folder


@contextmanager
def serving(api: Api) -> Iterator[str]:
    """The address of a server in this process."""
    listening = bind(None)
    port = listening.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(api, port), log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(10)
    listening.close()


@contextmanager
def exploring(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``pellucid explore`` in a process of its own: its address, and the process."""
    command = [sys.executable, "-m", "pellucid", "explore", str(folder), "--no-open", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "http://" in line)
        yield line.split(" at ")[1].split()[0], process
    finally:
        process.kill()
        process.communicate()
