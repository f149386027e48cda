"""A trained model from a folder, for the native engine. Imports no PyTorch where the weights are packed already.

Packed weights are kept in the user's cache folder, under a name made of the names, sizes and ages of the model's files.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.bundled import bundled_folder, is_bundled_name
from pellucid.config import DecodingConfig, ModelConfig
from pellucid.data.text import TextRules
from pellucid.data.tokenizer import load_rules, load_tokenizers
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.errors import ModelFolderError
from pellucid.model.adapter_config import is_adapter_folder, read_adapter_config
from pellucid.model.weights import read_weights
from pellucid.model_folder import find_model_folder, has_config
from pellucid.native.build import NativeUnavailableError, load_library
from pellucid.native.cache import packed_name, packing_folder, prune, touch
from pellucid.native.engine import NativeModel
from pellucid.native.packing import Precision, expected_shapes, pack, unsupported
from pellucid.native_translator import NativeTranslator

__all__ = ["load_native"]

DECODERS = ("gpt2", "llama")
TOOLKIT_FILES = (".pt", ".ckpt", ".npz")
WEIGHT_FILES = (".safetensors", ".bin", ".index.json", "config.json")


@dataclass(frozen=True, slots=True)
class _Around:
    """What a model has beside its weights."""

    source: Tokenizer
    target: Tokenizer
    decoding: DecodingConfig
    document: dict[str, Any]
    rules: TextRules | None = None


def load_native(
    path: str | Path | None = None,
    *,
    precision: Precision = "float32",
    workers: int = 1,
    source_language: str | None = None,
    target_language: str | None = None,
) -> NativeTranslator:
    """Load a trained model for the native engine.

    Args:
        path, source_language, target_language: as in :func:`pellucid.load`.
        precision: of the matrix products.
        workers: threads that search.

    Raises:
        NativeUnavailableError: the engine cannot run here, or not this model.
        PellucidError: as in :func:`pellucid.load`.
    """
    load_library()
    given = bundled_folder() if path is None or is_bundled_name(path) else Path(path)
    languages = {"source_language": source_language, "target_language": target_language}

    def reference() -> Any:
        from pellucid.loading import load

        return load(path, "cpu", **languages)

    folder = _folder(given)
    if folder is not None and _is_decoder(folder):
        raise NativeUnavailableError("this model is a decoder alone")
    if folder is None:
        return _through_pytorch(given, reference, precision, workers)
    packed = _packed_file(folder, precision)
    engine = _packed_before(packed)
    if engine is None:
        weights = _own_weights(folder)
        if weights is None:
            return _through_pytorch(folder, reference, precision, workers)
        engine = _write(packed, *weights, precision)
    around = _read_around(folder, engine, source_language, target_language)
    if around is None:  # what is wrong with it is said there
        return _through_pytorch(folder, reference, precision, workers)
    return NativeTranslator(
        engine,
        around.source,
        around.target,
        around.decoding,
        folder,
        around.document,
        around.rules,
        reference=reference,
        workers=workers,
    )


def _folder(path: Path) -> Path | None:
    """The folder with a config.json; None where there is none (checkpoints of other toolkits, and mistakes)."""
    from pellucid.interop.huggingface.hub import fetch, is_hub_name

    if is_hub_name(path):
        return fetch(path.as_posix())
    if _has_model(path):
        return find_model_folder(path)
    return None


def _is_decoder(folder: Path) -> bool:
    """Whether this is a decoder alone, as far as its config.json tells."""
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and (
        document.get("stacks") == "decoder" or ("format" not in document and document.get("model_type") in DECODERS)
    )


def _packed_file(folder: Path, precision: Precision) -> Path:
    return packed_name(folder, _about(folder), precision)


def _packed_toolkit(place: Path, precision: Precision) -> Path:
    """Of a checkpoint of another toolkit, beside which there may be files of settings under many names."""
    files = sorted(file for file in (place if place.is_dir() else place.parent).iterdir() if file.is_file())
    others = (".log",) if place.is_dir() else (".log", *TOOLKIT_FILES)
    return packed_name(place, [_stat(file) for file in files if file == place or file.suffix not in others], precision)


def _about(folder: Path) -> list[Any]:
    """Names, sizes and ages of the files with weights; of adapters also of those that they were trained beside."""
    files = [
        file for file in sorted(folder.iterdir()) if file.name == "config.json" or file.name.endswith(WEIGHT_FILES)
    ]
    about: list[Any] = [_stat(file) for file in files]
    if is_adapter_folder(folder) and _is_own(folder):
        base = Path(read_adapter_config(folder).base)
        if base.is_dir() and base.resolve() not in (folder.resolve(), folder.resolve().parent):
            about += (
                _about(find_model_folder(base))
                if _has_model(base)
                else [_stat(file) for file in sorted(base.iterdir())]
            )
        else:
            about.append(_stat(base) if base.exists() else str(base))
    return about


def _stat(file: Path) -> tuple[str, int, int, int, int]:
    stat = file.stat()
    return file.name, stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns


def _has_model(path: Path) -> bool:
    return has_config(path) or any(has_config(path / name) for name in ("best", "last"))


def _is_own(folder: Path) -> bool:
    """Whether this is a folder of ours, as far as its config.json tells."""
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("format") == "pellucid"


def _packed_before(packed: Path) -> NativeModel | None:
    """What was packed before; None if nothing was, or it is damaged: it is then packed again."""
    touch(packed)
    try:
        return NativeModel(packed) if packed.is_file() else None
    except (ModelFolderError, ValueError):
        return None


def _own_weights(folder: Path) -> tuple[dict[str, Any], ModelConfig, tuple[int, int]] | None:
    """Weights, architecture and vocabulary sizes of a sound model folder of our own; None for any other."""
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if document["format"] != "pellucid" or document["version"] != 1:
            return None
        config = ModelConfig.model_validate(document["model"])
        sizes = document["source_vocab_size"], document["target_vocab_size"]
        _refuse(config)
        stored = read_weights(folder / "model.safetensors")
        if {name: weight.values.shape for name, weight in stored.items()} != expected_shapes(config, sizes):
            return None
        return {name: weight.float32() for name, weight in stored.items()}, config, sizes
    except (ValueError, KeyError, TypeError, OSError):
        return None


def _refuse(config: ModelConfig) -> None:
    if (reason := unsupported(config)) is not None:
        raise NativeUnavailableError(f"this model has {reason}")


def _through_pytorch(place: Path, reference: Callable[[], Any], precision: Precision, workers: int) -> NativeTranslator:
    """Whatever PyTorch's side can load."""
    from pellucid.translator import Translator

    # Named before anything is read: what is replaced meanwhile is then never taken for what it was.
    began = time.monotonic()
    before = _packed_file(place, precision) if place.is_dir() and has_config(place) else None
    toolkit = _packed_toolkit(place, precision) if before is None and place.exists() else None
    loaded = reference()
    try:
        if not isinstance(loaded, Translator) or not hasattr(loaded.model, "encoder"):
            raise NativeUnavailableError("this model is a decoder alone")
        model = loaded.model
        _refuse(model.config)
    except NativeUnavailableError as error:
        error.loaded = loaded
        raise
    folder, engine = loaded.folder, None
    if folder is not None and folder.is_dir() and has_config(folder):
        packed = before if before is not None and folder == place else _packed_file(folder, precision)
    else:
        packed = toolkit or _packed_toolkit(place, precision)
        engine = _packed_before(packed)
    if is_new := engine is None:
        weights = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
        engine = _write(packed, weights, model.config, (model.source_vocab_size, model.target_vocab_size), precision)
    found = NativeTranslator(
        engine,
        loaded.source_tokenizer,
        loaded.target_tokenizer,
        loaded.decoding,
        loaded.folder,
        loaded.document,
        loaded.rules,
        reference=lambda: loaded,
        workers=workers,
    )
    if is_new:
        found.packing = time.monotonic() - began, packed.is_file()
    return found


