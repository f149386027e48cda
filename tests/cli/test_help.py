"""`pellucid --help` is there at once, and options that are settings are those of the config."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
from typer.main import get_command

from pellucid import __version__
from pellucid.cli import app
from pellucid.commands.options import DECODING, decoding_options, setting_of
from pellucid.config import Config, DecodingConfig
from pellucid.settings import fields_of
from toys import Run

SETTINGS = dict(fields_of(Config))
COMMANDS = (
    *("train", "translate", "generate", "score", "align", "evaluate", "check", "bench", "info", "convert", "demo"),
    *("exposure", "doctor", "trace", "explore", "export", "data fetch", "data demo", "data check"),
)
OTHER_NAMES = {"data.dev.source": "dev_source", "data.dev.target": "dev_target"}


def leaves(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, child in command.commands.items():
        yield from leaves(child, f"{path}{name} ") if hasattr(child, "commands") else [(path + name, child)]


def setting_options() -> Iterator[tuple[str, Any, str]]:
    for name, command in leaves(get_command(app)):
        for parameter in command.params:
            if setting := setting_of(parameter.help):
                yield name, parameter, setting


def test_help_is_quick() -> None:
    # Seconds of this process's own, not of the clock: the machine may be busy with other things.
    program = (
        "import sys; from pellucid.cli import main; status = main(['--help']); print(*sys.modules); sys.exit(status)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 0.3
    page, _, modules = result.stdout.strip().rpartition("\n")
    assert {"torch", "pydantic", "rich", "numpy", "yaml", "sacrebleu"} & set(modules.split()) == set()
    assert [name for name in COMMANDS if f"  {name.split()[0]} " not in page] == []


@pytest.mark.parametrize("command", ["", *COMMANDS, "data"])
def test_every_command_has_a_page(command: str, run: Run) -> None:
    result = run(*command.split(), "--help")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(f"Usage: pellucid {command}".rstrip())
    assert "setting:" not in result.out


def test_the_list_of_commands_is_complete() -> None:
    assert sorted(name for name, _ in leaves(get_command(app))) == sorted(COMMANDS)


def test_without_arguments_the_help_is_shown(run: Run) -> None:
    assert run() == run("--help")


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"pellucid {__version__}\n", "")


def test_module_is_the_command() -> None:
    command = [sys.executable, "-m", "pellucid", "--version"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == f"pellucid {__version__}\n"


def test_options_for_settings_are_of_the_config() -> None:
    found = list(setting_options())
    assert {setting.split(".")[0] for _, _, setting in found} == {"data", "decoding", "output", "training"}
    for command, parameter, setting in found:
        assert setting in SETTINGS, (command, setting)
        assert parameter.name == OTHER_NAMES.get(setting, setting.rsplit(".")[-1])
        assert parameter.default is None


def test_options_take_the_type_of_their_setting(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole number where the config wants one, and so on: told by what a wrong value is called."""
    monkeypatch.setattr("pellucid.bundled.MODELS", tmp_path)  # without a model nothing goes on
    for command, parameter, setting in setting_options():
        if parameter.is_flag:
            assert SETTINGS[setting].annotation is bool
            continue
        is_number = re.search(r"\b(int|float)\b", repr(SETTINGS[setting].annotation)) is not None
        nowhere = [tmp_path / "nowhere"] if command == "explore" else []  # it would show what was recorded, for ever
        result = run(*command.split(), *nowhere, parameter.opts[-1], "x")
        assert result.status == 2
        assert (f"invalid value for '{parameter.opts[-1]}'" in result.err) == is_number, (command, setting, result)


def test_decoding_settings_can_all_be_given() -> None:
    """The table of names and types, which stands apart so that help needs no pydantic, is that of the config."""

    def kind(name: str) -> Any:
        annotation = SETTINGS[f"decoding.{name}"].annotation
        if type(None) in get_args(annotation):
            annotation = get_args(annotation)[0]
        if get_origin(annotation) is tuple:
            return list[get_args(annotation)[0]]
        if get_origin(annotation) is Literal:
            return type(get_args(annotation)[0])
        return getattr(annotation, "__origin__", annotation)

    assert list(DECODING) == list(DecodingConfig.model_fields)
    assert {name: kind(name) for name in DECODING} == DECODING
    names = {setting for command, _, setting in setting_options() if command == "translate"}
    assert {name for name in SETTINGS if name.startswith("decoding.")} <= names


def test_a_command_is_handed_the_settings_that_were_given_and_no_others() -> None:
    seen: list[dict[str, Any]] = []

    @decoding_options(without=("beam_size",))
    def command(name: str, *, decoding: dict[str, Any], last: int = 3) -> None:
        """Help."""
        seen.append({"name": name, "last": last, **decoding})

    app = typer.Typer()
    app.command()(command)
    options = ["--sampling", "--forbidden-tokens", "a", "--forbidden-tokens", "b", "--top-p", "0.5", "--no-force-end"]
    get_command(app).main(["x", *options], standalone_mode=False)
    get_command(app).main(["x"], standalone_mode=False)
    given = {"sampling": True, "forbidden_tokens": ["a", "b"], "top_p": 0.5, "force_end": False}
    assert seen == [{"name": "x", "last": 3, **given}, {"name": "x", "last": 3}]
    assert "beam_size" not in {parameter.name for parameter in get_command(app).params}


def test_help_shows_the_descriptions_of_the_config(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    page = " ".join(run("translate", "--help").out.split())
    for name, field in SETTINGS.items():
        if name.startswith("decoding."):
            assert " ".join(str(field.description).split()) in page, name
    assert f"--length-penalty {'|'.join(get_args(SETTINGS['decoding.length_penalty'].annotation))}" in page


def test_a_page_of_help_can_be_shown_twice(run: Run) -> None:
    assert run("translate", "--help") == run("translate", "--help")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian"], ["no such command 'trian'", "did you mean 'train', 'trace'?", "(see pellucid --help)"]),
        (["data", "fetsh"], ["no such command 'fetsh'", "did you mean 'fetch'?", "(see pellucid data --help)"]),
        (["data"], ["missing command", "(see pellucid data --help)"]),
        (["score"], ["missing argument", "SOURCES", "(see pellucid score --help)"]),
        (["info", "a", "--jsn"], ["no such option: --jsn", "did you mean --json?", "(see pellucid info --help)"]),
        (["info", "a", "b"], ["unexpected extra argument", "(b)", "(see pellucid info --help)"]),
        (["score", "--model"], ["option '--model' requires an argument"]),
        (["train", "--max-updates", "3"], ["no such option: --max-updates", "such as training.max_updates=100"]),
    ],
)
def test_a_usage_error_is_one_sentence(arguments: list[str], parts: list[str], run: Run) -> None:
    result = run(*arguments)
    assert (result.status, result.out) == (2, "")
    assert re.fullmatch(r"pellucid: error: [^\n]+\n", result.err)
    assert [part for part in parts if part.casefold() not in result.err.casefold()] == []
