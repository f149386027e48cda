"""The recipes: the commands in their headers are commands, and fit each other."""

from __future__ import annotations

import io
import re
import runpy
import shlex
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from conftest import ROOT
from pellucid.cli import app
from pellucid.commands.reading import read_config
from pellucid.data.corpus import corpus_files
from pellucid.data.fetch import fetch

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def parse(line: str) -> tuple[str, dict[str, Any]]:
    """The name of the command that a line calls, and its parameters."""
    command: Any = get_command(app)
    words = shlex.split(line)
    name, rest = words[0], words[1:]
    while hasattr(command, "commands"):
        name, *rest = rest
        command = command.commands[name]
    return name, command.make_context(name, rest).params


def answer(address: str) -> io.BytesIO:
    """Something in place of a file of a corpus; an archive where that is what is expected."""
    content = io.BytesIO()
    if not address.endswith(".zip"):
        content.write(b"x")
    else:
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("cmn.txt", "".join(f"English {n}\t中文{n}\tCC-BY\n" for n in range(20)))
    content.seek(0)
    return content


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_commands_of_the_header(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = dict(map(parse, re.findall(r"^#   (pellucid .+)$", recipe.read_text(encoding="utf-8"), re.MULTILINE)))
    made_from = commands.pop("convert", None)
    assert list(commands) == ["fetch", "train", "evaluate"]

    file, *overrides = commands["train"]["arguments"]
    assert ROOT / file == recipe
    config = read_config([str(recipe), *overrides], {}, {}, {})
    assert config.training.init_from == (made_from and made_from["output"])

    monkeypatch.chdir(tmp_path)
    fetch(commands["fetch"]["name"], commands["fetch"]["output"], opener=answer)
    for script in re.findall(
        r"^#   python (scripts/zh_en_corpus.+)$", recipe.read_text(encoding="utf-8"), re.MULTILINE
    ):
        file, *arguments = shlex.split(script)
        monkeypatch.setattr(sys, "argv", [file, *arguments])
        runpy.run_path(str(ROOT / file), run_name="__main__")
    for corpus in (config.data.train, config.data.dev, config.data.test):
        assert corpus is not None
        assert all(path.is_file() for path in corpus_files(corpus, config.data.dir))

    assert (commands["evaluate"]["model"], commands["evaluate"]["sources"]) == (config.output, None)
