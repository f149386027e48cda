"""A trace as JSON: whole, or with references in the place of what is large; and read again.

Knows nothing of servers: a reference is a path into the document. Numbers that JSON does not have are strings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pellucid.errors import DataError
from pellucid.files import write_text
from pellucid.tracing.arrays import Array
from pellucid.tracing.document import FORMAT, SCHEMA, Document

__all__ = ["INLINE_BYTES", "dumps", "encode", "encode_live", "find", "load", "parse", "save"]

INLINE_BYTES = 16_384
"""Arrays above this size are references in a live document."""

Model = TypeVar("Model", bound=BaseModel)


def encode(value: Any) -> Any:
    """Any part of a trace as a value for JSON, with everything in it."""
    return _encode(value, "", None)


def encode_live(value: Any, path: str = "") -> Any:
    """The same with references: for large arrays, writings and covers that are not there yet.

    Args:
        value: a document or a part of one.
        path: where that part is.
    """
    return _encode(value, path, _reference)


def _reference(value: Any, path: str) -> Any:
    if isinstance(value, Array) and value.nbytes > INLINE_BYTES:
        return {"ref": path, **value.describe()}
    parts = path.split("/")
    if value is None and parts[0] == "writings" and (len(parts) == 2 or parts[2:] == ["cover"]):
        return {"ref": path}
    return None


def _encode(value: Any, path: str, refer: Callable[[Any, str], Any] | None) -> Any:
    if refer is not None and (reference := refer(value, path)) is not None:
        return reference
    if isinstance(value, Array):
        return value.encode()
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        items = {field.alias or name: getattr(value, name) for name, field in fields.items()}
        return _encode(items, path, refer)
    inside = f"{path}/" if path else ""
    if isinstance(value, dict):
        return {name: _encode(item, f"{inside}{name}", refer) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item, f"{inside}{place}", refer) for place, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def dumps(value: Any) -> str:
    """What :func:`encode` made, as text on one line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def find(document: Any, path: str) -> Any:
    """The part of a document at a path such as ``encoder/attn/0``.

    Raises:
        KeyError: there is no such part.
    """
    value = document
    for name in path.split("/"):
        if isinstance(value, BaseModel) and name in type(value).model_fields:
            value = getattr(value, name)
        elif isinstance(value, (list, tuple)) and name.isascii() and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise KeyError(path)
    return value


def save(document: Document, path: Path) -> None:
    """Write a whole document, atomically."""
    write_text(path, dumps(encode(document)) + "\n")


def load(path: Path, model: type[Model]) -> Model:
    """Read what :func:`save` wrote.

    Raises:
        DataError: not a trace, of another schema version, or damaged.
        OSError: the file cannot be read.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), model)
    except UnicodeDecodeError:
        raise DataError("not a trace of pellucid (it is not UTF-8 text)", path=path) from None
    except DataError as error:
        raise DataError(str(error), path=path) from None


def parse(text: str, model: type[Model]) -> Model:
    """A document from its text; the file's name is for the caller to add.

    Raises:
        DataError: as for :func:`load`.
    """
    try:
        value = json.loads(text)
    except ValueError:
        raise DataError("not a trace of pellucid (it is not JSON): the file is damaged or something else") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise DataError(f"not a trace of pellucid (it has no format: {FORMAT})")
    if value.get("schema") != SCHEMA:
        raise DataError(
            f"a trace of schema version {value.get('schema')}, and this pellucid reads version {SCHEMA}: "
            "trace the text again, or use the pellucid that wrote it "
            f"({value.get('engine_version', 'its version is not stated')})"
        )
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = "/".join(str(part) for part in problem["loc"])
        raise DataError(f"not a complete trace: {place}: {problem['msg']}; save it again") from None
