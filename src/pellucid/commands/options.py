"""What several commands share: options that are settings, and their help.

A setting is described once, in ``pellucid.config``; an option names its setting, and the description is looked up when
help is asked for. Knows nothing of what commands do; imports neither pydantic nor torch until then.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

__all__ = [
    "DECODING",
    "AlignmentThreshold",
    "AlignmentUnits",
    "Device",
    "ModelArgument",
    "ModelFolder",
    "Output",
    "SettingsCommand",
    "SourceLanguage",
    "TargetLanguage",
    "Threads",
    "decoding_options",
    "given",
    "setting_of",
    "setting_option",
]

MARK = "setting:"

DECODING: dict[str, Any] = {
    "beam_size": int,
    "n_best": int,
    "length_penalty": str,
    "length_alpha": float,
    "stop": str,
    "beam": str,
    "max_length": int,
    "max_length_ratio": float,
    "max_length_extra": int,
    "min_length": int,
    "prefix": str,
    "prefix_tokens": list[str],
    "forced_score": str,
    "force_end": bool,
    "forbidden_tokens": list[str],
    "allowed_tokens": list[str],
    "forbidden_phrases": list[str],
    "repetition_penalty": float,
    "no_repeat_ngram": int,
    "renormalize": bool,
    "diversity_groups": int,
    "diversity_strength": float,
    "sampling": bool,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "typical_p": float,
    "seed": int,
    "max_source_length": int,
    "unknown": str,
    "tag": str,
    "batch_size": int,
}
"""Every setting of generation and the type of its option; a list is an option that may be given more than once.

The names stand here a second time because pydantic takes too long for `pellucid --help`; a test compares the two.
"""


def setting_option(name: str, kind: Any = str) -> Any:
    """An option for the setting of that dotted name; called after the name's last part, except a corpus's sides."""
    flag = name.rsplit(".", 1)[-1].replace("_", "-")
    if name.startswith("data.dev."):
        flag = f"dev-{flag}"
    flags = f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}"
    # A list's values are given one by one, with the option before each.
    metavar = "TEXT" if get_origin(kind) is list else None
    return typer.Option(flags, help=MARK + name, show_default=False, metavar=metavar)


def decoding_options(
    *names: str, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each setting of generation.

    The command has one parameter ``decoding``; in its place come the options, and it is handed those that were given,
    by name: ``decoding: dict[str, Any]``, ready for ``Translator.generate(sources, **decoding)``.

    Args:
        *names: which settings; by default all of :data:`DECODING`.
        without: settings to leave out.
    """
    chosen = [name for name in names or DECODING if name not in without]
    annotated: Any = Annotated  # mypy knows no types that are made at run time

    def extended(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            if parameter.name != "decoding":
                parameters.append(parameter.replace(annotation=hints[parameter.name]))
                continue
            for name in chosen:
                option = annotated[DECODING[name] | None, setting_option(f"decoding.{name}", DECODING[name])]
                parameters.append(inspect.Parameter(name, parameter.kind, default=None, annotation=option))

        @functools.wraps(command)
        def with_options(**arguments: Any) -> None:
            decoding = given(**{name: arguments.pop(name, None) for name in chosen})
            command(**arguments, decoding=decoding)

        # What Typer reads to know a command's options.
        described: Any = with_options
        described.__signature__ = inspect.Signature(parameters)
        described.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return with_options

    return extended


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
    """The settings that were given on the command line: those that are not None, and no list without values."""
    return {name: value for name, value in settings.items() if value is not None and value != []}


ModelFolder = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="FOLDER",
        help="A run folder (its best/ is used), or a model folder; default: the model that comes with pellucid.",
        show_default=False,
    ),
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[FOLDER]",
        help="A run folder (its best/ is used), or a model folder; default: the model that comes with pellucid.",
        show_default=False,
    ),
]
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write a file instead of stdout.", show_default=False),
]
SourceLanguage = Annotated[
    str | None,
    typer.Option(
        "--source-language",
        metavar="CODE",
        help="Language of the sources as the model's code names it, for models that know many: eng_Latn, en, en_XX.",
        show_default=False,
    ),
]
TargetLanguage = Annotated[
    str | None,
    typer.Option("--target-language", metavar="CODE", help="Language of the outputs, likewise.", show_default=False),
]
Device = Annotated[str | None, setting_option("training.device")]
Threads = Annotated[int | None, setting_option("training.threads", int)]
AlignmentUnits = Annotated[
    str | None,
    typer.Option(
        "--alignment-units",
        metavar="words|tokens",
        help="What alignments count: words (the default), or the model's own tokens.",
        show_default=False,
    ),
]
AlignmentThreshold = Annotated[
    float | None,
    typer.Option(
        "--alignment-threshold",
        help="Link all source words that get at least this share of a target word's attention, instead of the first.",
        show_default=False,
    ),
]