def _write(
    packed: Path, weights: dict[str, Any], config: ModelConfig, sizes: tuple[int, int], precision: Precision
) -> NativeModel:
    """Pack into the cache; where that cannot be written to, into a file that is gone when the process is."""
    try:
        with packing_folder(packed) as (folder, is_kept):
            file = folder / packed.name
            pack(file, {name: np.asarray(weight) for name, weight in weights.items()}, config, sizes, precision)
            engine = NativeModel(file)  # mapped: it stays, whatever becomes of the name
            if is_kept:
                with file.open("rb") as written:
                    os.fsync(written.fileno())
                file.replace(packed)
                prune(packed)
            return engine
    except OSError as error:
        place = error.filename or packed.parent
        raise NativeUnavailableError(f"packed weights cannot be written ({place}: {error.strerror or error})") from None


def _read_around(
    folder: Path, engine: NativeModel, source_language: str | None, target_language: str | None
) -> _Around | None:
    """Tokenizers and settings, where all is as it should be."""
    from pellucid.interop.huggingface.folder import is_checkpoint
    from pellucid.interop.huggingface.surroundings import read_surroundings
    from pellucid.interop.huggingface.tokenizers import Languages

    sizes = engine.source_vocab_size, engine.target_vocab_size
    if is_checkpoint(folder):
        found = read_surroundings(folder, sizes, Languages(source_language, target_language))
        document: dict[str, Any] = {"huggingface": found.document, "unmapped": found.unmapped}
        if found.awaits is not None:
            document["awaits_language"] = found.awaits
        return _Around(found.source, found.target, found.decoding, document)
    if source_language is not None or target_language is not None:
        return None
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        decoding = DecodingConfig.model_validate(document.get("decoding", {}))
    except ValueError:
        return None
    source, target = load_tokenizers(folder / "tokenizer")
    if (source.vocab_size, target.vocab_size) != sizes:
        return None
    return _Around(source, target, decoding, document, load_rules(folder / "tokenizer"))
