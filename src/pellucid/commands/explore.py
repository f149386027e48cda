"""``pellucid explore``: the page that shows a model generating, with a server on this machine behind it."""

from __future__ import annotations

import webbrowser
from typing import Annotated, Any

import typer

from pellucid.commands import options

__all__ = ["explore"]


@options.decoding_options("tag")
def explore(
    model: options.ModelArgument = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="Port to listen at; default: a free one.", show_default=False),
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    *,
    decoding: dict[str, Any],
    device: options.Device = None,
    threads: options.Threads = None,
    source_language: options.SourceLanguage = None,
    target_language: options.TargetLanguage = None,
) -> None:
    """Open a page that shows a model generating: attention, cache, search, every number the engine's own.

    The server behind the page answers to this machine only, keeps nothing on disk, and ends with Ctrl-C. Needs pip
    install 'pellucid[explorer]'.

    Without FOLDER the page begins with a trace that was recorded of the bundled model, and that model answers what is
    asked. Where it cannot be loaded, the recorded trace is all there is, and the page says so.
    """
    from pellucid.explorer.api import Api
    from pellucid.explorer.server import HOST, bind, create_app, serve

    with bind(port) as listening:
        create_app(Api(None), 0)  # what is not installed is better found before a model is loaded
        languages = options.given(source_language=source_language, target_language=target_language)
        api, name = (
            _open_bundled(device, threads, languages, decoding)
            if model is None
            else _open(model, device, threads, languages, decoding)
        )
        api.model()  # hashes the checkpoint now, while its file is there
        url = f"http://{HOST}:{listening.getsockname()[1]}/"
        typer.echo(f"{name} is shown at {url} (Ctrl-C ends it)", err=True)
        if not no_open:
            webbrowser.open(url)
        serve(api, listening)


def _open(
    model: str | None, device: str | None, threads: int | None, languages: dict[str, Any], decoding: dict[str, Any]
) -> tuple[Any, str]:
    """What answers for a model, and the model's name."""
    from pellucid.bundled import RECORDED
    from pellucid.commands.reading import choose_tag, open_model
    from pellucid.explorer.api import Api

    tracer = choose_tag(open_model(model, device, threads, **languages), decoding).tracer
    # A trace of the bundled model on the page of another one would only confuse.
    return Api(tracer, recorded=RECORDED if model is None else None), tracer.name


def _open_bundled(
    device: str | None, threads: int | None, languages: dict[str, Any], decoding: dict[str, Any]
) -> tuple[Any, str]:
    """The same for the bundled model, or for what was recorded of it where it cannot be loaded.

    Raises:
        PellucidError: nothing was recorded either.
    """
    from pellucid.bundled import RECORDED
    from pellucid.errors import ModelFolderError
    from pellucid.explorer.api import Api

    try:
        return _open(None, device, threads, languages, decoding)
    except ModelFolderError as error:
        api = Api(None, str(error), RECORDED)
        if not api.model()["recorded"]:
            raise
        typer.echo(f"no model can be loaded ({error}); what is shown was recorded earlier", err=True)
        return api, "a recorded trace"
