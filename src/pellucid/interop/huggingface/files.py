"""The files of a checkpoint folder: JSON, and tensors by name from safetensors (in shards too) or PyTorch's own format.

Knows nothing of architectures. Nothing is executed: PyTorch's files are read by its weights-only reader.
"""

from __future__ import annotations

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
from pellucid.interop.huggingface.folder import CONFIG_FILE, PICKLED, SAFE, missing_weights, read_json, shards

__all__ = ["CONFIG_FILE", "missing_weights", "read_json", "read_tensors"]


def read_tensors(folder: Path) -> tuple[dict[str, Tensor], str]:
    """Every tensor of a checkpoint by name, and the name of the file (or index of files) it came from.

    Files are mapped, not read: a tensor costs memory when it is used. (Only pickles of PyTorch before 1.6 are read.)

    Raises:
        ModelFolderError: no weights, a shard is missing, a file is damaged or holds more than tensors.
    """
    for name, read in ((SAFE, _read_safe), (PICKLED, _read_pickled)):
        if (folder / name).is_file():
            return read(folder / name), name
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _read_shards(index, read), index.name
    others = [p.name for p in sorted(folder.glob("*")) if p.suffix in (".h5", ".msgpack", ".ckpt", ".incomplete")]
    found = f" (only {', '.join(others)}, which are not read)" if others else ""
    raise ModelFolderError(
        f"{folder}: there is neither {SAFE} nor {PICKLED}{found}; the folder is incomplete: download all of it"
    )


def _read_shards(index: Path, read: Any) -> dict[str, Tensor]:
    files = shards(index)
    if missing := [name for name in files if not (index.parent / name).is_file()]:
        raise ModelFolderError(
            f"{index.parent}: {', '.join(missing)} missing of {len(files)} files of weights; "
            "the folder is incomplete: download all of it"
        )
    tensors: dict[str, Tensor] = {}
    for name in files:
        tensors |= read(index.parent / name)
    return tensors


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
            f"get the model as {SAFE}, or convert the file on a machine where you trust it"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile):
        raise ModelFolderError(
            f"{path}: not readable as PyTorch weights; the file is damaged or cut short: get it again"
        ) from None
    if not isinstance(value, dict) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise ModelFolderError(f"{path}: expected tensors by name, found something else; get the model as {SAFE}")
    return value
