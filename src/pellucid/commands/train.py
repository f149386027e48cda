"""``pellucid train``: a config from a file, flags and overrides, and a run from the config.

Knows nothing of what a run does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.commands.options import setting_option
from pellucid.commands.terminal import open_reporter

__all__ = ["Arguments", "DevSource", "DevTarget", "Source", "Target", "train"]

INTERRUPTED = 130

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG.yaml|KEY=VALUE",
        help="A config file first, if there is one; then settings, such as training.max_updates=100.",
        show_default=False,
    ),
]
Source = Annotated[str | None, setting_option("data.train.source")]
Target = Annotated[str | None, setting_option("data.train.target")]
DevSource = Annotated[str | None, setting_option("data.dev.source")]
DevTarget = Annotated[str | None, setting_option("data.dev.target")]


def train(
    arguments: Arguments = None,
    source: Source = None,
    target: Target = None,
    dev_source: DevSource = None,
    dev_target: DevTarget = None,
    output: Annotated[str | None, setting_option("output")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the run that is in the folder and start anew.")
    ] = False,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Go on with the run in the folder though settings have changed."),
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Write every setting as YAML to stdout and exit.")
    ] = False,
) -> None:
    """Train a model, or go on with a run that was interrupted.

    Settings come from a YAML file, from the flags below, or from both; a flag wins over the file, KEY=VALUE over both.
    --source stands for data.train.source, --dev-source for data.dev.source, and so on. `pellucid train --print-config`
    writes all settings with their values.

    Ctrl-C saves and stops; the same command goes on from there, exactly. In the run folder are config.yaml, tokenizer/,
    best/ and last/ (models), metrics.jsonl, tensorboard/ and samples/.

    If settings have changed in between, the run is not touched, and the changes are named. --accept-changes goes on
    from last/ with the new ones (a finished run, too, if there are more updates to do) and keeps the old ones as
    config-until-N.yaml. What weights and state depend on cannot change: sizes, tokenizer, text, metric.

    `torchrun --nproc_per_node=2 -m pellucid train ...` trains the same with two processes (docs/processes.md).
    """
    from pellucid.commands.reading import read_config
    from pellucid.config import dump_config
    from pellucid.errors import ConfigError

    with _processes() as processes:
        config = read_config(
            arguments or [],
            {"output": output},
            train={"source": source, "target": target},
            dev={"source": dev_source, "target": dev_target},
        )
        if print_config:
            if processes is None or processes.is_first:
                typer.echo(dump_config(config), nl=False)
            return
        if overwrite and accept_changes:
            raise ConfigError("--overwrite starts anew and --accept-changes goes on: give one of the two")
        finished = _train(config, overwrite, processes, accept_changes)
    if not finished:
        raise typer.Exit(INTERRUPTED)


@contextmanager
def _processes() -> Iterator[Any]:
    """Those that torchrun has started together; None where there is one only."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield None
        return
    from pellucid.training.parallel import EndedElsewhere, together

    try:
        with together() as processes:
            yield processes
    except EndedElsewhere as end:
        raise typer.Exit(end.status) from None


def _train(config: Any, overwrite: bool, processes: Any, accept_changes: bool) -> bool:
    """Whether the run has finished; where it has not, how it goes on has been said."""
    speaks = processes is None or processes.is_first
    how = "stopped"
    with open_reporter() as reporter:
        try:
            from pellucid import experiment

            finished = bool(experiment.train(config, reporter, overwrite, processes, accept_changes).finished)
        except KeyboardInterrupt:  # before the first update, or a second time
            if not speaks:
                raise
            finished, how = False, "interrupted"
    if not finished and speaks:
        command = "the same command" + (" without --overwrite" if overwrite else "")
        saved = (Path(str(config.output)) / "last").is_dir()
        go_on = f"goes on from {config.output}/last" if saved else "starts again, as nothing had been saved yet"
        typer.echo(f"{how}; {command} {go_on}", err=True)
        if how == "interrupted" and processes is not None:
            raise KeyboardInterrupt  # the others are to know
    return finished
