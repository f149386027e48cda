"""All checks, one after the other. Knows which there are, and nothing about what they do."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from pellucid.contract.case import Case
from pellucid.contract.checks import OUTSIDE
from pellucid.contract.inside import INSIDE
from pellucid.contract.results import TOLERANCE, CheckResult
from pellucid.contract.ways import Inside, Way
from pellucid.errors import PellucidError

__all__ = ["CHECKS", "check"]

CHECKS = len(OUTSIDE) + len(INSIDE)
"""How many results :func:`check` gives."""


def check(
    way: Way, sources: Sequence[str], tolerance: float = TOLERANCE, items: Collection[int] = range(1, 13)
) -> Iterator[CheckResult]:
    """Put the contract to a way of generating; results come item by item, in the contract's order.

    Args:
        way: what is checked; where it is no :class:`~pellucid.contract.ways.Inside`, the items that need it say so.
        sources: texts, none of them blank; at least 64 of them show batches of 64.
        tolerance: largest deviation allowed, in units of the largest logit; float32 keeps the default.
        items: numbers of the items to check.

    Raises:
        PellucidError: a source cannot be generated from at all.
    """
    case = Case(way, sources, tolerance)
    checks: list[tuple[int, Callable[..., CheckResult], tuple[Any, ...]]] = []
    checks += [(_item(function), function, (case,)) for function in OUTSIDE]
    checks += [(_item(function), function, (case, way)) for function in INSIDE]
    for item, function, arguments in sorted(checks, key=lambda one: one[0]):
        if item not in items:
            continue
        name = function.__name__.replace("_", " ")
        if function in INSIDE and not isinstance(way, Inside):
            yield CheckResult(item, name, None, detail=f"does not apply: {way.name} cannot be looked into")
            continue
        try:
            yield function(*arguments)
        except PellucidError:
            raise
        except Exception as error:
            # A way that breaks down under a question does not keep the item; the other items are still of interest.
            yield CheckResult(item, name, False, detail=f"broke down: {type(error).__name__}: {error}")


def _item(function: Callable[..., CheckResult]) -> int:
    """The number that a check's docstring begins with."""
    number = re.match(r"\d+", function.__doc__ or "")
    assert number
    return int(number[0])
