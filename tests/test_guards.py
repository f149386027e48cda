"""The guards of conftest.py hold: a suite that silently lost one would still be green."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

from conftest import OUTSIDE_DATA, ROOT, OutsideError
from pellucid import config


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_no_connection_leaves_this_machine(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as client, pytest.raises(OutsideError, match="without a network"):
        client.connect((host, 80))


@pytest.mark.parametrize("resolve", [socket.gethostbyname, lambda name: socket.create_connection((name, 80))])
def test_no_name_is_looked_up(resolve: Callable[[str], object]) -> None:
    with pytest.raises(OutsideError, match=r"without a network, but this one asked for example\.invalid"):
        resolve("example.invalid")


def test_this_machine_may_be_asked() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(("localhost", server.getsockname()[1])) as client:
        assert client.getpeername() == server.getsockname()


@pytest.mark.parametrize("reach", [os.listdir, lambda path: list(Path(path).iterdir()), np.fromfile])
def test_data_beside_the_repository_is_out_of_bounds(reach: Callable[[str], object], tmp_path: Path) -> None:
    with pytest.raises(OutsideError, match="bare clone"):
        reach(OUTSIDE_DATA)
    with pytest.raises(OutsideError, match="bare clone"):
        Path(OUTSIDE_DATA, "data", "a.txt").read_text()
    assert list(tmp_path.iterdir()) == []


def test_annotations_are_checked_at_run_time() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="limit"):
        config.DecodingConfig().limit("10")  # type: ignore[arg-type]


@pytest.mark.parametrize("_", [1, 2])
def test_every_test_starts_in_an_empty_folder_of_its_own(_: int) -> None:
    assert not Path.cwd().is_relative_to(ROOT)
    assert os.listdir() == []
    Path("made-by-this-test").touch()


@pytest.mark.parametrize("_", [1, 2])
def test_torch_starts_every_test_with_one_thread_and_the_same_seed(_: int) -> None:
    assert (torch.initial_seed(), torch.get_num_threads()) == (1, 1)
    torch.manual_seed(3)
    torch.set_num_threads(2)
