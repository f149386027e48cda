"""``pellucid doctor``: what is wrong with a training run before its first update, as a table.

Knows nothing of what is checked; reads the text as ``train`` does, runs the checks and shows what they say.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.commands.terminal import open_reporter, to_json
from pellucid.commands.train import Arguments, DevSource, DevTarget, Source, Target

__all__ = ["doctor"]

FOUND = 1
MARKS = {"ok": "ok", "suspicious": "SUSPICIOUS", "wrong": "WRONG", "absent": "-"}
HEAD = ("check", "", "measured")


def doctor(
    arguments: Arguments = None,
    source: Source = None,
    target: Target = None,
    dev_source: DevSource = None,
    dev_target: DevTarget = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Settings and text alone, as `train` looks at them; no model is made.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write a JSON object.")] = False,
) -> None:
    """Look for what would make a training run silently wrong, before its first update.

    The arguments are those of `pellucid train`. Text: sides that have slipped, are swapped or of another script;
    development or test pairs that are in the training text; unknown, dropped and damaged text. Settings: learning rate,
    warm-up, batch, dropout, vocabulary and length limits that fit neither each other nor the text. The model: its loss
    before training near ln V, the causal mask, padding, a gradient for every parameter, one batch learned by heart, and
    the memory that the largest batch takes. Nothing is kept.

    A line for each: whether it holds, and what was measured; below, for each that does not, a sentence that says what
    to do. WRONG is beyond doubt, and `train` refuses it (training.checks); SUSPICIOUS may be meant. Exit status 1 if
    anything was found. Takes seconds, and longer for large texts and models.
    """
    from pellucid.commands.reading import read_config
    from pellucid.data.prepare import prepare
    from pellucid.starting import find_start
    from pellucid.training.runtime import set_threads
    from pellucid.training.tuning import check_tuning

    config = read_config(
        arguments or [],
        {},
        train={"source": source, "target": target},
        dev={"source": dev_source, "target": dev_target},
    )
    start = find_start(config)
    config = start.config
    check_tuning(config.model, config.training)
    set_threads(config.training.threads)
    checks: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="pellucid-") as folder, open_reporter() as reporter:
        place = Path(folder)
        shown = partial(reporter.progress, total=0)
        data = prepare(config, place, shown, given=start.tokenizers, known_tags=start.tags)
        from pellucid.doctor.examination import examine

        def progress(done: int) -> None:
            reporter.progress("look for leaks", done, len(data.train))

        for check in examine(config, data, start.fill, quick, progress):
            checks.append(check)
            reporter.progress("checking", len(checks), 0)
        lines = [*start.report, *data.report]
    found = [check for check in checks if check.found]
    if as_json:
        facts = {"found": len(found), "text": lines, "checks": [asdict(check) for check in checks]}
        typer.echo(to_json(facts, indent=2))
    else:
        _show(checks, lines)
    if found:
        raise typer.Exit(FOUND)


def _show(checks: Sequence[Any], lines: Sequence[str]) -> None:
    """What was read; a table on a terminal, aligned lines anywhere else; and below it what was found."""
    for line in lines:
        typer.echo(line)
    rows = [(check.name, MARKS[check.verdict], check.figure) for check in checks]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*HEAD)
        for check, row in zip(checks, rows, strict=True):
            table.add_row(*row, style="bold red" if check.found else None)
        Console(emoji=False, markup=False, highlight=False).print(table)
    else:
        widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
        for row in (HEAD, *rows):
            typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    found = [check for check in checks if check.found]
    for check in found:
        typer.echo(f"{check.name}: {check.sentence}")
    looked = sum(check.verdict != "absent" for check in checks)
    typer.echo(f"{looked} checks, {'nothing' if not found else len(found)} found")
