"""A model's weights and architecture in a folder: ``config.json`` and ``model.safetensors``, never pickle.

Knows nothing about tokenizers or optimisers, which keep their own files beside these. Shared (tied) tensors are written
once. Writing is not atomic by itself: callers write into :func:`pellucid.files.replace_folder`.

Weights may be stored in less than float32 (``weights.py``): ``config.json`` then has ``storage``. What is loaded is
float32 in any case.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pellucid.config import ModelConfig
from pellucid.errors import ModelFolderError
from pellucid.files import write_json
from pellucid.model.alone import DecoderOnly
from pellucid.model.skeleton import place, skeleton
from pellucid.model.transformer import EncoderDecoder
from pellucid.model.weights import SCALES, STORAGES, Storage, is_compressible, quantize, read_shapes, read_weights
from pellucid.settings import explain

__all__ = [
    "CONFIG_FILE",
    "FORMAT_VERSION",
    "WEIGHTS_FILE",
    "is_model_folder",
    "load_any_model",
    "load_model",
    "save_config",
    "save_model",
    "save_tensors",
]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT_VERSION = 1
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_model(
    folder: Path,
    model: EncoderDecoder | DecoderOnly,
    weights: Mapping[str, Tensor] | None = None,
    extra: Mapping[str, Any] | None = None,
    storage: Storage = "float32",
) -> None:
    """Write ``model`` into ``folder``.

    Args:
        folder: an existing folder.
        model: gives the architecture and, without ``weights``, the numbers.
        weights: other values for the same parameters, e.g. their average.
        extra: further entries of ``config.json`` (decoding defaults, how it was trained).
        storage: of the matrices; other than float32 it rounds them.

    Raises:
        ModelFolderError: a number is not finite, and int8 has none for it.
    """
    tensors = dict(model.named_parameters()) if weights is None else weights
    save_tensors(folder / WEIGHTS_FILE, _compressed(tensors, storage))
    save_config(folder, model, {**({} if storage == "float32" else {"storage": storage}), **(extra or {})})


def save_config(folder: Path, model: EncoderDecoder | DecoderOnly, extra: Mapping[str, Any] | None = None) -> None:
    """Write ``config.json`` alone: the architecture, vocabulary sizes, and ``extra`` entries."""
    write_json(
        folder / CONFIG_FILE,
        {
            "format": "pellucid",
            "version": FORMAT_VERSION,
            "model": model.config.model_dump(mode="json"),
            "source_vocab_size": model.source_vocab_size,
            "target_vocab_size": model.target_vocab_size,
            **({"stacks": "decoder"} if isinstance(model, DecoderOnly) else {}),
            **(extra or {}),
        },
    )


def _compressed(tensors: Mapping[str, Tensor], storage: Storage) -> Mapping[str, Tensor]:
    if storage == "float32":
        return tensors
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not is_compressible(tuple(tensor.shape)):
            stored[name] = tensor
        elif storage == "bfloat16":
            stored[name] = tensor.detach().to(torch.bfloat16)
        else:
            values, scales = quantize(tensor.detach().cpu().to(torch.float32).numpy())
            stored[name], stored[name + SCALES] = torch.from_numpy(values), torch.from_numpy(scales)
    return stored


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, one after the other: none but the one being written is copied.

    Each begins at a multiple of 8 bytes, the first of 64: wide numbers come first, as in the library's own files.

    Raises:
        OSError: the disk is full, no permission, ... (The library's ``save_file`` hides these in an error of its own,
            and leaves a file that nobody else may read; its ``save`` holds the whole file in memory.)
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    head = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    head += b" " * (-(8 + len(head)) % 64)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in order:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)


def is_model_folder(folder: Path) -> bool:
    """Whether a config of ours stands in ``folder`` (it may still be incomplete)."""
    return (folder / CONFIG_FILE).is_file()


def load_model(folder: Path, device: str | torch.device = "cpu") -> tuple[EncoderDecoder, dict[str, Any]]:
    """Read a model.

    Returns:
        The model in evaluation mode, and the whole of ``config.json``.

    Raises:
        ModelFolderError: not a model folder, or that of a decoder alone; a file missing or cut short, tensors missing,
            left over or misshapen.
    """
    model, document = load_any_model(folder, device)
    if isinstance(model, DecoderOnly):
        raise ModelFolderError(f"{folder}: a decoder alone, where an encoder and a decoder are needed")
    return model, document


def load_any_model(
    folder: Path, device: str | torch.device = "cpu", weights: Mapping[str, Tensor] | None = None
) -> tuple[EncoderDecoder | DecoderOnly, dict[str, Any]]:
    """Read a model of either kind; otherwise as :func:`load_model`.

    Args:
        device: on ``meta`` the model's parameters have shapes and no numbers, which are not read.
        weights: the numbers, where they are not in the folder.
    """
    document = _read_document(folder)
    model = _skeleton(folder, document)
    path = folder / WEIGHTS_FILE
    if weights is None and not path.is_file():
        raise ModelFolderError(f"{folder}: {WEIGHTS_FILE} is missing; the folder is incomplete: copy it again")
    if weights is not None:
        tensors = dict(weights)
    elif torch.device(device).type == "meta":
        tensors = {name: torch.empty(shape, device="meta") for name, shape in read_shapes(path).items()}
    else:
        tensors = _read_tensors(path, document.get("storage", "float32"))
    _check_tensors(path, dict(model.named_parameters()), tensors)
    place(model, {name: tensor.to(torch.float32) for name, tensor in tensors.items()})  # mapped, not read, where it is
    return model.to(device).eval(), document


def _read_tensors(path: Path, storage: Any) -> dict[str, Tensor]:
    if storage not in STORAGES:
        raise ModelFolderError(
            f"{path.parent / CONFIG_FILE}: storage {storage!r} is not known: this pellucid reads "
            f"{', '.join(STORAGES)}; use the pellucid that wrote it"
        )
    if storage == "int8":
        weights = read_weights(path).items()
        # What is mapped from the file is read-only, and PyTorch has no such tensors.
        return {name: torch.from_numpy(np.require(weight.float32(), requirements="W")) for name, weight in weights}
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(
            f"{path}: not readable as safetensors ({error}); the file is damaged or cut short: copy it again"
        ) from None


def _read_document(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not folder.exists():
        raise ModelFolderError(f"{folder}: no such model folder")
    if not path.is_file():
        raise ModelFolderError(f"{folder}: not a model folder of pellucid (it has no {CONFIG_FILE})")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ModelFolderError(f"{path}: not valid JSON; the file is damaged: copy the folder again") from None
    if not isinstance(document, dict) or document.get("format") != "pellucid":
        raise ModelFolderError(f"{path}: not the config of a pellucid model (it has no format: pellucid)")
    if document.get("version") != FORMAT_VERSION:
        raise ModelFolderError(
            f"{path}: format version {document.get('version')}, this pellucid reads {FORMAT_VERSION}: "
            "use the pellucid that wrote it"
        )
    return document


def _skeleton(folder: Path, document: dict[str, Any]) -> EncoderDecoder | DecoderOnly:
    try:
        config = ModelConfig.model_validate(document["model"])
        sizes = [document[name] for name in ("source_vocab_size", "target_vocab_size")]
    except ValidationError as error:
        raise ModelFolderError(f"{folder / CONFIG_FILE}: {explain(error, ModelConfig)}") from None
    except KeyError as error:
        raise ModelFolderError(f"{folder / CONFIG_FILE}: the entry {error} is missing") from None
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ModelFolderError(f"{folder / CONFIG_FILE}: vocabulary sizes must be positive whole numbers, not {sizes}")
    if document.get("stacks") == "decoder":
        return skeleton(lambda: DecoderOnly(config, sizes[1]))
    if config.one_vocabulary and len(set(sizes)) > 1:
        raise ModelFolderError(
            f"{folder / CONFIG_FILE}: tied_embeddings: {config.tied_embeddings} means one vocabulary, "
            f"not two of {sizes[0]} and {sizes[1]}"
        )
    return skeleton(lambda: EncoderDecoder(config, *sizes))


def _check_tensors(path: Path, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not part of this architecture" for name in found if name not in expected]
    problems += [
        f"{name} has shape {list(found[name].shape)} where the config means {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if problems:
        raise ModelFolderError(f"{path}: weights do not fit {CONFIG_FILE}: {'; '.join(problems)}")
