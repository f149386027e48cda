"""Arrays with named axes, and their exact bits as text.

Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Array"]

BFLOAT16 = "bfloat16"
_STORED = {
    "float32": "<f4",
    "float64": "<f8",
    "float16": "<f2",
    BFLOAT16: "<u2",
    "int64": "<i8",
    "bool": "|b1",
}


class Array:
    """Numbers with a name for each axis.

    Attributes:
        values: the numbers; those of bfloat16, which NumPy does not have, as the float32 of the same value.
        dtype: what they were where they were computed.
        axes: names, one for each axis.
    """

    __slots__ = ("axes", "dtype", "values")

    def __init__(self, values: np.ndarray, axes: tuple[str, ...], dtype: str | None = None) -> None:
        assert values.ndim == len(axes)
        self.values, self.axes = values, axes
        self.dtype = str(values.dtype) if dtype is None else dtype
        assert self.dtype in _STORED

    @classmethod
    def of(cls, tensor: Tensor, *axes: str) -> Array:
        """A tensor of any device, copied."""
        name = str(tensor.dtype).removeprefix("torch.")
        plain = tensor.detach().float() if name == BFLOAT16 else tensor.detach()
        return cls(plain.cpu().numpy().copy(), axes, name)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return self.values.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers as stored."""
        return self.values.size * np.dtype(_STORED[self.dtype]).itemsize

    def describe(self) -> dict[str, Any]:
        """What it is, without the numbers."""
        return {"dtype": self.dtype, "shape": list(self.shape), "axes": list(self.axes)}

    def encode(self) -> dict[str, Any]:
        """A value for JSON: the description and the raw numbers in base64."""
        values = np.ascontiguousarray(self.values)
        if self.dtype == BFLOAT16:
            values = (values.view(np.uint32) >> 16).astype(np.uint16)
        raw = values.astype(_STORED[self.dtype], copy=False).tobytes()
        return {**self.describe(), "b64": base64.b64encode(raw).decode("ascii")}

    @classmethod
    def decode(cls, value: Any) -> Array:
        """The array of :meth:`encode`.

        Raises:
            ValueError: it is something else, or its parts do not fit each other.
        """
        if not isinstance(value, dict) or set(value) != {"dtype", "shape", "axes", "b64"}:
            raise ValueError("expected an array: dtype, shape, axes and b64")
        dtype, shape, axes = value["dtype"], value["shape"], value["axes"]
        if dtype not in _STORED:
            raise ValueError(f"unknown dtype {dtype!r}")
        if not all(type(size) is int and size >= 0 for size in shape) or len(axes) != len(shape):
            raise ValueError("shape and axes do not fit each other")
        try:
            raw = base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, TypeError):
            raise ValueError("b64 is not base64") from None
        stored = np.dtype(_STORED[dtype])
        if len(raw) != math.prod(shape) * stored.itemsize:
            raise ValueError(f"{len(raw)} bytes do not make an array of shape {shape} and dtype {dtype}")
        values = np.frombuffer(raw, stored).reshape(shape)
        if dtype == BFLOAT16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return cls(values, tuple(axes), dtype)

    def __repr__(self) -> str:
        return f"Array({self.dtype} [{', '.join(f'{a} {n}' for a, n in zip(self.axes, self.shape, strict=True))}])"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Array) and self.encode() == other.encode()

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let a pydantic model hold one: as it is, or encoded."""

        def read(value: Any) -> Array:
            if isinstance(value, Array):
                return value
            try:
                return cls.decode(value)
            except ValueError as error:
                raise PydanticCustomError("array", "{reason}", {"reason": str(error)}) from None

        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.plain_serializer_function_ser_schema(cls.encode)
        )
