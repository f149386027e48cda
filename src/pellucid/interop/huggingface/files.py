"""The files of a checkpoint folder: JSON, and tensors by name from safetensors (in shards too) or PyTorch's own format.

Knows nothing of architectures. Nothing is executed: PyTorch's files are read by its weights-only reader.
"""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pellucid.errors import ModelFolderError

__all__ = ["CONFIG_FILE", "missing_weights", "read_json", "read_tensors"]

CONFIG_FILE = "config.json"
_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"


def read_json(path: Path) -> dict[str, Any]:
    """An object in a JSON file; empty where there is no such file.

    Raises:
        ModelFolderError: damaged, or not an object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ModelFolderError(f"{path}: not valid JSON; the file is damaged: get the folder again") from None
    if not isinstance(value, dict):
        raise ModelFolderError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_tensors(folder: Path) -> tuple[dict[str, Tensor], str]:
    """Every tensor of a checkpoint by name, and the name of the file (or index of files) it came from.

    Files are mapped, not read: a tensor costs memory when it is used. (Only pickles of PyTorch before 1.6 are read.)

    Raises:
        ModelFolderError: no weights, a shard is missing, a file is damaged or holds more than tensors.
    """
    for name, read in ((_SAFE, _read_safe), (_PICKLED, _read_pickled)):
        if (folder / name).is_file():
            return read(folder / name), name
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _read_shards(index, read), index.name
    others = [p.name for p in sorted(folder.glob("*")) if p.suffix in (".h5", ".msgpack", ".ckpt", ".incomplete")]
    found = f" (only {', '.join(others)}, which are not read)" if others else ""
    raise ModelFolderError(
        f"{folder}: there is neither {_SAFE} nor {_PICKLED}{found}; the folder is incomplete: download all of it"
    )


def missing_weights(folder: Path) -> list[str]:
    """Files of weights that a checkpoint folder lacks; of the first kind that is there at all.

    Raises:
        ModelFolderError: an index of files is damaged.
    """
    for name in (_SAFE, _PICKLED):
        if (folder / name).is_file():
            return []
        index = folder / f"{name}.index.json"
        if index.is_file():
            return [file for file in _shards(index) if not (folder / file).is_file()]
    return [_SAFE]


def _read_shards(index: Path, read: Any) -> dict[str, Tensor]:
    files = _shards(index)
    if missing := [name for name in files if not (index.parent / name).is_file()]:
        raise ModelFolderError(
            f"{index.parent}: {', '.join(missing)} missing of {len(files)} files of weights; "
            "the folder is incomplete: download all of it"
        )
    tensors: dict[str, Tensor] = {}
    for name in files:
        tensors |= read(index.parent / name)
    return tensors


def _shards(index: Path) -> list[str]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise ModelFolderError(f"{index}: it has no weight_map; the file is damaged: get the folder again")
    return sorted({Path(str(name)).name for name in places.values()})


def _read_safe(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(
            f"{path}: not readable as safetensors ({error}); the file is damaged or cut short: get it again"
        ) from None


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that it will refuse
            mapped = zipfile.is_zipfile(path)
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError:
        raise ModelFolderError(
            f"{path}: it holds more than tensors, which could only be read by running code from it; "
            f"get the model as {_SAFE}, or convert the file on a machine where you trust it"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile):
        raise ModelFolderError(
            f"{path}: not readable as PyTorch weights; the file is damaged or cut short: get it again"
        ) from None
    if not isinstance(value, dict) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise ModelFolderError(f"{path}: expected tensors by name, found something else; get the model as {_SAFE}")
    return value
