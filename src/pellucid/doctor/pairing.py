"""Whether line n of one side belongs to line n of the other: files that have slipped against each other are found.

Knows no languages and no translation. A pair's two sides are of like length, ask or exclaim together, and share numbers
and names; how far they do is compared with the same measure for lines that cannot belong together (the target of
another line, far away). Where the target of a neighbouring line fits better than the line's own, the files have
slipped; unless that target is the very text of the source, as in dialogues and where both directions are in one file.

Shapes: n pairs, f features.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.data.dataset import TextStore
from pellucid.data.overlap import normalised
from pellucid.doctor.results import Check, absent, percent

__all__ = ["Slip", "check_pairing", "find_slip"]

NEAR = (1, -1, 2, -2, 3, -3, 4, -4, 5, -5)
"""Offsets at which slipped files are looked for: the target of line n + offset for the source of line n."""
FAR = (11, -13, 17, -19, 23, -29, 31, -37, 41, -43, 47, -53)
"""Offsets that give what chance gives."""
MIN_PAIRS = 100
MAX_PAIRS = 6_000
"""Pairs looked at, in stretches of neighbouring lines that are spread over the corpus."""
STRETCHES = 10
MIN_STRETCH = 200
ALIKE = 0.2
"""Correlation with far lines from which on a corpus is sorted, so that its lengths tell nothing."""
SHARED, CHAINED = 0.05, 0.3
"""Share of sources that are a neighbouring line's target, or a part of it: from where on a slip is not certain, and
from where on the corpus is made so (a dialogue's reply is the next line's source) and a slip cannot be told."""
WHOLE = 8
"""Characters from which on a text inside another is taken for the same."""
CLEAR, FAINT = 6.0, 3.5
"""Standard deviations above chance: what is beyond doubt, and what is still a sign."""

_ANCHORS = re.compile(r"\d+|[^\W\d_]{4,}")
_DIGITS = re.compile(r"\d")
_MARKS = ("?？؟;", "!！", ",，、،", '"“”„«»「」『』', "()（）", ":：")


@dataclass(frozen=True, slots=True)
class Slip:
    """How the two sides of a stretch of lines fit.

    Attributes:
        fit: how well a source fits the target of its own line, in standard deviations above chance.
        offset: where its target is instead, in lines; 0 where that is not elsewhere.
        offset_fit: how well that one fits.
        alike: how well a source fits the targets of lines far away, as a sum of correlations.
    """

    fit: float
    offset: int = 0
    offset_fit: float = 0.0
    alike: float = 0.0


Texts = tuple[list[str], list[str]]


def check_pairing(store: TextStore, name: str) -> Check:
    """Whether the sides of a corpus are aligned, and from which line on they are not."""
    what = f"{name}: sides aligned"
    if len(store) < MIN_PAIRS:
        return absent(what, f"too few pairs to tell (at least {MIN_PAIRS})")
    stretches = _stretches(len(store))
    texts = [_read(store, rows) for rows in stretches]
    whole = find_slip(texts)
    if whole is None:
        return absent(what, "all lines are of one length")
    figure = f"fit {whole.fit:.0f} σ above chance (at least {FAINT:g})"
    place = store.report.place
    slips = [find_slip([text]) or Slip(0.0) if len(text[0]) >= MIN_STRETCH else whole for text in texts]
    begun = next((number for number, slip in enumerate(slips) if slip.offset), None)
    if begun is not None or whole.offset:
        number = begun or 0
        slip = whole if begun is None else slips[begun]
        return _slipped(what, figure, store, stretches, texts, number, slip, _go_on(slips[number:], slip.offset))
    if whole.fit < FAINT and whole.alike > ALIKE:
        return absent(what, "the corpus is sorted: neighbouring lines are too alike to tell")
    if whole.fit < FAINT:
        return Check(
            what,
            "suspicious",
            figure,
            f"{name}: the lengths, numbers and marks of the two sides of {place} have no more to do with each other "
            f"than those of other lines ({whole.fit:.1f} standard deviations above chance, at least {FAINT:g} "
            "expected): if the files were sorted, shuffled or filtered one by one, align them again",
        )
    return Check(what, "ok", figure)


def _slipped(
    what: str,
    figure: str,
    store: TextStore,
    stretches: Sequence[Sequence[int]],
    texts: Sequence[Texts],
    number: int,
    slip: Slip,
    goes_on: bool,
) -> Check:
    """What is said of a slip that begins in or before a stretch."""
    name, place, lines = what.split(":")[0], store.report.place, abs(slip.offset)
    figure = f"{figure}; slipped by {slip.offset:+d}"
    shared = _shared(texts[number:])
    if shared >= CHAINED:
        return absent(what, f"neighbouring pairs share texts ({percent(shared, 1)}): too alike to tell")
    better = (
        f"the source fits the target {lines} line{'s' * (lines > 1)} {'later' if slip.offset > 0 else 'earlier'} "
        f"({slip.offset_fit:.0f} standard deviations above chance; its own line: {slip.fit:.0f})"
    )
    first, last = _narrowed(store, stretches, number, slip.offset)
    begin = (
        f"from about line {store.line(0):,} of {place} on"
        if last == 0
        else f"from a line between {store.line(first):,} and {store.line(last):,} of {place} on"
    )
    if shared >= SHARED or not goes_on:
        why = f"neighbouring pairs share texts ({percent(shared, 1)})" if goes_on else "later lines do not agree"
        return Check(
            what,
            "suspicious",
            figure,
            f"{name}: {begin}, {better}, but {why}: see whether lines are lacking there on one side, and align the "
            "files again if so",
        )
    return Check(
        what,
        "wrong",
        figure,
        f"{name}: {begin}, {better}: the files have slipped against each other, by a line that one of them lacks: "
        "align them again",
    )


def _go_on(slips: Sequence[Slip], offset: int) -> bool:
    """Whether all stretches from a slip on have slipped as far; one in which nothing can be seen may have."""
    return all(slip.offset == offset or (not slip.offset and slip.fit < FAINT) for slip in slips)


def _shared(texts: Sequence[Texts]) -> float:
    """Share of the sources that are a neighbouring line's target, or inside it, or it inside them."""
    same = lines = 0
    for sources, targets in texts:
        keys = [[normalised(text) for text in side] for side in (sources, targets)]
        for number, source in enumerate(keys[0]):
            near = (number + offset for offset in NEAR)
            same += any(_same(source, keys[1][other]) for other in near if 0 <= other < len(sources))
        lines += len(sources)
    return same / lines


