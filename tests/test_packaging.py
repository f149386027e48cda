"""The way from a clone to a working command: versions, pins, and the Makefile, with a Python that only pretends."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pellucid
from conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = [
    Requirement(line.partition("#")[0])
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line.partition("#")[0].strip()
]


def requirements() -> list[Requirement]:
    """Everything that `pip install -e '.[dev]'` asks for by name."""
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [Requirement(line) for line in lines if not line.startswith("pellucid")]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.14"])
def test_every_requirement_has_one_exact_release_that_satisfies_it(python: str) -> None:
    pins = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            assert canonicalize_name(pin.name) not in pins
            (only,) = pin.specifier
            assert only.operator == "=="
            assert "+" not in only.version  # a local build such as 2.13.0+cpu is another choice on another machine
            pins[canonicalize_name(pin.name)] = only.version
    for requirement in requirements():
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
    assert pins["torch"] == "2.13.0"


def test_no_extra_brings_torch_or_another_of_the_main_requirements_again() -> None:
    main = {Requirement(line).name for line in PYPROJECT["project"]["dependencies"]}
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert [line for extra in extras.values() for line in extra if Requirement(line).name in main] == []


def test_one_version_everywhere() -> None:
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "pellucid.__version__"}
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [pellucid.__version__]


def test_licences_of_all_that_a_wheel_brings_are_named_and_travel_with_it() -> None:
    project = PYPROJECT["project"]
    assert set(project["license"].split(" AND ")) == {"Apache-2.0", "CC-BY-SA-4.0", "MIT"}
    found = {path for pattern in project["license-files"] for path in ROOT.glob(pattern)}
    assert all(any(ROOT.glob(pattern)) for pattern in project["license-files"])
    assert set((ROOT / "src").rglob("*LICENSE*")) <= found and ROOT / "LICENSE" in found
    for model in (ROOT / "src" / "pellucid" / "models").iterdir():
        assert {model / "AUTHORS.txt", model / "MODEL_CARD.md"} <= found


def test_an_extra_that_an_error_names_exists() -> None:
    named = set()
    for path in (ROOT / "src").rglob("*.py"):
        named |= set(re.findall(r"MissingExtraError\(\s*\"(\w+)\"", path.read_text(encoding="utf-8")))
    assert {"parquet", "zstd", "demo"} <= named <= set(PYPROJECT["project"]["optional-dependencies"])


# -- the Makefile


# A Python that says what it is asked and makes a .venv whose programs write down how they are called.
PRETENDER = """#!/bin/sh
case "$*" in
  *version_info*) exit {too_old} ;;
  *ensurepip*) exit {no_venv} ;;
  *python_version*) echo "Python {version}" ;;
  "-m venv .venv")
    mkdir -p .venv/bin
    for program in python pip pellucid ruff mypy; do
      printf '#!/bin/sh\\necho "%s $*" >>calls\\n' $program >.venv/bin/$program
      chmod +x .venv/bin/$program
    done ;;
  *) exit 9 ;;
esac
"""


@pytest.fixture
def clone(workdir: Path) -> Path:
    """The current folder, with what `make` needs of a clone."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, workdir)
    return workdir


