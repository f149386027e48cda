"""``pellucid data``: get corpora, and look through one before training on it.

Knows nothing of where corpora come from or of what is looked for.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pellucid.commands.options import SettingsCommand
from pellucid.commands.terminal import open_reporter
from pellucid.commands.train import Arguments, DevSource, DevTarget, Source, Target

__all__ = ["app", "check", "demo", "fetch"]

app = typer.Typer(
    help="Get corpora, and look through one before training on it.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="multi30k, tatoeba-zh-en or g2p.")],
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="The corpus gets a folder of its own in it.")] = Path(
        "corpora"
    ),
) -> None:
    """Fetch a public corpus that a recipe uses; needs a network.

    What is there and unchanged is not fetched again. Train on it with data.dir, for example
    `pellucid train recipes/multi30k-en-de.yaml data.dir=corpora/multi30k`.
    """
    from pellucid.data.fetch import fetch as fetch_corpus

    with open_reporter() as reporter:
        folder = fetch_corpus(name, output, lambda file, size: reporter.progress(file, size, 0))
    typer.echo(f"{folder} (source and licence: {folder / 'README.md'})")


@app.command("demo")
def demo(
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files are put.")] = Path("corpora/hsk"),
    glosses: Annotated[bool, typer.Option("--glosses", help="Append words and their glosses to train.tsv.")] = False,
) -> None:
    """Write the demo's Chinese-English data set.

    The files are train.tsv, dev.tsv, test.tsv and README.md (source and licence). Needs the extra:
    pip install 'pellucid[demo]'.
    """
    from pellucid.data.hsk import write_hsk

    data = write_hsk(output, glosses)
    left_out = ", ".join(f"{reason} {count:,}" for reason, count in sorted(data.dropped.items()))
    sizes = f"{len(data.train):,} pairs to train on, {len(data.dev):,} for dev, {len(data.test):,} for test"
    typer.echo(f"{output}: {sizes}")
    typer.echo(f"left out: {left_out} (source and licence: {output / 'README.md'})")


@app.command("check", cls=SettingsCommand)
def check(
    arguments: Arguments = None,
    source: Source = None,
    target: Target = None,
    dev_source: DevSource = None,
    dev_target: DevTarget = None,
) -> None:
    """Read and clean a corpus as `train` would, and report.

    Tokenizers are learned and used, too, but no model is trained and nothing is kept. The arguments are those of
    `pellucid train`; what train would refuse is an error here, too.
    """
    from pellucid.commands.reading import read_config
    from pellucid.data.overlap import count_leaks
    from pellucid.data.prepare import prepare
    from pellucid.data.reading import label
    from pellucid.starting import find_start

    config = read_config(
        arguments or [],
        {},
        train={"source": source, "target": target},
        dev={"source": dev_source, "target": dev_target},
    )
    start = find_start(config)
    with tempfile.TemporaryDirectory(prefix="pellucid-") as folder, open_reporter() as reporter:
        shown = partial(reporter.progress, total=0)
        data = prepare(start.config, Path(folder), shown, given=start.tokenizers, known_tags=start.tags)
        count_leaks(
            data.train,
            data.dev_parts.values(),
            lambda done: reporter.progress("compare dev with train", done, len(data.train)),
        )
        lines = list(data.report)
        for side, tokenizer in (("source", data.source_tokenizer), ("target", data.target_tokenizer)):
            lines.append(f"{side} tokenizer: {tokenizer.kind}, {tokenizer.vocab_size:,} tokens.")
        parts = [(label("train", name), part) for name, part in data.train_parts.items()]
        parts += [(label("dev", name), part) for name, part in data.dev_parts.items()]
        for name, dataset in parts:
            for side, lengths in (("source", dataset.source_lengths), ("target", dataset.target_lengths)):
                lines.append(
                    f"{name}: {int(lengths.sum()):,} {side} tokens, {lengths.mean():.1f} in a sentence, "
                    f"at most {int(lengths.max()):,}."
                )
    for line in lines:
        typer.echo(line)
