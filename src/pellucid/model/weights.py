"""The numbers in ``model.safetensors`` by NumPy alone, for whoever runs a model without PyTorch; and int8 for them.

Knows nothing of architectures: names and arrays. Three storages: ``float32``; ``bfloat16``, the upper half of each
float32; ``int8``, a whole number from -127 to 127 for each number of a matrix, and beside the matrix ``NAME.scales``, a
float32 for each row: number = whole number · scale. A row of a matrix is what makes one output, of an embedding what
stands for one token, so each has a scale of its own. Vectors and matrices of short rows stay float32: they are small,
and what they hold (norms, biases, relative positions) is what rounding hurts most.

Shapes: R rows, C columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, Int8

from pellucid.errors import ModelFolderError

__all__ = ["SCALES", "STORAGES", "Storage", "Weight", "dequantize", "is_compressible", "quantize", "read_weights"]

Storage = Literal["float32", "bfloat16", "int8"]
STORAGES: tuple[str, ...] = get_args(Storage)

SCALES = ".scales"
"""What follows a matrix's name in the name of its scales."""

LARGEST = 127
SHORT_ROW = 32
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1"}


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """One array of the file.

    Attributes:
        values: float32, or int8 [R, C]; mapped from the file where it is stored so.
        scales: float32 [R], for int8 only.
    """

    values: np.ndarray
    scales: Float32[np.ndarray, " R"] | None = None

    def float32(self) -> np.ndarray:
        """The numbers that are meant."""
        return self.values if self.scales is None else dequantize(self.values, self.scales)


def is_compressible(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape is stored in bfloat16 or int8 where the model is."""
    return len(shape) == 2 and shape[1] >= SHORT_ROW


def quantize(matrix: Float32[np.ndarray, "R C"]) -> tuple[Int8[np.ndarray, "R C"], Float32[np.ndarray, " R"]]:
    """A matrix as int8 and its scales; no number moves by more than half of its row's scale (and rounding of it).

    Raises:
        ModelFolderError: a number is not finite.
    """
    largest = np.abs(matrix).max(axis=1, initial=0.0)
    if not np.isfinite(largest).all():
        raise ModelFolderError("weights that are not finite cannot be stored in int8: the model is broken, train again")
    scales = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    # A row of numbers so small that their scale is no longer a normal float32 may round up beyond the largest.
    whole = np.clip(np.rint(matrix / scales[:, None]), -LARGEST, LARGEST)
    return whole.astype(np.int8), scales


def dequantize(values: Int8[np.ndarray, "R C"], scales: Float32[np.ndarray, " R"]) -> Float32[np.ndarray, "R C"]:
    """The numbers that int8 and scales stand for."""
    matrix: np.ndarray = values.astype(np.float32) * scales[:, None]
    return matrix


def read_weights(path: Path) -> dict[str, Weight]:
    """The arrays of a file, whatever their storage; int8 stays int8, with its scales.

    Raises:
        ModelFolderError: not readable as safetensors, a type that no model of ours has, or int8 without its scales.
    """
    try:
        arrays = dict(_arrays(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFolderError(
            f"{path}: not readable as safetensors ({error}); the file is damaged or cut short: copy it again"
        ) from None
    weights = {}
    for name, values in arrays.items():
        scales = arrays.get(name + SCALES)
        if values.dtype == np.int8 and (scales is None or values.ndim != 2 or scales.shape != values.shape[:1]):
            raise ModelFolderError(f"{path}: {name} is stored in int8 without a scale for each row: copy it again")
        if not (name.endswith(SCALES) and name.removesuffix(SCALES) in arrays):
            weights[name] = Weight(values, scales)
    return weights


def _arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of a safetensors file: eight bytes with the size of the header, the header as JSON, the numbers."""
    content = np.memmap(path, np.uint8, mode="r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    if not 8 < start <= len(content):
        raise ValueError("its header does not fit")
    header: dict[str, Any] = json.loads(content[8:start].tobytes())
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        first, end = entry["data_offsets"]
        if not 0 <= first <= end <= len(content) - start:
            raise ValueError(f"{name} lies outside the file")
        yield name, _numbers(content[start + first : start + end].view(dtype), entry["dtype"]).reshape(entry["shape"])


def _numbers(stored: np.ndarray, dtype: str) -> np.ndarray:
    """As float32, but for int8."""
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored if dtype in ("F32", "I8") else stored.astype(np.float32)
