"""``pellucid convert``: a checkpoint of another program as a model folder of our own.

Knows nothing of families; loads what ``translate`` loads, and writes what ``train`` writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.commands import options

__all__ = ["convert", "save_converted"]

_KEPT = ("huggingface", "origin", "awaits_language")


def convert(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of a Hugging Face checkpoint, or its name on the hub; folder or file of a checkpoint of "
            "fairseq, OpenNMT-py or JoeyNMT.",
        ),
    ],
    output: Annotated[str, typer.Argument(metavar="OUT", help="The model folder to make; it must not be there yet.")],
    source_language: options.SourceLanguage = None,
    target_language: options.TargetLanguage = None,
) -> None:
    """Make a model folder from a checkpoint of another program.

    Weights in float32 as safetensors, tokenizers, and the checkpoint's generation settings as ours. The checkpoint can
    be used as it is, too (`--model FOLDER`); the result needs no conversion at each start, and keeps the languages that
    are given here.
    """
    from pellucid.errors import ConfigError
    from pellucid.loading import load

    out = Path(output)
    if out.exists():
        raise ConfigError(f"{out}: it is there already: give another name, or take it away first")
    translator = load(checkpoint, "cpu", source_language=source_language, target_language=target_language)
    if "format" in translator.document:
        raise ConfigError(f"{checkpoint}: it is a model folder of pellucid already: nothing to convert")
    save_converted(translator, out)
    for setting in translator.document["unmapped"]:
        typer.echo(f"not mapped: {setting}", err=True)
    typer.echo(f"wrote {out}", err=True)


def save_converted(translator: Any, folder: Path) -> None:
    """Write a :class:`~pellucid.translator.Translator` of a checkpoint as a model folder."""
    from pellucid.data.tokenizer import save_tokenizers
    from pellucid.files import replace_folder
    from pellucid.model.storage import save_model
    from pellucid.translator import TOKENIZER_FOLDER

    extra = {
        "decoding": translator.decoding.model_dump(mode="json"),
        **{name: translator.document[name] for name in _KEPT if name in translator.document},
        "unmapped": translator.document["unmapped"],
    }
    with replace_folder(folder) as temporary:
        save_tokenizers(temporary / TOKENIZER_FOLDER, translator.source_tokenizer, translator.target_tokenizer)
        save_model(temporary, translator.model, extra=extra)
