"""What a check says, and the measure that all of them use. Pure numbers; knows nothing of models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEAR_TIE", "TOLERANCE", "CheckResult", "Worst", "deviation"]

TOLERANCE = 1e-5
"""Largest deviation allowed in float32: max|Δ| / max|logit|."""
NEAR_TIE = 1e-5
"""A choice whose gap is smaller than this may fall either way; it is reported, not counted against the contract."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One row of the report.

    Attributes:
        item: number of the item in the contract, from 1.
        name: what was checked, in a few words.
        holds: None: it does not apply here, and ``detail`` says why.
        checked: how much was looked at.
        worst: the largest deviation found, in units of the largest logit; None where nothing is measured.
        tolerance: the largest that is allowed; 0: equal to the last bit.
        detail: the first thing that is wrong, or what else there is to say.
        near_ties: where outputs differ because two choices were as good as equal.
    """

    item: int
    name: str
    holds: bool | None
    checked: str = ""
    worst: float | None = None
    tolerance: float | None = None
    detail: str = ""
    near_ties: tuple[str, ...] = ()


def deviation(found: NDArray[np.floating], expected: NDArray[np.floating], scale: float | None = None) -> float:
    """max|found - expected| / ``scale`` (default: max|expected|); infinities must be at the same places.

    NaN on either side, and shapes that differ, are infinitely far.
    """
    if found.shape != expected.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    finite = np.isfinite(expected)
    if not (np.array_equal(finite, np.isfinite(found)) and np.array_equal(found[~finite], expected[~finite])):
        return float("inf")  # NaN equals nothing
    if scale is None:
        scale = float(np.abs(expected[finite]).max(initial=0.0))
    furthest = float(np.abs(found[finite].astype(np.float64) - expected[finite]).max(initial=0.0))
    return furthest / scale if scale else (0.0 if furthest == 0.0 else float("inf"))


class Worst:
    """Gathers what a check finds: the largest deviation, the first complaint, the near-ties."""

    def __init__(self) -> None:
        self.deviation = 0.0
        self.complaints: list[str] = []
        self.near_ties: list[str] = []

    def measure(self, value: float) -> None:
        """Take note of a deviation; NaN counts as infinite."""
        self.deviation = max(self.deviation, value if value == value else float("inf"))

    def complain(self, what: str) -> None:
        """Something is wrong that no number says."""
        self.complaints.append(what)

    def result(
        self, item: int, name: str, checked: str, tolerance: float | None = TOLERANCE, also: Iterable[str] = ()
    ) -> CheckResult:
        """The row; with a ``tolerance`` of None nothing is measured."""
        holds = not self.complaints and (tolerance is None or self.deviation <= tolerance)
        detail = list(also)
        if self.complaints:
            more = len(self.complaints) - 1
            detail.insert(0, self.complaints[0] + (f" (and {more} more)" if more else ""))
        worst = None if tolerance is None else self.deviation
        return CheckResult(item, name, holds, checked, worst, tolerance, "; ".join(detail), tuple(self.near_ties))
