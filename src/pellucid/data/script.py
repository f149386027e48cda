"""Which side is which: character statistics of text, to notice a development set given the wrong way round.

Knows no languages: it compares texts with each other.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable

__all__ = ["Profile", "looks_swapped", "profile", "similarity"]

Profile = Counter[str]
_MARGIN = 0.1


def profile(texts: Iterable[str]) -> Profile:
    """Counts of characters and of pairs of neighbouring characters."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
        counts.update(map("".join, itertools.pairwise(text)))
    return counts


def similarity(first: Profile, second: Profile) -> float:
    """Bhattacharyya's coefficient of the two distributions: 1 where they are the same, 0 where nothing is shared."""
    shared = sum(math.sqrt(count * second[part]) for part, count in first.items() if part in second)
    norm = math.sqrt(first.total() * second.total())
    return shared / norm if norm else 0.0


def looks_swapped(train: tuple[Profile, Profile], other: tuple[Profile, Profile]) -> bool:
    """Whether the sides of ``other`` are clearly more like the opposite sides of ``train`` than like the same ones."""
    straight = similarity(train[0], other[0]) + similarity(train[1], other[1])
    crossed = similarity(train[0], other[1]) + similarity(train[1], other[0])
    return crossed - straight > _MARGIN
