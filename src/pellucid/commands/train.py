"""``pellucid train``: a config from a file, flags and overrides, and a run from the config.

Knows nothing of what a run does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pellucid.commands.options import setting_option
from pellucid.commands.terminal import open_reporter

__all__ = ["Arguments", "DevSource", "DevTarget", "Source", "Target", "train"]

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
    """
    from pellucid.commands.reading import read_config
    from pellucid.config import dump_config

    config = read_config(
        arguments or [],
        {"output": output},
        train={"source": source, "target": target},
        dev={"source": dev_source, "target": dev_target},
    )
    if print_config:
        typer.echo(dump_config(config), nl=False)
        return
    with open_reporter() as reporter:
        try:
            from pellucid import experiment

            finished = bool(experiment.train(config, reporter, overwrite).finished)
            how = "stopped"
        except KeyboardInterrupt:  # before the first update, or a second time
            finished, how = False, "interrupted"
    if not finished:
        command = "the same command" + (" without --overwrite" if overwrite else "")
        saved = (Path(str(config.output)) / "last").is_dir()
        go_on = f"goes on from {config.output}/last" if saved else "starts again, as nothing had been saved yet"
        typer.echo(f"{how}; {command} {go_on}", err=True)
        raise typer.Exit(130)
