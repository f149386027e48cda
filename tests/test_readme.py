"""The READMEs: their Python runs, their commands exist, and both languages say the same."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path

import pytest

from pellucid.cli import main

ROOT = Path(__file__).resolve().parent.parent
READMES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")}


def blocks(name: str, language: str = "") -> list[str]:
    return [text for kind, text in re.findall(r"```(\w*)\n(.*?)```", READMES[name], re.DOTALL) if kind == language]


@pytest.mark.parametrize("name", READMES)
def test_the_python_runs(name: str, tiny_run: Path, workdir: Path) -> None:
    shutil.copytree(tiny_run, workdir / "runs" / "mine")
    (code,) = blocks(name, "python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code.replace("n_best=3", "n_best=2"), name, "exec"), {})
    assert len(printed.getvalue().splitlines()) == 2 + 2


@pytest.mark.parametrize("name", READMES)
def test_the_commands_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks(name) for line in block.splitlines() if re.match(r"\s*pellucid \w", line)]
    assert len(lines) >= 6
    for line in lines:
        words = line.split()
        assert main([words[1], "--help"]) == 0
        options = set(re.findall(r"--[\w-]+", line))
        helped = capsys.readouterr().out
        assert options <= set(re.findall(r"--[\w-]+", helped)), line


def test_both_languages_show_the_same_code_and_links() -> None:
    english, chinese = READMES.values()
    assert blocks("README.md", "python")[0].split("#")[0] == blocks("README.zh.md", "python")[0].split("#")[0]

    def targets(text: str) -> set[str]:
        links = re.findall(r"\]\(([^)]+)\)", text)
        return {re.sub(r"(\.zh)?\.md.*|\.(en|zh)\.png$", "", link) for link in links} - {"README"}

    assert targets(english) == targets(chinese)
    for name, text in READMES.items():
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (ROOT / link).exists(), f"{name} links to {link}"


@pytest.mark.parametrize("name", READMES)
def test_the_environment_is_activated_before_the_commands(name: str) -> None:
    (block,) = [block for block in blocks(name) if "\npellucid train --source" in block]
    assert block.splitlines()[0] == ". .venv/bin/activate"
