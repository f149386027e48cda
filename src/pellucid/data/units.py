"""The units of a text that alignments are counted in, and which of them each token covers.

Knows nothing of models or attention. A unit is what a reader of the text can count without the model's tokenizer:

- the model's tokens are subwords: the words between white space, as ``str.split`` finds them. Scripts
  that put no space between words have no such words: there, each character (Chinese characters, kana, bopomofo, and
  the punctuation that goes with them) is a unit, as in sacreBLEU's ``zh`` tokenisation. 我爱 China。 has four units.
  Other unspaced scripts (Thai, Khmer, ...) are counted by what white space they have.
- the tokens are characters or symbols: each token, a space character too.

Where tokens and units do not nest (中国 is one token and two units), the units that share a token make one *group*:
the model has one state for all of it, so whatever is said of one of its units is said of all.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pellucid.data.tokenizer_kinds import Tokenizer

__all__ = ["Segments", "UnitKind", "segment_ids", "segment_text", "unit_spans"]

UnitKind = Literal["words", "tokens"]
Span = tuple[int, int]

_EACH_TOKEN = ("characters", "letters", "symbols")  # kinds of tokenizers whose tokens a reader can count

# First and last code points of what is a unit by itself: radicals, CJK punctuation, kana, bopomofo, strokes, enclosed
# and compatibility forms, ideographs with all extensions; of the full-width forms, the punctuation, since full-width
# letters and digits make words.
_ALONE = (
    (0x2E80, 0x2FDF), (0x3001, 0x312F), (0x31A0, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFE30, 0xFE4F),
    (0xFF01, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF9F), (0x1B000, 0x1B16F), (0x20000, 0x323AF),
)  # fmt: skip
_FIRST = [first for first, _ in _ALONE]


def _as_it_is(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True)
class Segments:
    """A text as tokens and as units.

    Attributes:
        ids: the token numbers, without </s>.
        units: the units as texts, in order.
        covers: for each token the numbers of the units it covers, neighbours in ascending order; empty where it
            covers none.
    """

    ids: list[int]
    units: list[str]
    covers: list[tuple[int, ...]]

    def groups(self) -> list[int]:
        """For each unit the number of its group; units of one group are neighbours and have a token in common."""
        joined = [False] * len(self.units)  # with the unit before
        for covered in self.covers:
            for unit in covered[1:]:
                joined[unit] = True
        found: list[int] = []
        for with_previous in joined:
            found.append(found[-1] if with_previous else (found[-1] + 1 if found else 0))
        return found

    def first_tokens(self) -> list[int]:
        """For each unit the number of the first token that covers it; -1 where none does."""
        found = [-1] * len(self.units)
        for token in reversed(range(len(self.covers))):
            for unit in self.covers[token]:
                found[unit] = token
        return found

    def token_groups(self) -> list[int]:
        """For each token the number of its group; -1 where it covers no unit."""
        groups = self.groups()
        return [groups[covered[0]] if covered else -1 for covered in self.covers]


def segment_text(
    tokenizer: Tokenizer, text: str, kind: UnitKind = "words", written: Callable[[str], str] = _as_it_is
) -> Segments:
    """The tokens and units of a text as given.

    Args:
        tokenizer: decides about the tokens.
        text: what the tokenizer gets.
        kind: what a unit is.
        written: what a part of the text is replaced by before units are counted, character by character (a placeholder
            by what it stands for).
    """
    return _segments(tokenizer, tokenizer.encode(text), text, tokenizer.spans(text), kind, written)


def segment_ids(
    tokenizer: Tokenizer, ids: Sequence[int], kind: UnitKind = "words", written: Callable[[str], str] = _as_it_is
) -> Segments:
    """The units of the text that token numbers stand for; the tokens stay as they are, special ones are of no unit."""
    text, spans = tokenizer.decode_spans(ids)
    return _segments(tokenizer, list(ids), text, spans, kind, written)


def unit_spans(text: str) -> list[Span]:
    """Where the words are, from and to (exclusive): runs without white space, and single characters of CJK scripts."""
    spans: list[Span] = []
    start: int | None = None  # of the word that is not finished
    for place, character in enumerate(text):
        if character.isspace():
            if start is not None:
                spans.append((start, place))
            start = None
        elif _is_alone(character):
            if start is not None:
                spans.append((start, place))
            spans.append((place, place + 1))
            start = None
        elif start is None:
            if spans and spans[-1][1] == place and unicodedata.category(character).startswith("M"):
                spans[-1] = (spans[-1][0], place + 1)  # a variation selector or a combining mark stays with its base
            else:
                start = place
    if start is not None:
        spans.append((start, len(text)))
    return spans


def _is_alone(character: str) -> bool:
    code = ord(character)
    if code < _FIRST[0] or unicodedata.category(character).startswith("M"):
        return False
    return code <= _ALONE[bisect_right(_FIRST, code) - 1][1]


def _segments(
    tokenizer: Tokenizer,
    ids: list[int],
    text: str,
    spans: Sequence[Span],
    kind: UnitKind,
    written: Callable[[str], str],
) -> Segments:
    assert len(spans) == len(ids)
    silent = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, *tokenizer.prefix_ids, *tokenizer.suffix_ids}
    speaking = [number for number, token in enumerate(ids) if token not in silent]
    covers: list[tuple[int, ...]] = [()] * len(ids)
    if written(text) != text:
        text, spans = _rewritten(text, spans, written)
    if kind == "words" and tokenizer.kind not in _EACH_TOKEN:
        words = unit_spans(text)
        for number in speaking:
            covers[number] = _covered(text, spans[number], words)
        return Segments(ids, [text[start:end] for start, end in words], covers)
    for unit, number in enumerate(speaking):
        covers[number] = (unit,)
    pieces = tokenizer.pieces(ids)
    # The text's own characters or symbols, which an unknown token is one of, too.
    shown = [pieces[number] if kind == "tokens" else text[slice(*spans[number])] for number in speaking]
    return Segments(ids, shown, covers)


def _rewritten(text: str, spans: Sequence[Span], written: Callable[[str], str]) -> tuple[str, list[Span]]:
    """The text with its parts replaced, and where the tokens' parts are then."""
    pieces, found = [], []
    place = end = 0
    for start, stop in spans:
        between, part = written(text[end:start]), written(text[start:stop])
        pieces += [between, part]
        found.append((place + len(between), place + len(between) + len(part)))
        place, end = found[-1][1], max(stop, end)
    return "".join([*pieces, written(text[end:])]), found


def _covered(text: str, span: Span, words: Sequence[Span]) -> tuple[int, ...]:
    """The words that a token's part of the text has characters of; for one of mere space, the word that follows.

    A token has no character of its own where it is a space before a word, one of the first bytes of a character, or
    what normalisation put there. What normalisation drops (a zero-width space, say) it counts to the token behind.
    """
    start, end = span
    while start < end and (text[start].isspace() or unicodedata.category(text[start]) == "Cf"):
        start += 1
    first = bisect_right(words, start, key=lambda word: word[1])
    last = first
    while last < len(words) and words[last][0] < end:
        last += 1
    return tuple(range(first, max(last, min(first + 1, len(words)))))