def make(*arguments: str, version: str = "3.11.7", too_old: int = 0, no_venv: int = 0) -> tuple[int, str, str]:
    python = Path("python").resolve()
    python.write_text(PRETENDER.format(version=version, too_old=too_old, no_venv=no_venv))
    python.chmod(0o755)
    # Not as a part of the `make test` that may be running this.
    ours = ("MAKE", "MFLAGS", "PYTHON", "TORCH_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    command = ["make", f"PYTHON={python}", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return result.returncode, result.stdout, result.stderr


def calls() -> list[str]:
    path = Path("calls")
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


PIP = "python -m pip --disable-pip-version-check install -c constraints.txt"
SUITE = "python -m pytest -q --durations=10 -n auto --dist loadfile"


@pytest.mark.usefixtures("clone")
def test_a_missing_an_old_and_a_bare_python_are_answered_with_what_to_install() -> None:
    status, _, message = make("install", "PYTHON=no-such-python")
    assert status == 2
    assert "pellucid needs Python 3.10 or newer, but no-such-python is missing. Install one (Debian" in message
    status, _, message = make("install", version="3.9.2", too_old=1)
    assert status == 2
    assert re.search(r"pellucid needs Python 3\.10 or newer, but \S+/python is Python 3\.9\.2\. Install one", message)
    assert "make PYTHON=python3.12" in message
    status, _, message = make("demo", no_venv=1)
    assert status == 2
    assert re.search(
        r"/python cannot make an environment: its module venv or ensurepip is missing\. Install it", message
    )
    assert "sudo apt install python3-venv" in message
    assert calls() == []
    assert not Path(".venv").exists()


@pytest.mark.usefixtures("clone")
def test_install_makes_the_environment_once() -> None:
    status, output, _ = make("install")
    assert (status, calls()) == (0, [f"{PIP} torch", f"{PIP} -q -e ."])
    assert "Making .venv with Python 3.11.7 ..." in output
    assert "3 GB" in output
    status, output, _ = make("install")
    assert (status, calls()) == (0, [])
    assert "Nothing to be done" in output


@pytest.mark.usefixtures("clone")
def test_another_index_is_for_torch_alone() -> None:
    make("install", "TORCH_INDEX=https://example.invalid/cpu")
    assert calls() == [f"{PIP} --extra-index-url https://example.invalid/cpu torch", f"{PIP} -q -e ."]


@pytest.mark.usefixtures("clone")
def test_each_target_installs_what_it_needs_and_then_does_its_work() -> None:
    assert make("demo")[0] == 0
    demo = "pellucid demo --output runs/demo"
    assert calls() == [f"{PIP} torch", f"{PIP} -q -e .", f"{PIP} -q -e .[demo]", demo]
    make("demo")
    assert calls() == [demo]
    make("test")
    assert calls() == [f"{PIP} -q -e .[dev]", SUITE]
    make("test-slow")
    assert calls() == ["python -m pytest -q --durations=10 -m slow"]
    make("lint")
    assert calls() == ["ruff check", "ruff format --check", "mypy "]
    make("docs")
    assert calls() == ["python scripts/docs.py"]


@pytest.mark.usefixtures("clone")
def test_changed_requirements_are_installed_and_a_failed_install_is_not_taken_for_done() -> None:
    make("test")
    calls()
    later = Path(".venv/.installed-dev").stat().st_mtime + 10
    os.utime("constraints.txt", (later, later))
    Path(".venv/bin/python").write_text("#!/bin/sh\nexit 1\n")
    assert make("test")[0] == 2
    Path(".venv/bin/python").write_text('#!/bin/sh\necho "python $*" >>calls\n')
    os.utime("constraints.txt")
    os.utime(".venv/.installed", (0, 0))
    make("test")
    assert calls() == [f"{PIP} torch", f"{PIP} -q -e .", f"{PIP} -q -e .[dev]", SUITE]


@pytest.mark.usefixtures("clone")
def test_clean_keeps_the_runs() -> None:
    make("install")
    calls()
    for folder in ("runs/demo", "src/pellucid.egg-info", "src/pellucid/__pycache__", ".pytest_cache", "tests", "docs"):
        Path(folder).mkdir(parents=True)
    assert make("clean")[0] == 0
    assert sorted(path.name for path in Path("src").rglob("*")) == ["pellucid"]
    assert Path("runs/demo").exists()
    assert not Path(".venv").exists()
    assert not Path(".pytest_cache").exists()


@pytest.mark.usefixtures("clone")
def test_help_is_the_default_and_names_every_target() -> None:
    status, output, _ = make()
    assert status == 0
    phony = re.search(r"^\.PHONY: (.*)$", Path("Makefile").read_text(), re.MULTILINE)
    assert phony
    for target in set(phony[1].split()) - {"help"}:
        assert f"make {target} " in output
    assert calls() == []


def test_ci_runs_the_makefile_and_stops_at_the_first_failure() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert [line for line in lines if line.startswith("make ")] == ["make lint", "make test", "make test-slow"]
