from __future__ import annotations

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from pellucid.data.punctuation import without_final_punctuation


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我爱中国。", "我爱中国"),
        ("你好吗？", "你好吗"),
        ("走！！！", "走"),
        ("等等……", "等等"),
        ("真的吗?!", "真的吗"),
        ("他说：“你好。”", "他说：“你好”"),
        ("「走吧！」", "「走吧」"),
        ('He said "no."', 'He said "no"'),
        ("(Really?)", "(Really)"),
        ("Bonjour !", "Bonjour"),
        ("Wait . . .", "Wait"),
        ("क्या हाल है?", "क्या हाल है"),
        ("मैं ठीक हूँ।", "मैं ठीक हूँ"),
        ("هل أنت بخير؟", "هل أنت بخير"),
        ("Τι κάνεις\u037e", "Τι κάνεις"),
        ("ሰላም።", "ሰላም"),
        ("日本｡", "日本"),
        ("One. Two.", "One. Two"),
        ("3.14.", "3.14"),
        ("😀!", "😀"),
        ("\U000f1020.", "\U000f1020"),  # a placeholder
    ],
)
def test_the_marks_that_end_a_text_go_and_what_closes_behind_them_stays(text: str, expected: str) -> None:
    assert without_final_punctuation(text) == expected
    assert without_final_punctuation(expected) == expected


@pytest.mark.parametrize(
    "text",
    ["", "我爱中国", "a, b,", "so:", "well -", "他说：“你好”", "(one. two)", "...", "。", "“？！”", " ! ", "5%", "C#"],
)
def test_a_text_without_such_marks_or_with_nothing_else_stays(text: str) -> None:
    assert without_final_punctuation(text) == text


@given(st.text(), st.text(alphabet="。！？.!?… ", min_size=1))
def test_what_is_left_is_the_beginning(text: str, end: str) -> None:
    left = without_final_punctuation(f"a{text}b{end}")
    assert left == f"a{text}b".rstrip() or not set(end) - {" "}


def test_every_mark_that_unicode_calls_the_end_of_a_sentence_is_known() -> None:
    marks = [chr(code) for code in range(0x110000) if regex.match(r"\p{STerm}", chr(code))]
    assert len(marks) > 150
    # A newer Unicode may have a few more.
    missing = [mark for mark in marks if without_final_punctuation(f"a{mark}") != "a"]
    assert len(missing) <= 5, missing
