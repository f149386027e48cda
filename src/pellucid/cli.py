"""The command ``pellucid``: the commands put together, and every error that a user can cause as one sentence.

Importing this file imports Typer and nothing heavier; ``pellucid --help`` is to be there at once.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.main import get_command

from pellucid import __version__
from pellucid.commands import (
    align,
    bench,
    check,
    convert,
    data,
    demo,
    doctor,
    evaluate,
    explore,
    export,
    exposure,
    info,
    score,
    trace,
    train,
    translate,
)
from pellucid.commands.options import SettingsCommand
from pellucid.errors import PellucidError

__all__ = ["app", "main"]

# Typer raises a copy of Click's exceptions, older releases raised Click's own; the base of this one is right for both.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

TAKE_SETTINGS = ("pellucid train", "pellucid doctor", "pellucid data check")

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
BROKEN_PIPE = 141  # 128 + SIGPIPE

app = typer.Typer(
    name="pellucid",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train", cls=SettingsCommand)(train.train)
app.command("doctor", cls=SettingsCommand)(doctor.doctor)
app.command("translate", cls=SettingsCommand)(translate.translate)
app.command("generate", cls=SettingsCommand, short_help="The same as translate, under its general name.")(
    translate.translate
)
app.command("score", cls=SettingsCommand)(score.score)
app.command("align", cls=SettingsCommand)(align.align)
app.command("evaluate", cls=SettingsCommand)(evaluate.evaluate)
app.command("exposure", cls=SettingsCommand)(exposure.exposure)
app.command("check", cls=SettingsCommand)(check.check)
app.command("bench", cls=SettingsCommand)(bench.bench)
app.command("trace", cls=SettingsCommand)(trace.trace)
app.command("explore", cls=SettingsCommand)(explore.explore)
app.command("info", cls=SettingsCommand)(info.info)
app.command("convert", cls=SettingsCommand)(convert.convert)
app.command("export", cls=SettingsCommand)(export.export)
app.add_typer(data.app, name="data")
app.command("demo", cls=SettingsCommand)(demo.demo)


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"pellucid {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _pellucid(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train an encoder-decoder Transformer on parallel text, translate with it, and look inside.

    `pellucid COMMAND --help` says more.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    0: done. 2: something that was given is wrong; one sentence on stderr says what. 130: interrupted. 141: whoever read
    the output has gone. A traceback is a bug of pellucid.
    """
    _replace_closed_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if isinstance(sys.stdout, io.TextIOWrapper):  # what is written is UTF-8 with plain line feeds in every locale
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    try:
        command = get_command(app)
        with command.make_context("pellucid", arguments) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    except UsageError as error:
        if os.environ.get("RANK", "0") != "0":  # torchrun gives all processes the same line, and the first one says it
            return USER_ERROR
        return _fail(_usage_sentence(error))
    except PellucidError as error:
        return _fail(str(error))
    except OSError as error:
        _discard_output()
        return _fail(_system_sentence(error))
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _fail("there is not enough memory: lower training.batch_tokens to train, --batch-size to translate")
    return 0


def _replace_closed_streams() -> None:
    """Where the shell closed a stream (``<&-``, ``>&-``) Python has None; an empty one in its place is all it takes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _fail(sentence: str) -> int:
    typer.echo(f"pellucid: error: {' '.join(sentence.split())}", err=True)
    return USER_ERROR


def _discard_output() -> None:
    """If stdout takes nothing more (its reader has gone, its disk is full), let Python's flush at exit go nowhere."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage_sentence(error: Exception) -> str:
    message = str(getattr(error, "format_message", error.__str__)())
    meant = getattr(error, "possibilities", None)
    if meant:
        message = f"{getattr(error, 'message', message)}; did you mean {' or '.join(sorted(meant))}?"
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "pellucid"
    if hasattr(error, "option_name") and path in TAKE_SETTINGS:
        message += "; settings are written without dashes, such as training.max_updates=100"
    return f"{message[:1].lower()}{message[1:].rstrip('.')} (see {path} --help)"


def _system_sentence(error: OSError) -> str:
    what = error.strerror or str(error)
    place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{place}the disk is full ({what}): make room and start the same command again"
    return f"{place}{what[:1].lower()}{what[1:]}"


def _is_out_of_memory(error: BaseException) -> bool:
    # PyTorch has an exception of its own for accelerators only, and importing it here would cost a second.
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text
