"""Traditional and simplified Chinese, by OpenCC: the one file that knows that library.

Knows nothing of tokens or settings. OpenCC decides by the longest word in its dictionaries, so that 头发 becomes 頭髮
and 发展 becomes 發展. What has no Chinese characters comes out as it went in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

from pellucid.errors import MissingExtraError

__all__ = ["Script", "converter"]

Script = Literal["none", "simplified", "traditional"]

# The plain conversions, without the regional vocabulary of tw2sp and s2twp (軟體 → 软件), which would translate words.
_CONFIGS = {"simplified": "t2s", "traditional": "s2t"}


def converter(script: Script) -> Callable[[str], str]:
    """The function that writes text in ``script``; text that is in it already stays; ``none`` changes nothing.

    Raises:
        MissingExtraError: OpenCC is not installed (never for ``none``).
    """
    return _as_it_is if script == "none" else _opencc(_CONFIGS[script])


def _as_it_is(text: str) -> str:
    return text


@functools.cache
def _opencc(config: str) -> Callable[[str], str]:
    try:
        import opencc
    except ImportError:
        raise MissingExtraError("chinese", "converting between traditional and simplified Chinese") from None
    convert = opencc.OpenCC(config).convert

    def converted(text: str) -> str:
        return str(convert(text))

    return converted
