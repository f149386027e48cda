"""``pellucid translate``: texts in, translations out, a line each.

Knows nothing of models; reads and writes in chunks, so that a file of any length takes the same memory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from pellucid.commands import options
from pellucid.commands.terminal import one_line, open_output, open_reporter, to_json

__all__ = ["translate"]

JSON_FIELDS = ("text", "tokens", "token_logprobs", "score", "finish_reason")


def translate(
    model: options.ModelFolder,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts to translate.", show_default=False)
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="Read a file, one text a line (also .gz, .zst, .xz); - is stdin.",
            show_default=False,
        ),
    ] = None,
    output: options.Output = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write a JSON object a line: source, hypotheses with tokens and log p.")
    ] = False,
    beam_size: options.BeamSize = None,
    n_best: options.NBest = None,
    length_penalty: options.LengthPenalty = None,
    length_alpha: options.LengthAlpha = None,
    max_length: options.MaxLength = None,
    max_length_ratio: options.MaxLengthRatio = None,
    max_length_extra: options.MaxLengthExtra = None,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Translate texts given as arguments, in a file, or on stdin.

    One line comes out for each line that goes in; a blank line stays blank. Line breaks inside a text become spaces.
    With --n-best above 1 there is a line for each hypothesis, best first: `0 ||| text ||| score`, where 0 is the input
    line, counted from 0, as in Moses and Marian; a blank line has none.

    Settings that are not given are the model's own (`pellucid info FOLDER`). Lines are read some hundreds at a time;
    with --batch-size 1 each is answered at once.
    """
    settings = options.given(
        beam_size=beam_size, n_best=n_best, length_penalty=length_penalty, length_alpha=length_alpha,
        max_length=max_length, max_length_ratio=max_length_ratio, max_length_extra=max_length_extra,
        batch_size=batch_size,
    )  # fmt: skip
    from pellucid.commands.reading import CHUNK_BATCHES, chunked, open_model, read_texts
    from pellucid.errors import LengthError

    lines, place = read_texts(texts or [], input)
    typed = not texts and input is None and sys.stdin.isatty()
    with open_output(output) as file, open_reporter(not (typed or file.isatty())) as reporter:
        translator = open_model(model, device, threads)
        config = translator.settings(**settings)
        if typed:
            reporter.line("reading from the terminal, one text a line; Ctrl-D ends")
        done = 0
        at_once = 1 if typed or config.batch_size == 1 else CHUNK_BATCHES * config.batch_size
        for chunk in chunked(lines, at_once):
            try:
                generations = translator.generate(chunk, **settings)
            except LengthError as error:
                raise LengthError(f"{place} {done + (error.number or 0)}: {error.reason}") from None
            for number, generation in enumerate(generations, start=done):
                file.writelines(line + "\n" for line in _written(number, generation, config.n_best, as_json))
            file.flush()
            done += len(chunk)
            reporter.progress("translating", done, 0)


def _written(number: int, generation: Any, n_best: int, as_json: bool) -> Iterator[str]:
    """The lines for one ``Generation``; ``number`` counts input lines from 0."""
    if as_json:
        hypotheses = [{name: getattr(hypothesis, name) for name in JSON_FIELDS} for hypothesis in generation.hypotheses]
        yield to_json({"source": generation.source, "hypotheses": hypotheses})
    elif n_best == 1:
        yield one_line(generation.text)
    else:
        for hypothesis in generation.hypotheses:
            yield f"{number} ||| {one_line(hypothesis.text)} ||| {hypothesis.score:.6f}"
