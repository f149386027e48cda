"""``pellucid exposure``: a model's loss behind gold prefixes beside its loss behind its own.

Knows nothing of how it is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from pellucid.commands import options
from pellucid.commands.evaluate import read_test_pairs, with_test_tag
from pellucid.commands.terminal import open_reporter, to_json

__all__ = ["exposure"]

OWN_PREFIXES = ("beam_size", "sampling", "temperature", "seed", "max_length", "tag", "batch_size")


@options.decoding_options(*OWN_PREFIXES)
def exposure(
    model: options.ModelFolder = None,
    sources: Annotated[
        str | None,
        typer.Argument(metavar="SOURCES", help="File with a source text a line; - is stdin.", show_default=False),
    ] = None,
    references: Annotated[
        str | None,
        typer.Argument(metavar="REFERENCES", help="File with its reference on the same line.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write a JSON object.")] = False,
    *,
    source_language: options.SourceLanguage = None,
    target_language: options.TargetLanguage = None,
    decoding: dict[str, Any],
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Report exposure bias: a model's loss behind gold prefixes beside its loss behind its own.

    Position by position of the same sentences: −log p (natural logarithm) of the reference's next token behind the
    reference's words, and of the tokens that lead to the reference with the fewest further edits behind what the model
    has written itself; how often the most probable token is one of these; and how often both prefixes are the same.
    docs/exposure-bias.md says what these numbers mean and what they do not.

    The model writes its prefixes by greedy search, or as the options say. Without SOURCES and REFERENCES the corpus is
    data.test of the run's config.yaml. Pairs with a blank source are left out.
    """
    from dataclasses import asdict

    from pellucid.commands.reading import choose_tag, open_model
    from pellucid.errors import LengthError

    pairs = read_test_pairs(model, sources, references)
    with open_reporter() as reporter:
        translator = open_model(
            model, device, threads, source_language=source_language, target_language=target_language
        )
        decoding = with_test_tag(model, sources, decoding)
        translator = choose_tag(translator, decoding)
        translator.need_source("exposure")
        from pellucid.exposure import measure_exposure

        try:
            report = measure_exposure(
                translator,
                [pair.source for pair in pairs],
                [pair.target for pair in pairs],
                progress=lambda done: reporter.progress("comparing", done, len(pairs)),
                **decoding,
            )
        except LengthError as error:
            line = pairs[(error.number or 1) - 1].line
            raise LengthError(f"{error.side} line {line}: {error.reason}") from None
    for line in [to_json(asdict(report))] if as_json else _lines(report):
        typer.echo(line)


def _lines(report: Any) -> Iterator[str]:
    yield "            positions  gold prefix  own prefix     gap   right behind gold  behind own  same prefix"
    for row in (*report.rows, report.whole):
        name = "all" if row is report.whole else _range(row.first, row.last)
        yield (
            f"{name:<12}{row.positions:>9,}{row.gold_loss:>13.3f}{row.own_loss:>12.3f}{row.gap:>+8.3f}"
            f"{row.gold_accuracy:>20.1%}{row.own_accuracy:>12.1%}{row.same_prefix:>13.1%}"
        )
    blank = f", {report.blank:,} with a blank source left out" if report.blank else ""
    yield f"{report.pairs:,} pairs{blank}; losses in nats a token"
    yield (
        f"not compared: {report.gold_only:,} positions of references behind the model's end, "
        f"{report.own_only:,} of the model's behind the reference's"
    )


def _range(first: int, last: int | None) -> str:
    if last is None:
        return f"{first} and on"
    return f"{first}" if first == last else f"{first}-{last}"
