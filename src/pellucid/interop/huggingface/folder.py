"""What is in a checkpoint folder, as far as names and JSON tell; what needs no PyTorch to be known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pellucid.errors import ModelFolderError

__all__ = ["CONFIG_FILE", "PICKLED", "SAFE", "is_checkpoint", "missing_weights", "read_json", "shards"]

CONFIG_FILE = "config.json"
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"


def is_checkpoint(folder: Path) -> bool:
    """Whether a config of transformers stands in ``folder`` (it may still be incomplete)."""
    try:
        document = read_json(folder / CONFIG_FILE)
    except ModelFolderError:
        return False
    return "model_type" in document and "format" not in document


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


def missing_weights(folder: Path) -> list[str]:
    """Files of weights that a checkpoint folder lacks; of the first kind that is there at all.

    Raises:
        ModelFolderError: an index of files is damaged.
    """
    for name in (SAFE, PICKLED):
        if (folder / name).is_file():
            return []
        index = folder / f"{name}.index.json"
        if index.is_file():
            return [file for file in shards(index) if not (folder / file).is_file()]
    return [SAFE]


def shards(index: Path) -> list[str]:
    """The files that an index names.

    Raises:
        ModelFolderError: it is damaged.
    """
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise ModelFolderError(f"{index}: it has no weight_map; the file is damaged: get the folder again")
    return sorted({Path(str(name)).name for name in places.values()})
