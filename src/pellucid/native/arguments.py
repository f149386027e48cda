"""What is handed to the engine's C++, seen to be in order before it is: what would reach outside of an array ends here.

Knows numbers and arrays; knows nothing of models, nor of the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.errors import PellucidError

__all__ = ["flat", "parents_within", "sentences_within", "tokens_within"]

Numbers32 = NDArray[np.int32]
Numbers64 = NDArray[np.int64]


def tokens_within(values: Any, size: int, what: str) -> Numbers32:
    """Token numbers as the engine reads them.

    Args:
        values: a row of whole numbers, of any kind and layout.
        size: of the vocabulary.
        what: they are, for the error.

    Raises:
        PellucidError: not a row of whole numbers, or one that is no token.
    """
    numbers = _whole(values, what)
    if (place := _outside(numbers, size)) is not None:
        raise PellucidError(f"{what}: {_no_token(numbers[place], size)}")
    return numbers.astype(np.int32)


def flat(lists: Sequence[Sequence[int]], size: int, what: str) -> tuple[Numbers32, Numbers64]:
    """All token numbers one after the other, and where each list begins; and the end.

    Args:
        lists: of token numbers.
        size: of the vocabulary.
        what: one list is, for the error.

    Raises:
        PellucidError: as in :func:`tokens_within`.
    """
    starts = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(one) for one in lists], out=starts[1:])
    numbers = _whole([number for one in lists for number in one], f"the tokens of each {what}")
    if (place := _outside(numbers, size)) is not None:
        number = int(np.searchsorted(starts, place, side="right"))
        raise PellucidError(f"{what} {number}: {_no_token(numbers[place], size)}")
    return numbers.astype(np.int32), starts


def parents_within(values: Any, sentences: int, width: int) -> tuple[Numbers64, int]:
    """For each row the row that it continues, and how many rows a sentence has then.

    Args:
        values: numbers of rows, sentence-major: as many for each sentence, all of its own.
        sentences: those that are live.
        width: rows that each of them has.

    Raises:
        PellucidError: not that.
    """
    parents = _whole(values, "parents")
    beams, rest = divmod(len(parents), sentences) if sentences else (width, len(parents))
    if rest or not beams:
        raise PellucidError(f"{len(parents)} parents for {sentences} sentences: give as many for each, at least one")
    owners = np.repeat(np.arange(sentences, dtype=np.int64), beams)
    wrong = np.flatnonzero(parents // width != owners)
    if len(wrong):
        row = int(wrong[0])
        first = int(owners[row]) * width
        raise PellucidError(
            f"row {row} cannot continue row {parents[row]}: the rows of its sentence are {first} to {first + width - 1}"
        )
    return parents, beams


def sentences_within(values: Any, count: int) -> Numbers64:
    """Numbers of the sentences that stay.

    Raises:
        PellucidError: one that is not there, or is there twice.
    """
    kept = _whole(values, "sentences")
    if (place := _outside(kept, count)) is not None:
        raise PellucidError(f"there is no sentence {kept[place]} to keep: there are {count}, from 0")
    if len(np.unique(kept)) < len(kept):
        raise PellucidError("a sentence is kept twice: name each once")
    return kept


def _whole(values: Any, what: str) -> Numbers64:
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):  # rows of unequal length
        array = np.zeros(1, object)
    if array.size and (array.ndim != 1 or array.dtype.kind not in "iu"):
        raise PellucidError(f"{what} must be a row of whole numbers, not {array.dtype} of shape {array.shape}")
    return np.ascontiguousarray(array.reshape(-1), np.int64)


def _outside(numbers: Numbers64, size: int) -> int | None:
    """The first place whose number is not one of 0 to ``size`` - 1."""
    if not len(numbers) or (numbers.min() >= 0 and numbers.max() < size):
        return None
    return int(np.flatnonzero((numbers < 0) | (numbers >= size))[0])


def _no_token(number: Any, size: int) -> str:
    return f"there is no token {number} in a vocabulary of {size} (0 to {size - 1}): tokenizer and model do not fit"
