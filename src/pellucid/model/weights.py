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
import math
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, Int8

from pellucid.errors import ModelFolderError

__all__ = [
    "SCALES",
    "STORAGES",
    "Storage",
    "Weight",
    "dequantize",
    "is_compressible",
    "quantize",
    "read_shapes",
    "read_weights",
]

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
    arrays = {name: array.float32_or_int8() for name, array in _arrays(path).items()}
    weights = {}
    for name, values in arrays.items():
        scales = arrays.get(name + SCALES)
        if values.dtype == np.int8 and (scales is None or values.ndim != 2 or scales.shape != values.shape[:1]):
            raise ModelFolderError(f"{path}: {name} is stored in int8 without a scale for each row: copy it again")
        if not _are_scales(name, arrays):
            weights[name] = Weight(values, scales)
    return weights


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays that :func:`read_weights` gives; no number is read.

    Raises:
        ModelFolderError: not readable as safetensors, or a type that no model of ours has.
    """
    shapes = {name: array.shape for name, array in _arrays(path).items()}
    return {name: shape for name, shape in shapes.items() if not _are_scales(name, shapes)}


def _are_scales(name: str, names: Container[str]) -> bool:
    return name.endswith(SCALES) and name.removesuffix(SCALES) in names


@dataclass(frozen=True, slots=True, eq=False)
class _Array:
    """An array as it lies in the file, mapped."""

    stored: np.ndarray
    dtype: str
    shape: tuple[int, ...]

    def float32_or_int8(self) -> np.ndarray:
        """The numbers: as float32, but for int8."""
        values = self.stored.view(_DTYPES[self.dtype])
        if self.dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        elif self.dtype not in ("F32", "I8"):
            values = values.astype(np.float32)
        return values.reshape(self.shape)


def _arrays(path: Path) -> dict[str, _Array]:
    """Every array of a safetensors file: eight bytes with the size of the header, the header as JSON, the numbers.

    Raises:
        ModelFolderError: it is none, or an array is of another type than ours are.
    """
    try:
        content = np.memmap(path, np.uint8, mode="r")
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        if not 8 < start <= len(content):
            raise ValueError("its header does not fit")
        header: dict[str, Any] = json.loads(content[8:start].tobytes())
        if not isinstance(header, dict):
            raise ValueError("its header is not an object")
        return {name: _array(content[start:], name, entry) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFolderError(
            f"{path}: not readable as safetensors ({error}); the file is damaged or cut short: copy it again"
        ) from None


def _array(numbers: np.ndarray, name: str, entry: dict[str, Any]) -> _Array:
    shape, dtype, (first, end) = tuple(map(int, entry["shape"])), entry["dtype"], entry["data_offsets"]
    if not 0 <= first <= end <= len(numbers):
        raise ValueError(f"{name} lies outside the file")
    if math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize != end - first:
        raise ValueError(f"{name} has not as many numbers as its shape means")
    return _Array(numbers[first:end], dtype, shape)
