"""Punctuation in every script: what ends a sentence, and texts without it.

Knows nothing of tokens, and of languages only what Unicode says.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["letters", "letters_key", "without_final_punctuation"]

# Unicode's property Sentence_Terminal (PropList.txt, 16.0; unicodedata does not have it): first and last of each run.
_SENTENCE_TERMINAL = """
21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D5 1803 1809
1944-1945 1AA8-1AAB 1B4E-1B4F 1B5A-1B5B 1B5E-1B5F 1B7D-1B7F 1C3B-1C3C 1C7E-1C7F 2024 203C-203D 2047-2049 2CF9-2CFB 2E2E
2E3C 2E53-2E54 2E60-2E61 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE12
FE15-FE16 FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 10F55-10F59 10F86-10F89 11047-11048 110BE-110C1 11141-11143
111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9 113D4-113D5 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642
1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C 11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38 16B44
16D6E-16D6F 16E98 1BC9F 1DA88
"""
# Not in that property, but ends of sentences: ellipses, the inverted and the Greek question mark, the Tibetan shad.
_ALSO = "…⋯¿¡\u037e\u0f0d\u0f0e"
_QUOTES = "\"'”’»›」』〞〟＂＇"
_BRACKETS = ")]}）］｝】〕〉》"


def _characters(ranges: str) -> str:
    runs = (run.partition("-") for run in ranges.split())
    return "".join(rf"\U{int(first, 16):08X}-\U{int(last or first, 16):08X}" for first, _, last in runs)


_MARKS = f"[{_characters(_SENTENCE_TERMINAL)}{_ALSO}]"
_CLOSING = f"[{re.escape(_QUOTES + _BRACKETS)}]"
_MARK = re.compile(_MARKS)
_CLOSER = re.compile(_CLOSING)


def without_final_punctuation(text: str) -> str:
    """``text`` without the marks that end its last sentence, however many: 。 ！ ？ . ! ? … and their like.

    Quotation marks and brackets that close behind them stay, so that they still close what was opened: “你好。” becomes
    “你好”. Commas, colons and dashes are not ends of sentences. A text of nothing but punctuation stays as it is.
    """
    end = len(text.rstrip())
    start = end
    while start and _CLOSER.match(text, start - 1):
        start -= 1
    closers = text[start:end]
    kept = start
    while kept and (text[kept - 1].isspace() or _MARK.match(text, kept - 1)):
        kept -= 1
    nothing_left = all(unicodedata.category(character)[0] in "PZ" for character in text[:kept])
    return text if nothing_left or not _MARK.search(text, kept, start) else text[:kept] + closers


def letters(text: str) -> str:
    """The letters and digits of ``text``, of any script."""
    return "".join(character for character in text if character.isalnum())


def letters_key(text: str) -> str:
    """What two texts have in common that differ only in punctuation, width or case."""
    return letters(unicodedata.normalize("NFKC", text).casefold())
