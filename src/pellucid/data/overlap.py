"""What two corpora have in common, without regard to case, punctuation and spaces; and what a corpus has twice.

Reads a training corpus once, whole; holds 8 bytes for each of its pairs. Knows nothing of what is too much.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass

import numpy as np

from pellucid.data.dataset import TokenDataset

__all__ = ["Overlap", "count_leaks", "find_overlap", "normalised"]

_EVERY = 10_000  # pairs between two calls of progress


class _WithoutMarks(dict[int, str | None]):
    """For ``str.translate``: punctuation, spaces and control characters go; asked once for each character."""

    def __missing__(self, code: int) -> str | None:
        kept = None if unicodedata.category(chr(code))[0] in "PZC" else chr(code)
        self[code] = kept
        return kept


_WITHOUT_MARKS = _WithoutMarks()


def normalised(text: str) -> str:
    """A text without case, punctuation and spaces, in one Unicode form; itself where nothing else is in it."""
    if not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", text)
    return text.casefold().translate(_WITHOUT_MARKS) or text


@dataclass(frozen=True)
class Overlap:
    """What a training corpus has in common with other corpora, and with itself.

    Attributes:
        sources: those of its sources that were looked for, normalised, each with the first line it is in.
        pairs: its pairs with these sources, normalised.
        copies: pairs that were there before, letter by letter.
    """

    sources: dict[str, int]
    pairs: set[tuple[str, str]]
    copies: int


def find_overlap(train: TokenDataset, wanted: Set[str], progress: Callable[[int], None] | None = None) -> Overlap:
    """Read all of train: about 4 seconds for a million pairs.

    Args:
        wanted: normalised sources that are looked for.
        progress: called now and then with the number of pairs so far.
    """
    sources: dict[str, int] = {}
    pairs = set()
    hashes = np.empty(len(train), dtype=np.int64)
    for row in range(len(train)):
        source, target = train.source_text(row), train.target_text(row)
        hashes[row] = hash((source, target))
        if (key := normalised(source)) in wanted:
            sources.setdefault(key, train.line(row))
            pairs.add((key, normalised(target)))
        if progress is not None and row % _EVERY == 0:
            progress(row)
    hashes.sort()
    return Overlap(sources, pairs, int((hashes[1:] == hashes[:-1]).sum()))


def count_leaks(
    train: TokenDataset, devs: Iterable[TokenDataset], progress: Callable[[int], None] | None = None
) -> None:
    """Write into the report of each development set which of its pairs are in train."""
    keys = [
        (dev, row, (normalised(dev.source_text(row)), normalised(dev.target_text(row))))
        for dev in devs
        for row in range(len(dev))
    ]
    found = find_overlap(train, {source for _, _, (source, _) in keys}, progress)
    for dev, row, key in keys:
        if key in found.pairs:
            dev.report.add("leak", dev.line(row))
