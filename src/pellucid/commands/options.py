"""What several commands share: options that are settings, and their help.

A setting is described once, in ``pellucid.config``; an option names its setting, and the description is looked up when
help is asked for. Knows nothing of what commands do; imports neither pydantic nor torch until then.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand

__all__ = [
    "BatchSize",
    "BeamSize",
    "Device",
    "LengthAlpha",
    "LengthPenalty",
    "MaxLength",
    "MaxLengthExtra",
    "MaxLengthRatio",
    "ModelFolder",
    "NBest",
    "Output",
    "SettingsCommand",
    "Threads",
    "given",
    "setting_of",
    "setting_option",
]

MARK = "setting:"


def setting_option(name: str) -> Any:
    """An option for the setting of that dotted name; called after the name's last part, except a corpus's sides."""
    flag = name.rsplit(".", 1)[-1].replace("_", "-")
    if name.startswith("data.dev."):
        flag = f"dev-{flag}"
    return typer.Option(f"--{flag}", help=MARK + name, show_default=False)


def setting_of(help_text: str | None) -> str | None:
    """The setting that an option stands for, by its help; None for an option of its own."""
    return help_text.removeprefix(MARK) if help_text and help_text.startswith(MARK) else None


class SettingsCommand(TyperCommand):
    """A command whose options' help is taken from the settings they stand for."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Look the settings up, then write the help page."""
        for parameter in self.params:
            name = setting_of(getattr(parameter, "help", None))
            if name is not None:
                described: Any = parameter
                described.help, choices = _describe(name)
                if choices:
                    described.metavar = "|".join(choices)
        super().format_help(ctx, formatter)


def _describe(name: str) -> tuple[str, list[str]]:
    """A setting's description, and its choices if it has some."""
    from pellucid.config import Config
    from pellucid.settings import fields_of

    field = dict(fields_of(Config))[name]
    kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if get_origin(kind) is Literal]
    return field.description or "", [str(choice) for kind in kinds for choice in get_args(kind)]


def given(**settings: Any) -> dict[str, Any]:
    """The settings that were given on the command line: those that are not None."""
    return {name: value for name, value in settings.items() if value is not None}


ModelFolder = Annotated[
    str, typer.Option("--model", "-m", metavar="FOLDER", help="A run folder (its best/ is used), or a model folder.")
]
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write a file instead of stdout.", show_default=False),
]
Device = Annotated[str | None, setting_option("training.device")]
Threads = Annotated[int | None, setting_option("training.threads")]
BeamSize = Annotated[int | None, setting_option("decoding.beam_size")]
NBest = Annotated[int | None, setting_option("decoding.n_best")]
LengthPenalty = Annotated[str | None, setting_option("decoding.length_penalty")]
LengthAlpha = Annotated[float | None, setting_option("decoding.length_alpha")]
MaxLength = Annotated[int | None, setting_option("decoding.max_length")]
MaxLengthRatio = Annotated[float | None, setting_option("decoding.max_length_ratio")]
MaxLengthExtra = Annotated[int | None, setting_option("decoding.max_length_extra")]
BatchSize = Annotated[int | None, setting_option("decoding.batch_size")]
