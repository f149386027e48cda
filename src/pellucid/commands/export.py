"""``pellucid export``: a model of ours as a checkpoint of another program.

Knows nothing of their formats.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["export"]


def export(
    model: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A run folder (its best/ is used), or a model folder.")
    ],
    output: Annotated[str, typer.Argument(metavar="OUT", help="The folder to make; it must not be there yet.")],
    to: Annotated[str, typer.Option("--to", metavar="hf|ctranslate2", help="For which program.")],
    quantization: Annotated[
        str | None,
        typer.Option(
            "--quantization",
            metavar="TYPE",
            help="For ctranslate2: int8, int8_float32, int8_float16, int8_bfloat16, int16, float16, bfloat16 or "
            "float32 (the default).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a model for another program.

    hf: a checkpoint that Hugging Face's transformers loads by `AutoModelForSeq2SeqLM` and `AutoTokenizer`, in the
    family that can express the model: Marian, Pegasus, BART, mBART, M2M-100 or T5. ctranslate2: a folder for
    CTranslate2, needs pip install 'pellucid[ctranslate2]'.

    The same numbers come out of the same text there. An architecture that the format cannot express is an error that
    names the settings; generation settings that have no counterpart are listed as not mapped.
    """
    from pellucid.errors import ConfigError
    from pellucid.loading import load

    if to not in ("hf", "ctranslate2"):
        raise ConfigError(f"--to {to}: there is hf (Hugging Face transformers) and ctranslate2")
    if quantization is not None and to != "ctranslate2":
        raise ConfigError("--quantization is for --to ctranslate2; Hugging Face's libraries quantise as they load")
    out = Path(output)
    if out.exists():
        raise ConfigError(f"{out}: it is there already: give another name, or take it away first")
    translator = load(model, "cpu")
    parts = (translator.model, translator.source_tokenizer, translator.target_tokenizer)
    if "format" not in translator.document:
        raise ConfigError(
            f"{model}: it is a checkpoint of another program: make a model folder of it with pellucid convert first"
        )
    if not hasattr(translator.model, "encoder"):
        raise ConfigError(f"{model}: a decoder alone cannot be exported: only encoder-decoders are written")
    try:
        if to == "hf":
            from pellucid.interop.huggingface.export import export_checkpoint

            family, left = export_checkpoint(out, *parts, translator.decoding, translator.rules)
            how = f" (as {family})"
        else:
            from pellucid.interop.ctranslate2 import export_ctranslate2

            left = export_ctranslate2(out, *parts, translator.decoding, translator.rules, quantization)
            how = ""
    except ConfigError as error:
        raise ConfigError(f"{model}: {error}") from None
    for setting in left:
        typer.echo(f"not mapped: {setting}", err=True)
    typer.echo(f"wrote {out}{how}", err=True)
