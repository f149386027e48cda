"""Traditional and simplified Chinese: into simplified by OpenCC's tables, which come with pellucid; back by OpenCC.

The one file that knows that library. Knows nothing of tokens or settings. What has no Chinese characters comes out as
it went in.

Into simplified script nearly every character has one form, so a table of 42 KB (``simplified.txt``, made by
``scripts/chinese_table.py``) does exactly what OpenCC's ``t2s`` does; a model that reads both scripts needs no more.
The other way OpenCC decides by the longest word in much larger dictionaries, so that 头发 becomes 頭髮 and 发展 becomes
發展.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pellucid.errors import MissingExtraError

__all__ = ["TABLE", "Script", "converter"]

Script = Literal["none", "simplified", "traditional"]

TABLE = Path(__file__).resolve().parent / "simplified.txt"


def converter(script: Script) -> Callable[[str], str]:
    """The function that writes text in ``script``; text that is in it already stays; ``none`` changes nothing.

    Neither changes regional vocabulary (軟體 → 软件), which would translate words.

    Raises:
        MissingExtraError: OpenCC is not installed (for ``traditional`` only).
    """
    if script == "none":
        return _as_it_is
    return _simplifier() if script == "simplified" else _opencc("s2t")


def _as_it_is(text: str) -> str:
    return text


@functools.cache
def _simplifier() -> Callable[[str], str]:
    lines = TABLE.read_text(encoding="utf-8").split("\n")
    old, normal, traditional, simplified, phrases, values = [line for line in lines if line and line[0] != "#"]
    normalized = str.maketrans(old, normal)
    characters = str.maketrans(traditional, simplified)
    words = dict(zip(phrases.split(" "), values.split(" "), strict=True))
    # At each place the longest phrase that begins there; the others character by character.
    longest_first = sorted(words, key=len, reverse=True)
    pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def converted(text: str) -> str:
        if text.isascii():
            return text
        parts = pattern.split(text.translate(normalized))
        return "".join(words[part] if place % 2 else part.translate(characters) for place, part in enumerate(parts))

    return converted


@functools.cache
def _opencc(config: str) -> Callable[[str], str]:
    try:
        import opencc
    except ImportError:
        raise MissingExtraError("chinese", "writing Chinese in traditional script") from None
    convert = opencc.OpenCC(config).convert

    def converted(text: str) -> str:
        return str(convert(text))

    return converted
