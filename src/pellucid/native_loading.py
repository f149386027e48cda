"""A trained model from a folder, for the native engine. Imports no PyTorch where the weights are packed already.

Packed weights are kept in the user's cache folder, under a name made of the names, sizes and ages of the model's files.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
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
from pellucid.model.weights import read_weights
from pellucid.model_folder import find_model_folder, has_config
from pellucid.native.build import NativeUnavailableError, cache_folder, load_library
from pellucid.native.engine import NativeModel
from pellucid.native.packing import PACK_VERSION, Precision, expected_shapes, pack, unsupported
from pellucid.native_translator import NativeTranslator

__all__ = ["load_native"]

DECODERS = ("gpt2", "llama")
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
    if has_config(path) or any(has_config(path / name) for name in ("best", "last")):
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
    files = [
        file for file in sorted(folder.iterdir()) if file.name == "config.json" or file.name.endswith(WEIGHT_FILES)
    ]
    stats = [(file.name, file.stat()) for file in files]
    about = [(name, stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]
    key = hashlib.sha256(repr((PACK_VERSION, str(folder.resolve()), about)).encode()).hexdigest()[:16]
    return cache_folder() / "packed" / f"{key}-{precision}.bin"


def _packed_before(packed: Path) -> NativeModel | None:
    """What was packed before; None if nothing was, or it is damaged: it is then packed again."""
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
    before = _packed_file(place, precision) if place.is_dir() else None
    loaded = reference()
    if not isinstance(loaded, Translator) or not hasattr(loaded.model, "encoder"):
        raise NativeUnavailableError("this model is a decoder alone")
    model = loaded.model
    _refuse(model.config)
    folder = loaded.folder
    if folder is not None and folder.is_dir() and has_config(folder):
        packed = before if before is not None and folder == place else _packed_file(folder, precision)
    else:
        about = place.stat()
        key = hashlib.sha256(repr((str(place.resolve()), about.st_size, about.st_mtime_ns)).encode()).hexdigest()[:16]
        packed = cache_folder() / "packed" / f"{key}-{precision}.bin"
    weights = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    engine = _write(packed, weights, model.config, (model.source_vocab_size, model.target_vocab_size), precision)
    return NativeTranslator(
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


def _write(
    packed: Path, weights: dict[str, Any], config: ModelConfig, sizes: tuple[int, int], precision: Precision
) -> NativeModel:
    """Pack into the cache; where that cannot be written to, into a file that is gone when the process is."""
    try:
        packed.parent.mkdir(parents=True, exist_ok=True)
        folder = packed.parent if os.access(packed.parent, os.W_OK) else None
    except OSError:
        folder = None
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".packing-") as place:
            file = Path(place) / packed.name
            pack(file, {name: np.asarray(weight) for name, weight in weights.items()}, config, sizes, precision)
            if folder is not None:
                with file.open("rb") as written:
                    os.fsync(written.fileno())
                file.replace(packed)
                return NativeModel(packed)
            return NativeModel(file)
    except OSError as error:
        place_of = folder or tempfile.gettempdir()
        raise NativeUnavailableError(
            f"packed weights cannot be written to {place_of} ({error.strerror or error})"
        ) from None


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
