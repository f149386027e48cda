"""``pellucid demo``: the demonstration, from the command line.

Knows nothing of what is shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pellucid.commands.terminal import open_reporter

__all__ = ["demo"]


def demo(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings other than the demo's own.", show_default=False),
    ] = None,
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="The run folder.")] = Path("runs/demo"),
) -> None:
    """Train a small Chinese-English model and look at it working.

    Takes about 4 minutes on 2 cores. Needs the extra: pip install 'pellucid[demo]'. A second run uses what is in the
    folder.
    """
    with open_reporter() as reporter:
        try:
            from pellucid.demo import run

            finished = run(output, reporter, typer.echo, settings or [])
        except KeyboardInterrupt:
            finished = False
    if not finished:
        typer.echo(f"interrupted; the same command goes on from the last save in {output}", err=True)
        raise typer.Exit(130)
