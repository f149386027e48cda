"""``pellucid explore``: the page that shows a model generating, with a server on this machine behind it."""

from __future__ import annotations

import webbrowser
from typing import Annotated

import typer

from pellucid.commands import options

__all__ = ["explore"]


def explore(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[FOLDER]", help="A run folder (its best/ is used), or a model folder."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="Port to listen at; default: a free one.", show_default=False),
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    device: options.Device = None,
    threads: options.Threads = None,
    source_language: options.SourceLanguage = None,
    target_language: options.TargetLanguage = None,
) -> None:
    """Open a page that shows a model generating: attention, cache, search, every number the engine's own.

    The server behind the page answers to this machine only, keeps nothing on disk, and ends with Ctrl-C. Needs pip
    install 'pellucid[explorer]'.
    """
    from pellucid.commands.reading import open_model
    from pellucid.commands.trace import NO_MODEL
    from pellucid.errors import ModelFolderError
    from pellucid.explorer.api import Api
    from pellucid.explorer.server import HOST, RECORDED, bind, create_app, serve

    if model is None:
        raise ModelFolderError(NO_MODEL.replace("--model FOLDER", "pellucid explore FOLDER"))
    with bind(port) as listening:
        create_app(Api(None), 0)  # what is not installed is better found before a model is loaded
        languages = options.given(source_language=source_language, target_language=target_language)
        tracer = open_model(model, device, threads, **languages).tracer
        api = Api(tracer, recorded=RECORDED)
        api.model()  # hashes the checkpoint now, while its file is there
        url = f"http://{HOST}:{listening.getsockname()[1]}/"
        typer.echo(f"{tracer.name} is shown at {url} (Ctrl-C ends it)", err=True)
        if not no_open:
            webbrowser.open(url)
        serve(api, listening)
