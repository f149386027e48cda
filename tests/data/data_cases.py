"""Small corpora and files for the tests of pellucid.data."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import zstandard

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".xz": lzma.compress,
    ".zst": lambda content: zstandard.ZstdCompressor().compress(content),
}

NOUNS = {"cat": "Katze", "dog": "Hund", "bird": "Vogel", "horse": "Pferd", "child": "Kind", "house": "Haus"}
VERBS = {"sees": "sieht", "hears": "hört", "finds": "findet", "likes": "mag", "needs": "braucht"}
PLACES = {"here": "hier", "there": "dort", "today": "heute", "again": "wieder", "often": "oft"}


def sentence_pairs(count: int, start: int = 0) -> list[tuple[str, str]]:
    """Different English-German toy sentences; the same for the same numbers."""
    english = [list(words) for words in (NOUNS, VERBS, NOUNS, PLACES)]
    german = [list(words.values()) for words in (NOUNS, VERBS, NOUNS, PLACES)]
    pairs = []
    for number in range(start, start + count):
        rest, chosen = number * 7919 % 900, []
        for words in english:
            rest, place = divmod(rest, len(words))
            chosen.append(place)
        pairs.append(
            (
                "the {} {} the {} {}".format(*(words[i] for words, i in zip(english, chosen, strict=True))),
                "die {} {} die {} {}".format(*(words[i] for words, i in zip(german, chosen, strict=True))),
            )
        )
    return pairs


def write_tsv(path: Path, pairs: list[tuple[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")
    return path
