"""All checks, one after the other. Knows which there are, and nothing about what they do."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence

from pellucid.contract.case import GREEDY, Case
from pellucid.contract.checks import OUTSIDE
from pellucid.contract.inside import INSIDE
from pellucid.contract.own import OWN
from pellucid.contract.results import TOLERANCE, CheckResult
from pellucid.contract.ways import Inside, Way
from pellucid.errors import PellucidError

__all__ = ["ITEMS", "check", "checks_of"]

ITEMS = range(1, 13)
"""The items of the contract."""


def check(
    way: Way, sources: Sequence[str], tolerance: float = TOLERANCE, items: Collection[int] = ITEMS
) -> Iterator[CheckResult]:
    """Put the contract to a way of generating; results come item by item, in the contract's order.

    Args:
        way: what is checked; where it is no :class:`~pellucid.contract.ways.Inside`, the items that need it say so.
        sources: texts, none of them blank; at least 64 of them show batches of 64.
        tolerance: largest deviation allowed, in units of the largest logit; float32 keeps the default. Above it,
            choices that are nearer to each other than this are near-ties.
        items: numbers of the items to check.

    Raises:
        PellucidError: a source cannot be generated from at all.
    """
    case = Case(way, sources, tolerance)
    try:
        case.alone(GREEDY)
    except PellucidError:
        raise
    except Exception:
        pass  # the checks break down in the same way, and say so
    for item, function in checks_of(items):
        name, looks_inside = function.__name__.replace("_", " "), function in INSIDE
        if looks_inside and not isinstance(way, Inside):
            yield CheckResult(item, name, None, detail=f"does not apply: {way.name} cannot be looked into")
            continue
        try:
            yield function(case, way) if looks_inside else function(case)
        except Exception as error:
            # A way that breaks down under a question does not keep the item; the other items are still of interest.
            # Nor does one that refuses it in a sentence: these sources it has taken before.
            yield CheckResult(item, name, False, detail=f"broke down: {type(error).__name__}: {error}")


def checks_of(items: Collection[int]) -> list[tuple[int, Callable[..., CheckResult]]]:
    """The checks of these items with their numbers, in the contract's order; each gives one result."""
    checks: list[tuple[int, Callable[..., CheckResult]]] = [
        (_item(function), function) for functions in (OUTSIDE, OWN, INSIDE) for function in functions
    ]
    return sorted((one for one in checks if one[0] in items), key=lambda one: one[0])


def _item(function: Callable[..., CheckResult]) -> int:
    """The number that a check's docstring begins with."""
    number = re.match(r"\d+", function.__doc__ or "")
    assert number
    return int(number[0])
