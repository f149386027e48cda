"""``pellucid convert``: a checkpoint of another program as a model folder of our own; fewer bytes; fewer heads.

Knows nothing of families; loads what ``translate`` loads, and writes what ``train`` writes.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.commands import options

__all__ = ["convert", "save_converted", "save_stored"]

_KEPT = ("huggingface", "origin", "awaits_language")
_WRITTEN = ("format", "version", "model", "source_vocab_size", "target_vocab_size", "stacks", "storage", "adapter")


def convert(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of a Hugging Face checkpoint, or its name on the hub; folder or file of a checkpoint of "
            "Marian, fairseq, OpenNMT-py or JoeyNMT; a run of adapters (training.lora); with --storage or --kv-heads "
            "any model folder or run folder of pellucid.",
        ),
    ],
    output: Annotated[str, typer.Argument(metavar="OUT", help="The model folder to make; it must not be there yet.")],
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="float32|bfloat16|int8",
            help="How weights are stored; what is loaded is float32 again. Default: float32.",
            show_default=False,
        ),
    ] = None,
    kv_heads: Annotated[
        int | None,
        typer.Option(
            "--kv-heads",
            metavar="N",
            help="Pool the key/value heads of every attention to N, which divides their number. Default: as they are.",
            show_default=False,
        ),
    ] = None,
    source_language: options.SourceLanguage = None,
    target_language: options.TargetLanguage = None,
) -> None:
    """Make a model folder: of another program's checkpoint, with adapters merged, in fewer bytes, or with fewer heads.

    Weights as safetensors, tokenizers, and the checkpoint's generation settings as ours. The checkpoint can be used as
    it is, too (`--model FOLDER`); the result needs no conversion at each start, and keeps the languages that are given
    here.

    Of a run of adapters (training.lora) it makes an ordinary model folder with the same texts: the adapters are merged
    into the weights of the model they were trained beside, which is not needed any more.

    --storage bfloat16 halves the file and int8 makes it a quarter: whole numbers from -127 to 127, with a scale for
    each row of a matrix. Vectors stay float32. The model computes in float32 as before, with slightly other weights.

    --kv-heads N makes grouped-query attention of multi-head attention (1: multi-query): each key/value head becomes the
    mean of those it replaces, and the KV cache shrinks in proportion. The model is worse until it is trained on for a
    while: `pellucid train` with training.init_from=OUT.
    """
    from pellucid.errors import ConfigError
    from pellucid.loading import load
    from pellucid.model.weights import STORAGES

    if storage not in (None, *STORAGES):
        raise ConfigError(f"--storage {storage}: there is {', '.join(STORAGES)}")
    out = Path(output)
    if out.exists():
        raise ConfigError(f"{out}: it is there already: give another name, or take it away first")
    translator = load(checkpoint, "cpu", source_language=source_language, target_language=target_language)
    is_own = "format" in translator.document
    if is_own and "adapter" not in translator.document and storage is None and kv_heads is None:
        raise ConfigError(
            f"{checkpoint}: it is a model folder of pellucid already: nothing to convert, unless --storage says how "
            "its weights are to be stored, or --kv-heads how many key/value heads are to be left"
        )
    if kv_heads is not None:
        from pellucid.model.grouping import pool_heads

        translator.model = pool_heads(translator.model, kv_heads)
    if is_own:
        save_stored(translator, out, storage or translator.document.get("storage", "float32"))
    else:
        save_converted(translator, out, storage or "float32")
    for setting in translator.document.get("unmapped", []):
        typer.echo(f"not mapped: {setting}", err=True)
    typer.echo(f"wrote {out}", err=True)


def save_stored(translator: Any, folder: Path, storage: str) -> None:
    """Write a model of our own as it is, tokenizers and all, with its weights in that storage, adapters merged."""
    from pellucid.files import replace_folder
    from pellucid.model.adapter_config import ADAPTER_CONFIG, ADAPTER_FILE
    from pellucid.model.storage import CONFIG_FILE, WEIGHTS_FILE, save_model

    extra = {name: value for name, value in translator.document.items() if name not in _WRITTEN}
    replaced = (CONFIG_FILE, WEIGHTS_FILE, ADAPTER_CONFIG, ADAPTER_FILE)
    with replace_folder(folder) as temporary:
        for path in sorted(translator.folder.iterdir()):
            if path.is_dir():
                shutil.copytree(path, temporary / path.name)
            elif path.name not in replaced and path.stem != "training":  # no state to resume from
                shutil.copy(path, temporary)
        save_model(temporary, translator.model, extra=extra, storage=storage)  # type: ignore[arg-type]


def save_converted(translator: Any, folder: Path, storage: str = "float32") -> None:
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
        save_model(temporary, translator.model, extra=extra, storage=storage)  # type: ignore[arg-type]