def _same(first: str, second: str) -> bool:
    if first == second:
        return bool(first)
    return min(len(first), len(second)) >= WHOLE and (first in second or second in first)


def _narrowed(store: TextStore, stretches: Sequence[Sequence[int]], number: int, offset: int) -> tuple[int, int]:
    """Rows between which a slip begins that the stretch ``number`` is the first to show; (0, 0): from the start on."""
    if number == 0:
        return 0, 0
    size = len(stretches[number])
    good, bad = stretches[number - 1][0], stretches[number][0]
    while bad - good > MIN_STRETCH // 4:
        middle = (good + bad) // 2
        slip = find_slip([_read(store, range(middle, min(middle + size, len(store))))])
        good, bad = (good, middle) if slip is not None and slip.offset == offset else (middle, bad)
    # Both stretches are as long as `size`: the first is good for the greater part, the second bad.
    return good, min(bad + size, len(store)) - 1


def _read(store: TextStore, rows: Sequence[int]) -> Texts:
    return [store.source(row) for row in rows], [store.target(row) for row in rows]


def find_slip(stretches: Sequence[tuple[Sequence[str], Sequence[str]]]) -> Slip | None:
    """How well sources fit targets at their own line and at others; None where nothing can be measured.

    Args:
        stretches: (sources, targets) of neighbouring lines, as many of each.
    """
    prepared = [(_features(sources), _features(targets), _anchors(sources, targets)) for sources, targets in stretches]
    pairs = sum(len(sources) for sources, _ in stretches)
    usable = _varying(np.concatenate([p[0] for p in prepared])) & _varying(np.concatenate([p[1] for p in prepared]))
    shared = any(any(first) and any(second) for *_, (first, second) in prepared)
    if not usable.any() and not shared:
        return None
    best = Slip(0.0)
    for differenced in (True, False):
        # Neighbouring lines of a sorted corpus are alike, and differences are not. Where every source is as long as
        # its neighbour there are no differences, and the plain values have to do.
        chance = [_fit(prepared, usable, offset, differenced) for offset in FAR]
        spread = max(float(np.std(chance)), (float(usable.sum()) ** 0.5 + 0.2) / pairs**0.5)
        fits = {
            offset: (_fit(prepared, usable, offset, differenced) - float(np.mean(chance))) / spread
            for offset in (0, *NEAR)
        }
        nearest = max(NEAR, key=fits.__getitem__)
        if differenced and fits[nearest] > CLEAR and fits[nearest] > 2 * max(fits[0], 0.0):
            return Slip(fits[0], nearest, fits[nearest])
        best = Slip(max(best.fit, fits[0]), alike=max(best.alike, float(np.mean(chance))))
    return best


