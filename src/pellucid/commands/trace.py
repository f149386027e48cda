"""``pellucid trace``: everything that a model does with one text, as a document or as a page in one file.

Knows nothing of what is in a trace.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pellucid.commands import options
from pellucid.commands.terminal import open_output

__all__ = ["trace"]


@options.decoding_options("beam_size", "n_best", "length_penalty", "length_alpha", "max_length", "tag")
def trace(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The source text.")],
    model: options.ModelFolder = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the JSON into a file.", show_default=False),
    ] = None,
    html: Annotated[
        str | None,
        typer.Option("--html", metavar="FILE", help="Write the page with the trace inside.", show_default=False),
    ] = None,
    *,
    decoding: dict[str, Any],
    device: options.Device = None,
    threads: options.Threads = None,
    source_language: options.SourceLanguage = None,
    target_language: options.TargetLanguage = None,
) -> None:
    """Write down everything that a model does with one text.

    Attention of every layer and head, generation step by step, the KV cache, the search: one JSON document, described
    in docs/trace.md, to stdout or into a file; or, with --html, the page of `pellucid explore` with the document
    inside, one file that needs neither network nor server.
    """
    from pellucid.commands.reading import choose_tag, open_model

    languages = options.given(source_language=source_language, target_language=target_language)
    translator = open_model(model, device, threads, **languages)
    translator = choose_tag(translator, decoding)
    found = translator.trace(text, **{name: value for name, value in decoding.items() if name != "tag"})
    if html is not None:
        with open_output(html) as file:
            file.write(found.to_html())
    if output is not None or html is None:
        with open_output(output) as file:
            file.write(found.to_json() + "\n")
