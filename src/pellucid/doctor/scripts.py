"""Whether each text is on the side it belongs to: scripts, and texts that look like the other side.

Knows no languages by name. Scripts are those of Unicode's character names; what a side looks like is learned from the
side itself, as counts of characters and pairs of neighbouring characters.
"""

from __future__ import annotations

import functools
import itertools
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pellucid.data.dataset import TokenDataset
from pellucid.data.script import Profile, profile, similarity
from pellucid.doctor.results import Check, absent, judge, percent

__all__ = ["SAMPLE", "Sides", "check_dev_languages", "check_languages", "sample"]

SAMPLE = 2000
"""Pairs whose characters are looked at, evenly spread."""
MIN_TEXTS = 20
OTHER_SCRIPT = 0.5
"""Share of a side's letters in dev by which its scripts may exceed train's."""
UNSEEN = 0.005
"""Share of train's letters below which a script is not one of its own (names, symbols): beyond doubt where dev is in it
and no text of train is. What a twentieth of train's texts is written in, all of dev may be: a corpus of many
languages."""
STRAY = 0.05
"""Share of a side's texts that may be of another script than most of it (names, formulas, untranslated lines)."""
CROSSED = 0.03
"""Share of a side's texts that may look like the other side's."""
UNLIKE = 0.15
"""How much less dev may resemble train than a part of train does (Bhattacharyya's coefficient, 1 = the same)."""
TELL_APART = 0.9
"""Sides more alike than this cannot be told apart line by line."""

_EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "KANGXI", "IDEOGRAPHIC")
_COMMON = ("MODIFIER", "COMBINING", "FEMININE", "MASCULINE", "SUPERSCRIPT", "MICRO")


@dataclass(frozen=True)
class Sides:
    """A sample of a corpus.

    Attributes:
        name: ``train`` or ``dev``; with the corpus's name behind it where there are several.
        texts: the sources, the targets.
        lines: the line that each pair comes from.
        place: the file, of two aligned ones the source's.
    """

    name: str
    texts: tuple[list[str], list[str]]
    lines: list[int]
    place: str

    def at(self, number: int) -> str:
        """File and line of a pair of the sample."""
        return f"{self.place}, line {self.lines[number]:,}"


