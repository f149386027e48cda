"""Where the engine's library comes from, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pellucid.native import build
from pellucid.native.build import NativeUnavailableError, cache_folder, compile_library, load_library


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    load_library.cache_clear()
    yield
    load_library.cache_clear()


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A CPU that can do it, nothing built by the installation, an empty cache folder."""
    monkeypatch.setattr(build, "INSTALLED", tmp_path / "installed")
    monkeypatch.setattr(build, "_cpu_flags", lambda: set(build.NEEDED))
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PELLUCID_NATIVE_LIBRARY", raising=False)
    return tmp_path


def test_another_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_cpu_flags", lambda: set(build.NEEDED) - {"avx512_vnni"})
    with pytest.raises(NativeUnavailableError, match="this CPU has no AVX512-VNNI"):
        load_library()


def test_no_compiler(able: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(able))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(NativeUnavailableError, match=r"no C\+\+ compiler"):
        load_library()


def test_a_compiler_that_fails(able: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = able / "c++"
    compiler.write_text("#!/bin/sh\necho 'x.cpp:1:1: error: too old' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(NativeUnavailableError, match=r"could not build it \(x.cpp:1:1: error: too old\)"):
        load_library()
    assert list((able / "cache").iterdir()) == []


def test_a_compiler_whose_assembler_is_older_than_itself(able: Path) -> None:
    compiler = able / "c++"
    compiler.write_text(
        '#!/bin/sh\ncase "$*" in *-DPELLUCID_NO_AMX*) ;; *) exit 1 ;; esac\n'
        'while [ "$1" != -o ]; do shift; done\ntouch "$2"\n'
    )
    compiler.chmod(0o755)
    compile_library(str(compiler), able / "made.so")
    assert (able / "made.so").is_file()


def test_a_folder_that_cannot_be_written_to(able: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (able / "file").touch()
    monkeypatch.setenv("PELLUCID_CACHE", str(able / "file"))
    compiler = able / "c++"
    compiler.touch(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(NativeUnavailableError, match="could not be built in"):
        load_library()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_CACHE", "/a")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("PELLUCID_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/b/pellucid")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "pellucid"
