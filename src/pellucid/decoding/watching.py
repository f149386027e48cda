"""What a search may tell an observer, step by step. Where there is none, nothing of this is made.

Knows nothing of who listens. Shapes: B beams, k rows of each, C choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pellucid.decoding.step import Choices, Floats, Ints, NextTokens

__all__ = ["SearchEvent", "SearchObserver"]


@dataclass(frozen=True, slots=True)
class SearchEvent:
    """One step of a search, told when its choices have been counted and before the rows are rearranged.

    Attributes:
        length: tokens of each choice, this step's included.
        numbers: [B] which beams are left.
        slots: [B, k] for each row the place among the last step's choices of the one that it continues.
        totals: [B, k] Σ log p of each row before this step; -inf in rows that take no part.
        next_tokens: what the choices were made from, constraints included; ask it for more before the call returns.
        choices: [B, C] what was chosen, best first.
        live: [B, C] choices that may go on; the others ended, were impossible, or are more than may go on.
        finished: [B, C] choices that were entered among the finished: by ``</s>``, or cut by the limit.
    """

    length: int
    numbers: Ints
    slots: Ints
    totals: Floats
    next_tokens: NextTokens
    choices: Choices
    live: NDArray[np.bool_]
    finished: NDArray[np.bool_]


@runtime_checkable
class SearchObserver(Protocol):
    """Receives events; must not change what it is handed."""

    def step(self, event: SearchEvent) -> None:
        """Called once for every step."""
        ...
