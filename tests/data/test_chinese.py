"""The table for simplified script is OpenCC's t2s: for every character, every phrase, and phrases among characters."""

from __future__ import annotations

import random

import opencc

from pellucid.data.chinese import TABLE, converter

LINES = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
CHARACTERS, PHRASES = LINES[2], LINES[4].split(" ")


def test_every_character_becomes_what_opencc_makes_of_it() -> None:
    reference, ours = opencc.OpenCC("t2s").convert, converter("simplified")
    characters = [chr(code) for code in range(1, 0x32000) if not 0xD800 <= code < 0xE000]
    assert [each for each in characters if ours(each) != reference(each)] == []
    assert len(CHARACTERS) > 4000 and len(PHRASES) > 400


def test_the_longest_phrase_wins_wherever_it_begins() -> None:
    reference, ours = opencc.OpenCC("t2s").convert, converter("simplified")
    rng = random.Random(1)
    parts = [*PHRASES, *(part for phrase in PHRASES for part in phrase), *CHARACTERS[:500]]
    for _ in range(3000):
        text = "".join(rng.choices(parts, k=8))
        assert ours(text) == reference(text)
    assert ours("乾隆乾杯") == "乾隆干杯"


def test_a_text_in_simplified_script_or_none_stays() -> None:
    for text in ("我爱中国。", "Tom 3 ﬁ", "", " \n", "😀"):
        assert converter("simplified")(text) == text