def sample(dataset: TokenDataset, name: str, most: int = SAMPLE) -> Sides:
    """At most so many pairs of a data set, evenly spread."""
    count = min(most, len(dataset))
    rows = [number * len(dataset) // count for number in range(count)]
    texts = [dataset.source_text(row) for row in rows], [dataset.target_text(row) for row in rows]
    return Sides(name, texts, [dataset.line(row) for row in rows], dataset.report.place)


def check_languages(train: Sides, dev: Sides | None) -> Iterator[Check]:
    """Every check of this file, for a corpus and its development set, if it has one of its own."""
    if dev is not None:
        yield from _dev_against(train, dev)
    for sides in (train, dev):
        if sides is not None:
            yield from (_stray(sides, side) for side in (0, 1))
    yield from _crossed(train)


def check_dev_languages(train: Sides, dev: Sides) -> Iterator[Check]:
    """A development set against all that is trained on."""
    yield from _dev_against(train, dev)
    yield from (_stray(dev, side) for side in (0, 1))


def _dev_against(train: Sides, dev: Sides) -> Iterator[Check]:
    for side in (0, 1):
        yield _dev_script(train, dev, side)
        yield _dev_likeness(train, dev, side)


def _side(number: int) -> str:
    return ("source", "target")[number]


def _dev_script(train: Sides, dev: Sides, side: int) -> Check:
    name = f"{dev.name}'s {_side(side)} in {train.name}'s script"
    first, second = _scripts(train.texts[side]), _scripts(dev.texts[side])
    if not first or not second:
        return absent(name, "no letters")
    foreign = sum(max(0.0, share - first.get(script, 0.0)) for script, share in second.items())
    ours, theirs = (max(shares, key=shares.__getitem__) for shares in (first, second))
    written = sum(_main_script(text) == theirs for text in train.texts[side])
    unseen = first.get(theirs, 0.0) < UNSEEN and not written
    return judge(
        name,
        foreign > OTHER_SCRIPT and written < STRAY * len(train.texts[side]),
        f"{percent(foreign, 1)} of its letters of other scripts (at most {OTHER_SCRIPT:.0%})",
        f"{dev.name}'s {_side(side)} ({dev.place}) is written in {theirs.title()} letters "
        f"({percent(second[theirs], 1)}) and {train.name}'s in {ours.title()} ({percent(first[ours], 1)}): give "
        "data.dev a corpus of the same languages, on the same sides",
        certain=unseen,
    )


def _dev_likeness(train: Sides, dev: Sides, side: int) -> Check:
    """Dev against a part of train that is as large, both compared with the rest of train."""
    name = f"{dev.name}'s {_side(side)} resembles {train.name}'s"
    texts, other = train.texts[side], dev.texts[side]
    if min(len(texts) // 2, len(other)) < MIN_TEXTS:
        return absent(name, f"too few texts to tell (at least {MIN_TEXTS})")
    size = min(len(other), len(texts) // 4)
    step = len(texts) / size
    chosen = {int(number * step) for number in range(size)}
    rest = profile(text for number, text in enumerate(texts) if number not in chosen)
    own = similarity(rest, profile(texts[number] for number in sorted(chosen)))
    every = len(other) / size
    found = similarity(rest, profile(other[int(number * every)] for number in range(size)))
    return judge(
        name,
        own - found > UNLIKE,
        f"{found:.2f}, a part of train {own:.2f} (at most {UNLIKE:g} less)",
        f"{dev.name}'s {_side(side)} ({dev.place}) is unlike {train.name}'s: its characters agree to {found:.2f}, "
        f"those of a part of train to {own:.2f} (at most {UNLIKE:g} less): it is of another language or another "
        "domain, and a model chosen by it is chosen for that: give data.dev text of the kind that the model is for",
    )


def _stray(sides: Sides, side: int) -> Check:
    name = f"{sides.name}: {_side(side)} in one script"
    scripts = [_main_script(text) for text in sides.texts[side]]
    counts = Counter(script for script in scripts if script)
    if counts.total() < MIN_TEXTS:
        return absent(name, "too few texts with letters")
    (main, _), *others = counts.most_common()
    stray = [number for number, script in enumerate(scripts) if script and script != main]
    first = stray[0] if stray else 0
    return judge(
        name,
        len(stray) > STRAY * counts.total(),
        f"{percent(len(stray), counts.total())} not {main.title()} (at most {STRAY:.0%})",
        f"{percent(len(stray), counts.total())} of {sides.name}'s {_side(side)} texts are not in {main.title()} "
        f"letters but in {', '.join(script.title() for script, _ in others[:3])} (first seen: {sides.at(first)}), "
        f"at most {STRAY:.0%} is usual: part of the lines are swapped, untranslated or of another language: take them "
        "out",
    )


def _crossed(sides: Sides) -> Iterator[Check]:
    """Texts that look more like the other side's, told by their characters and pairs of characters."""
    profiles = profile(sides.texts[0]), profile(sides.texts[1])
    alike = similarity(*profiles)
    for side in (0, 1):
        name = f"{sides.name}: {_side(side)} texts look like {_side(side)} texts"
        if len(sides.lines) < 5 * MIN_TEXTS:
            yield absent(name, "too few texts to tell")
            continue
        if alike > TELL_APART:
            yield absent(name, "the two sides are too alike to tell")
            continue
        texts = sides.texts[side]
        strange = [i for i, text in enumerate(texts) if _leaning(text, profiles[side], profiles[1 - side]) < 0]
        yield judge(
            name,
            len(strange) > CROSSED * len(texts),
            f"{percent(len(strange), len(texts))} do not (at most {CROSSED:.0%})",
            f"{percent(len(strange), len(texts))} of {sides.name}'s {_side(side)} texts look like its "
            f"{_side(1 - side)} side (first seen: {sides.at(strange[0] if strange else 0)}), at most {CROSSED:.0%} is "
            f"usual: these lines are swapped, or were never translated: mend them or take them out",
        )


def _leaning(text: str, own: Profile, other: Profile) -> float:
    """Log-likelihood ratio of a text's characters and pairs of characters; below 0: more like the other side's."""
    scales = own.total() or 1, other.total() or 1
    parts = itertools.chain(text, map("".join, itertools.pairwise(text)))
    return sum(
        math.log((own[part] + 0.5) / scales[0]) - math.log((other[part] + 0.5) / scales[1])
        for part in parts
        if part in own or part in other
    )


def _scripts(texts: Iterable[str]) -> dict[str, float]:
    """Each script's share of the letters."""
    characters: Counter[str] = Counter()
    for text in texts:
        characters.update(text)
    counts: Counter[str] = Counter()
    for character, count in characters.items():
        if script := _script(character):
            counts[script] += count
    total = counts.total()
    return {script: count / total for script, count in counts.items()}


def _main_script(text: str) -> str:
    """The script of most of a text's letters; empty where it has none."""
    counts = Counter(script for script in map(_script, text) if script)
    return counts.most_common(1)[0][0] if counts else ""


@functools.cache
def _script(character: str) -> str:
    """The script of a letter, by the first word of its Unicode name; empty for what belongs to none."""
    if not character.isalpha():
        return ""
    plain = unicodedata.normalize("NFKC", character)[:1]
    word = unicodedata.name(plain, "").split(" ")[0].split("-")[0]
    return "EAST ASIAN" if word in _EAST_ASIAN else "" if word in _COMMON else word
