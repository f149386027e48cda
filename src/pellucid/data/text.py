"""What is done to text in front of the tokenizer, and undone behind it: Chinese script, placeholders.

Knows nothing of tokens or models. The rules are a value that is saved with the tokenizers (``tokenizer.py``), so that
training, translating and scoring treat text alike; without rules every function here gives back what it was given.

A placeholder is one character that stands for a part of the source which has to come out unchanged: a web address, an
e-mail address, a number. The characters are from a private-use area of Unicode; SentencePiece keeps each as a piece of
its own, in one segmentation only, and no normalisation touches it.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pellucid.config import TokenizerConfig
from pellucid.data.chinese import Script, converter
from pellucid.errors import TokenizerError

__all__ = ["SLOTS", "TextRules", "Written", "describe_faults", "markers"]

Kind = Literal["url", "email", "number"]
SLOTS = 5
"""Parts of one kind that can be replaced in one text; later ones stay as they are."""

_FORMAT, _FORMAT_WITH_TAGS = 1, 2  # what knows only the first must not translate without the tags of the second
_FIRST_MARKER = 0xF1000
_EAST_ASIAN = r"\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef"  # follows an address without a space
_LETTERS = r"A-Za-z_\u00c0-\u024f\u0370-\u052f"
# Each begins only where the part before it cannot belong to it, so that a long line takes time in proportion to it.
_PATTERNS: dict[str, str] = {
    "url": rf"(?<![A-Za-z0-9])(?:https?://|ftp://|www\.)[^\s<>\"“”‘’«»{_EAST_ASIAN}]*[^\s<>\"“”‘’«»{_EAST_ASIAN}.,:;!?)\]}}']",
    "email": r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+",
    "number": rf"(?<![{_LETTERS}\d])(?<!\d[.,:/-])\d+(?:[.,:/-]\d+)*(?![{_LETTERS}\d]|[.,:/-]\d)",
}


@dataclass(frozen=True, slots=True)
class Written:
    """A generated text with its originals put back.

    Attributes:
        text: the text.
        missing: parts of the source that were replaced and do not occur in the text.
        repeated: occurrences of such a part beyond its first.
        unmatched: placeholders that stand for nothing in the source; they are left out.
    """

    text: str
    missing: int = 0
    repeated: int = 0
    unmatched: int = 0

    def faults(self) -> dict[str, int]:
        """What did not go as it should, by name; empty where all is well."""
        counts = {"missing": self.missing, "repeated": self.repeated, "unmatched": self.unmatched}
        return {name: count for name, count in counts.items() if count}


@dataclass(frozen=True, slots=True)
class _Masked:
    text: str
    originals: Mapping[str, str]  # by placeholder, in the order of the text


@dataclass(frozen=True, slots=True)
class TextRules:
    """The rules of one model.

    Args:
        source_script, target_script: Chinese script that the text of a side is converted to.
        placeholders: kinds of parts to replace, in order of precedence.
        tags: pieces of the source vocabulary, of which one may stand in front of a source; see tagging.py.

    Raises:
        MissingExtraError: traditional script is asked for and OpenCC is not installed.
    """

    source_script: Script = "none"
    target_script: Script = "none"
    placeholders: tuple[Kind, ...] = ()
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for script in (self.source_script, self.target_script):
            converter(script)

    @classmethod
    def of(cls, config: TokenizerConfig) -> TextRules:
        """The rules that a config asks for."""
        return cls(config.source_script, config.target_script, tuple(config.placeholders))

    def __bool__(self) -> bool:
        return self != _NO_RULES

    def read_source(self, text: str) -> str:
        """A source text as the tokenizer gets it, to be translated: every part that can be is replaced."""
        return converter(self.source_script)(self._mask(text).text)

    def read_target(self, text: str, source: str) -> str:
        """A given target as the tokenizer gets it: the parts that ``source`` has, too, are replaced."""
        if self.placeholders:
            text = self._masked_like(text, self._mask(source))
        return converter(self.target_script)(text)

    def read_pair(self, source: str, target: str) -> tuple[str, str]:
        """A training pair as the tokenizers get it: parts are replaced that occur, letter by letter, on both sides.

        A number that is written out on the other side therefore stays, and is learned as any other word.
        """
        if self.placeholders:
            masked = self._mask(source, only=self._parts(target))
            source, target = masked.text, self._masked_like(target, masked)
        return converter(self.source_script)(source), converter(self.target_script)(target)

    def write(self, text: str, source: str) -> Written:
        """Put the parts of ``source`` back into a text generated from it.

        A placeholder that occurs twice is its part twice; one that the source does not have is left out; and for one
        that the model has left out nothing is added: the counts say where that happened.
        """
        if not self.placeholders:
            return Written(text)
        originals = self._mask(source).originals
        found = Counter(_MARKER.findall(text))
        return Written(
            _MARKER.sub(lambda match: originals.get(match[0], ""), text),
            missing=sum(marker not in found for marker in originals),
            repeated=sum(count - 1 for marker, count in found.items() if marker in originals),
            unmatched=sum(count for marker, count in found.items() if marker not in originals),
        )

    def to_json(self) -> dict[str, Any]:
        """A value for JSON; :meth:`from_json` reads it back."""
        value: dict[str, Any] = {
            "format": _FORMAT_WITH_TAGS if self.tags else _FORMAT,
            "source_script": self.source_script,
            "target_script": self.target_script,
            "placeholders": list(self.placeholders),
        }
        return value | {"tags": list(self.tags)} if self.tags else value

    @classmethod
    def from_json(cls, value: Any) -> TextRules:
        """The rules that :meth:`to_json` gave.

        Raises:
            TokenizerError: of another format, or not rules at all.
        """
        if not isinstance(value, dict) or value.get("format") not in (_FORMAT, _FORMAT_WITH_TAGS):
            raise TokenizerError(
                f"the rules for text are not of format {_FORMAT} or {_FORMAT_WITH_TAGS}: a newer pellucid may have "
                "made them"
            )
        scripts = value.get("source_script"), value.get("target_script")
        kinds = value.get("placeholders")
        known = isinstance(kinds, list) and all(kind in get_args(Kind) for kind in kinds)
        tags = value.get("tags", [])
        known = known and isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)
        if not known or any(script not in get_args(Script) for script in scripts):
            raise TokenizerError("the rules for text are incomplete or damaged")
        return cls(*scripts, tuple(kinds), tuple(tags))  # type: ignore[arg-type]

    def _parts(self, text: str) -> Iterator[tuple[str, str, int, int]]:
        """Kind, text, start and end of what may be replaced.

        A placeholder's own character, should someone have written it, is replaced as well, as a part of the first kind.
        """
        for match in _pattern(self.placeholders).finditer(text):
            yield match.lastgroup or self.placeholders[0], match[0], match.start(), match.end()

    def _mask(self, text: str, only: Iterator[tuple[str, str, int, int]] | None = None) -> _Masked:
        """Replace parts, counted by kind; with ``only``, as many of each as there are there."""
        if not self.placeholders:
            return _Masked(text, {})
        room = None if only is None else Counter((kind, part) for kind, part, _, _ in only)
        originals: dict[str, str] = {}
        pieces, end = [], 0
        used: Counter[str] = Counter()
        for kind, part, start, stop in self._parts(text):
            if used[kind] == SLOTS or (room is not None and not room[kind, part]):
                continue
            if room is not None:
                room[kind, part] -= 1
            marker = _marker(kind, used[kind])
            used[kind] += 1
            originals[marker] = part
            pieces += [text[end:start], marker]
            end = stop
        return _Masked("".join([*pieces, text[end:]]), originals)

    def _masked_like(self, text: str, masked: _Masked) -> str:
        """``text`` with the parts that ``masked`` has replaced; of equal ones, the first for the first."""
        waiting: dict[tuple[str, str], list[str]] = {}
        for marker, part in masked.originals.items():
            waiting.setdefault((_kind(marker), part), []).append(marker)
        pieces, end = [], 0
        for kind, part, start, stop in self._parts(text):
            if left := waiting.get((kind, part)):
                pieces += [text[end:start], left.pop(0)]
                end = stop
        return "".join([*pieces, text[end:]])


_NO_RULES = TextRules()


def describe_faults(counts: Mapping[str, int]) -> str:
    """The counts of :meth:`Written.faults`, summed over many texts, as a sentence; empty where there are none."""
    words = {"missing": "left out", "repeated": "written again", "unmatched": "made up"}
    parts = [f"{counts[name]:,} {words[name]}" for name in words if counts.get(name)]
    return f"placeholders (tokenizer.placeholders): {', '.join(parts)} by the model" if parts else ""


def markers(kinds: Sequence[str]) -> list[str]:
    """The placeholders of some kinds: what a vocabulary has to have as pieces of their own."""
    return [_marker(kind, slot) for kind in kinds for slot in range(SLOTS)]


def _marker(kind: str, slot: int) -> str:
    return chr(_FIRST_MARKER + get_args(Kind).index(kind) * 16 + slot)


def _kind(marker: str) -> str:
    return str(get_args(Kind)[(ord(marker) - _FIRST_MARKER) // 16])


_MARKER = re.compile(f"[{''.join(markers(get_args(Kind)))}]")


@functools.cache
def _pattern(kinds: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join([_MARKER.pattern, *(f"(?P<{kind}>{_PATTERNS[kind]})" for kind in kinds)]))