def _stretches(pairs: int) -> list[list[int]]:
    """Stretches of neighbouring rows, spread evenly; all rows where there are no more than are looked at."""
    count = max(1, min(STRETCHES, pairs // MIN_STRETCH))
    size = min(pairs, MAX_PAIRS) // count
    starts = [number * pairs // count for number in range(count)]
    return [list(range(start, min(start + size, pairs))) for start in starts]


def _features(texts: Sequence[str]) -> np.ndarray:
    """[n, f]: length (log), digits, and kinds of punctuation."""
    rows = [
        (
            np.log1p(len(text)),
            len(_DIGITS.findall(text)),
            *(sum(text.count(mark) for mark in marks) for marks in _MARKS),
        )
        for text in texts
    ]
    return np.asarray(rows, dtype=np.float64)


def _varying(features: np.ndarray) -> np.ndarray:
    """[f]: which features have a value of their own in at least a hundredth of the lines."""
    common = np.median(features, axis=0)
    varying: np.ndarray = (np.abs(features - common) > 1e-9).mean(axis=0) >= 0.01
    return varying


def _anchors(sources: Sequence[str], targets: Sequence[str]) -> tuple[list[set[str]], list[set[str]]]:
    """Numbers and words of each text that occur on both sides and are rare enough to say something."""
    found = [[set(_ANCHORS.findall(text.casefold())) for text in side] for side in (sources, targets)]
    counts: list[dict[str, int]] = [{}, {}]
    for side, count in zip(found, counts, strict=True):
        for anchors in side:
            for anchor in anchors:
                count[anchor] = count.get(anchor, 0) + 1
    most = max(2, len(sources) // 20)
    kept = {anchor for anchor, count in counts[0].items() if count <= most and counts[1].get(anchor, most + 1) <= most}
    return [anchors & kept for anchors in found[0]], [anchors & kept for anchors in found[1]]


Prepared = tuple[np.ndarray, np.ndarray, tuple[list[set[str]], list[set[str]]]]


def _fit(prepared: Sequence[Prepared], usable: np.ndarray, offset: int, differenced: bool) -> float:
    """Sum of the features' correlations at an offset, and the share of lines with an anchor in common."""
    firsts, seconds = [], []
    lines = common = 0
    for source, target, (source_anchors, target_anchors) in prepared:
        start, stop = max(0, -offset), len(source) - max(0, offset)
        if stop - start < 3:
            continue
        first, second = source[start:stop, usable], target[start + offset : stop + offset, usable]
        firsts.append(np.diff(first, axis=0) if differenced else first)
        seconds.append(np.diff(second, axis=0) if differenced else second)
        lines += stop - start
        moved = target_anchors[start + offset : stop + offset]
        common += sum(not one.isdisjoint(other) for one, other in zip(source_anchors[start:stop], moved, strict=True))
    if not firsts:
        return 0.0
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    first, second = first - first.mean(0), second - second.mean(0)
    norm = np.sqrt((first**2).sum(0) * (second**2).sum(0))
    products = (first * second).sum(0)
    correlations = np.divide(products, norm, out=np.zeros_like(products), where=norm > 0)
    return float(correlations.sum()) + common / lines
