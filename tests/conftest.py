"""What every test runs under: run-time checks of types and shapes, one thread, fixed seeds, an empty folder."""

from __future__ import annotations

import ipaddress
import os
import random
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import jaxtyping
import pytest

# Every annotation in pellucid, shapes included, is checked by beartype while the tests run, and only then.
jaxtyping.install_import_hook("pellucid", "beartype.beartype")

pytest_plugins = ["toys", "explorer.chromium", "explorer.live"]

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE_DATA = str(ROOT.parent / "shared")

# Before torch is imported, and inherited by the processes that tests start, which run this tree, installed or not.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))

# A shell's background jobs begin with Ctrl-C ignored, and pass that on to what they start: this must not decide tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What the native engine builds is kept from run to run, outside the user's own cache.
os.environ["PELLUCID_CACHE"] = os.path.join(tempfile.gettempdir(), f"pellucid-tests-{os.getuid()}")

# What is printed must not depend on the terminal, or on the CI service, that the tests run in.
os.environ.update(COLUMNS="120", NO_COLOR="1", TERM="dumb")
for variable in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"):
    os.environ.pop(variable, None)

hypothesis.settings.register_profile("pellucid", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("pellucid")


class OutsideError(BaseException):
    """A test reached for the network or for data beside the repository; no Exception, so that nothing swallows it."""


def _refuse_outside(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        address = arguments[1] if event == "socket.connect" else arguments
        # Addresses of Unix sockets are not tuples; a host of None is this machine.
        if isinstance(address, tuple) and not _is_this_machine(address[0]):
            raise OutsideError(f"tests run without a network, but this one asked for {address[0]}")
    elif event in ("open", "os.listdir", "os.scandir"):
        path = arguments[0]
        if isinstance(path, (str, os.PathLike)) and os.path.abspath(path).startswith(OUTSIDE_DATA):
            raise OutsideError(f"tests run from a bare clone, but this one opened {os.fspath(path)}")


def _is_this_machine(host: Any) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    try:
        return host in (None, "", "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


sys.addaudithook(_refuse_outside)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """The current folder of a test: an empty temporary one."""
    return tmp_path


@pytest.fixture(autouse=True)
def _same_start(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seeds, one thread and an empty current folder for every test, whatever the one before it did."""
    monkeypatch.chdir(workdir)
    random.seed(1)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(1)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(1)
        sys.modules["torch"].set_num_threads(1)
