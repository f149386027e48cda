"""Weights there ↔ weights here: a table that is read in both directions.

A row names a parameter here and the tensors there that hold it. Whatever a table leaves over on either side is one
error that lists all of it. Knows nothing of particular families.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.errors import ModelFolderError
from pellucid.model.skeleton import place

__all__ = ["POSITION_ROWS", "ROW_VECTOR", "SAME", "EmbeddingNames", "Row", "Transform", "export_weights", "fill"]

_SHOWN = 20
"""Problems that a message names before it only counts."""
Tying = Literal["three", "two", "inputs", "none"]


@dataclass(frozen=True, slots=True)
class Transform:
    """How a tensor there becomes one here, and back."""

    here: Callable[[Tensor], Tensor]
    there: Callable[[Tensor], Tensor]


SAME = Transform(lambda tensor: tensor, lambda tensor: tensor)
ROW_VECTOR = Transform(lambda tensor: tensor.flatten(), lambda tensor: tensor[None])
"""[1, V] there, [V] here."""
POSITION_ROWS = Transform(lambda table: table[2:], lambda table: F.pad(table, (0, 0, 2, 0)))
"""A table of positions that begins at row 2; the two rows before are never used."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    Attributes:
        here: the parameter's name here.
        there: names under which a file may hold it; where it holds several, they are equal. The first is written.
        transform: between the two.
        optional: a file may leave it out; it is 0 then.
    """

    here: str
    there: tuple[str, ...]
    transform: Transform = SAME
    optional: bool = False


@dataclass(frozen=True, slots=True)
class EmbeddingNames:
    """What the matrices over the vocabulary are called there."""

    shared: str
    source: str
    target: str
    output: str

    def tying(self, tensors: Mapping[str, Tensor], *, tied: bool) -> Tying:
        """Which of them are one matrix, by the file: what is left out is shared, what is there and equal too.

        Args:
            tensors: of the file.
            tied: what the config says about the output matrix; believed where the file has no other.
        """
        shared = tensors.get(self.shared)
        source, target = (_first(tensors.get(name), shared) for name in (self.source, self.target))
        source, target = _first(source, target), _first(target, source)
        output = tensors.get(self.output)
        inputs = _equal(source, target)
        outputs = tied if output is None else _equal(output, target)
        if inputs:
            return "three" if outputs else "inputs"
        return "two" if outputs else "none"

    def rows(self, tying: Tying) -> list[Row]:
        """The table's rows for them."""
        source, target, output = (
            "encoder.embedder.embedding.weight",
            "decoder.embedder.embedding.weight",
            "output.weight",
        )
        if tying == "three":
            return [Row(source, (self.shared, self.source, self.target, self.output))]
        if tying == "inputs":
            return [Row(source, (self.shared, self.source, self.target)), Row(output, (self.output,))]
        if tying == "two":
            return [Row(source, (self.source, self.shared)), Row(target, (self.target, self.output))]
        return [Row(source, (self.source, self.shared)), Row(target, (self.target,)), Row(output, (self.output,))]


def _first(*tensors: Tensor | None) -> Tensor | None:
    return next((tensor for tensor in tensors if tensor is not None), None)


def _equal(first: Tensor | None, second: Tensor | None) -> bool:
    return first is second or (first is not None and second is not None and torch.equal(first, second))


@torch.no_grad()
def fill(
    model: nn.Module,
    rows: Sequence[Row],
    tensors: Mapping[str, Tensor],
    ignored: Iterable[str] = (),
    where: str = "",
    settings: str = "config.json",
) -> None:
    """Make the tensors of a file the parameters of a model, in float32; what is float32 already is not copied.

    Args:
        model: every parameter of it is in one row; it may be without numbers (``model/skeleton.py``).
        rows: the table.
        tensors: by name there.
        ignored: regular expressions for names that a file may hold without a meaning (tables made by a formula).
        where: the file, for the message.
        settings: what said of which shapes they should be, likewise.

    Raises:
        ModelFolderError: tensors are missing, left over, misshapen, or differ where they should be one; the first are
            listed, all are counted.
    """
    parameters = dict(model.named_parameters())
    values: dict[str, Tensor] = {}
    assert {row.here for row in rows} == set(parameters), {row.here for row in rows} ^ set(parameters)
    problems: list[str] = []
    for row in rows:
        names = [name for name in row.there if name in tensors]
        parameter = parameters[row.here]
        if not names:
            if row.optional:
                values[row.here] = torch.zeros(parameter.shape)
            else:
                problems.append(f"{row.there[0]} is missing")
            continue
        expected = row.transform.there(parameter).shape
        fitting = [name for name in names if tensors[name].shape == expected]
        problems += [
            f"{name} has shape {list(tensors[name].shape)} where the config means {list(expected)}"
            for name in names
            if name not in fitting
        ]
        problems += [
            f"{name} differs from {fitting[0]}, which it should equal"
            for name in fitting[1:]
            if not torch.equal(tensors[name], tensors[fitting[0]])
        ]
        if fitting:
            values[row.here] = row.transform.here(tensors[fitting[0]]).to(torch.float32).contiguous()
    known = {name for row in rows for name in row.there}
    patterns = [re.compile(pattern) for pattern in ignored]
    problems += [
        f"{name} is not part of this architecture"
        for name in tensors
        if name not in known and not any(pattern.fullmatch(name) for pattern in patterns)
    ]
    if problems:
        more = [f"and {len(problems) - _SHOWN:,} more"] if len(problems) > _SHOWN else []
        listed = "; ".join([*problems[:_SHOWN], *more])
        raise ModelFolderError(f"{where}: weights do not fit {settings}: {listed}")
    place(model, values)


def export_weights(model: nn.Module, rows: Sequence[Row]) -> dict[str, Tensor]:
    """The parameters of a model by their names there: the table in the other direction."""
    parameters = dict(model.named_parameters())
    return {row.there[0]: row.transform.there(parameters[row.here].detach()).contiguous() for row in rows}
