"""``pellucid check``: the decoding contract on any model, as a table of what holds.

Knows nothing of what is checked; asks for sources, runs the checks and shows what they say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.commands import engines, options
from pellucid.commands.terminal import open_reporter, to_json

__all__ = ["check", "sources_for"]

BROKEN = 1
MARKS = {True: "holds", False: "FAILS", None: "-"}
HEAD = ("item", "what", "", "worst", "allowed", "checked")


@options.decoding_options(without=("max_source_length", "unknown", "tag", "batch_size"))
def check(
    model: options.ModelArgument = None,
    input: Annotated[
        str | None,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="Sources to check with, one text a line; default: what the run folder kept, else made up.",
            show_default=False,
        ),
    ] = None,
    sentences: Annotated[
        int, typer.Option("--sentences", "-n", metavar="N", min=2, help="Sources to use at most; 8 is quick.")
    ] = 64,
    items: Annotated[
        str | None,
        typer.Option("--items", metavar="N,N,…", help="Items to check, as 3,4,12; default: all.", show_default=False),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance",
            metavar="X",
            help="Largest deviation allowed, in units of the largest logit.",
        ),
    ] = 1e-5,
    as_json: Annotated[bool, typer.Option("--json", help="Write a JSON object.")] = False,
    *,
    decoding: dict[str, Any],
    device: options.Device = None,
    threads: options.Threads = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            metavar="torch|native",
            help="Which engine to check: torch (the default), or the native one, which cannot be looked into.",
            show_default=False,
        ),
    ] = None,
    precision: engines.Precision = "float32",
) -> None:
    """Check the decoding contract on a model.

    Twelve promises of every way of generating: one parallel pass equals token by token, the cache changes nothing, a
    sentence does not depend on its batch, a beam of 1 is greedy, scores are forced scores, a wide beam is exhaustive,
    stopping is exact, the model decides the length, cache bytes, masks, positions, tracing, and the same again. The
    sources are taken from beginning, middle and end of the file.

    The checks choose their settings, but for what belongs to the model (prefix_tokens, forced_score, forbidden_tokens).
    Rows called "own settings" take the model's settings as they are: whatever they say of beams, groups, stopping,
    prefixes or sampling, batches change nothing, scores are those of the tokens, and the same comes again. A setting
    given here replaces the model's.

    For each: whether it holds, the worst deviation in units of the largest logit, what is allowed, and how much was
    looked at. Where outputs differ because two choices were closer than 1e-5, the near-tie is listed; with a larger
    --tolerance, choices closer than it. Exit status 1 if something does not hold. A small model takes up to a minute.
    """
    from pellucid.commands.reading import open_model
    from pellucid.contract.model_way import ModelWay
    from pellucid.contract.run import check as run_checks
    from pellucid.contract.run import checks_of
    from pellucid.errors import ConfigError

    if not 0 < tolerance < 1:
        raise ConfigError(f"--tolerance ({tolerance}) must be above 0 and below 1: it is a part of the largest logit")
    chosen = _items(items)
    way: Any
    if engine is None:
        engine = "torch" if precision == "float32" else "native"
    if (engine, precision) == ("torch", "float32"):
        translator = open_model(model, device, threads)
        translator.need_source("check")
        way = ModelWay(translator, own=translator.settings(**decoding))
    else:
        from pellucid.native_way import NativeWay

        translator = engines.open_generator(model, device, threads, engine=engine, precision=precision)
        way = NativeWay(translator, own=translator.settings(**decoding))
    place = model or str(translator.folder)
    sources, origin = sources_for(translator, place, input, sentences)
    results = []
    with open_reporter() as reporter:
        for result in run_checks(way, sources, tolerance, chosen):
            results.append(result)
            reporter.progress("checking", len(results), len(checks_of(chosen)))
    failed = any(result.holds is False for result in results)
    if as_json:
        facts = {
            "model": str(translator.folder or place),
            "sources": len(sources),
            "origin": origin,
            "tolerance": tolerance,
            "holds": not failed,
            "results": [_finite(asdict(result)) for result in results],
        }
        typer.echo(to_json(facts, indent=2))
    else:
        _show(results, f"{len(sources)} sources: {origin}")
    if failed:
        raise typer.Exit(BROKEN)


def _items(text: str | None) -> list[int]:
    """The numbers of items that were asked for."""
    from pellucid.contract.run import ITEMS
    from pellucid.errors import ConfigError

    if text is None:
        return list(ITEMS)
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if not set(numbers) <= set(ITEMS):
        raise ConfigError(f"--items takes numbers from 1 to {len(ITEMS)} with commas between, as 3,4,12, not {text!r}")
    return numbers


def sources_for(translator: Any, model: str, path: str | None, wanted: int) -> tuple[list[str], str]:
    """Sources, and where they are from."""
    from pellucid.contract.sources import kept_sources, spread, synthetic_sources
    from pellucid.data.lines import STDIN, check_file, read_lines
    from pellucid.errors import DataError

    tokenizer = translator.source_tokenizer
    if path is not None:
        if path != STDIN:
            check_file(Path(path))
        sources = spread(read_lines(path), tokenizer, wanted)
        if not sources:
            raise DataError("no text to check with: every line is blank or longer than 100 tokens", path=path)
        return sources, "standard input" if path == STDIN else path
    sources = spread(kept_sources(Path(model)), tokenizer, wanted)
    if sources:
        return sources, "kept in the run folder"
    sources = synthetic_sources(tokenizer, wanted)
    if not sources:
        raise DataError("no sources could be made from this model's vocabulary: give some with --input", path=model)
    return sources, "random words of the model's vocabulary"


def _show(results: Sequence[Any], title: str) -> None:
    """A table on a terminal, aligned lines anywhere else; below it what does not hold, and the near-ties."""
    rows = [_row(result) for result in results]
    typer.echo(title)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*HEAD)
        for result, row in zip(results, rows, strict=True):
            table.add_row(*row, style="bold red" if result.holds is False else None)
        Console(emoji=False, markup=False, highlight=False).print(table)
    else:
        widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
        for row in (HEAD, *rows):
            typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for line in _notes(results):
        typer.echo(line)


def _row(result: Any) -> tuple[str, ...]:
    worst = "" if result.worst is None else f"{result.worst:.1e}"
    allowed = "" if result.tolerance is None else f"{result.tolerance:g}"
    return str(result.item), result.name, MARKS[result.holds], worst, allowed, result.checked


def _notes(results: Sequence[Any]) -> Iterator[str]:
    for result in results:
        if result.detail:
            yield f"{result.item} {result.name}: {result.detail}"
        for tie in result.near_ties:
            yield f"{result.item} {result.name}: near-tie, {tie}"
    failed = [result for result in results if result.holds is False]
    held = sum(result.holds is True for result in results)
    yield f"{held} of {held + len(failed)} hold" + (
        f"; broken: {', '.join(sorted({str(result.item) for result in failed}, key=int))}" if failed else ""
    )


def _finite(facts: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: a deviation without a number is a text."""
    worst = facts["worst"]
    return {**facts, "worst": str(worst) if worst is not None and worst == float("inf") else worst}
