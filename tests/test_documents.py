"""Documents: sentences apart and together again, and the layout of the lines as it was."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.documents import join_sentences, sentence_splitter, split_line, translate_document
from pellucid.errors import ConfigError, MissingExtraError

SENTENCES = {
    "en": ["Dr. Smith met Mr. Jones at 3 p.m. yesterday.", '"Is that so?" he asked.', "Yes!"],
    "de": ["Das ist z.B. so.", "Er kam am 3. Mai mit Prof. Dr. Müller u.a. an.", "Gut."],
    "hi": ["यह एक वाक्य है।", "यह दूसरा है।"],
    "zh": ["我爱中国。", "你呢？", "真的吗？！"],
    "ja": ["これはペンです。", "はい！"],
}


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences_are_told_apart(language: str) -> None:
    sentences = SENTENCES[language]
    space = "" if language in ("zh", "ja") else " "
    for code in (language, language.upper(), f"{language}-XX"):
        line = split_line("\t" + space.join(sentences) + " ", sentence_splitter(code))
        assert (line.indent, line.sentences) == ("\t", sentences)
    assert line.joined(sentences) == "\t" + space.join(sentences)


def test_an_unknown_language_is_cut_by_general_rules_and_no_language_is_refused() -> None:
    assert sentence_splitter("tlh")("One. Two.") == ["One. ", "Two."]
    for code in ("", "english", "e", "de;", "1"):
        with pytest.raises(ConfigError, match="expected a code such as de or zh"):
            sentence_splitter(code)


def test_without_the_library_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencex", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pellucid\[documents\]'"):
        sentence_splitter("en")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_no_character_is_lost(text: str) -> None:
    line = split_line(text, sentence_splitter())
    assert "".join(line.joined(line.sentences).split()) == "".join(text.split())
    assert line.indent + text.lstrip() == text
    assert all(sentence and sentence == sentence.strip() for sentence in line.sentences)


@pytest.mark.parametrize(
    ("sentences", "line"),
    [
        (["One.", "Two."], "One. Two."),
        (["他说：“好。”", "走了。"], "他说：“好。”走了。"),
        (["これは。」", "Then this."], "これは。」Then this."),
        (["OK", "好"], "OK 好"),
        (["한국어.", "문장", "이다"], "한국어. 문장 이다"),
        (["Great 👍", "Yes"], "Great 👍 Yes"),
        (["A.", "", "B."], "A. B."),
        (['"', "B"], '" B'),
        ([], ""),
    ],
)
def test_a_space_between_sentences_where_the_script_has_one(sentences: list[str], line: str) -> None:
    assert join_sentences(sentences) == line


def translator(calls: list[list[str]]) -> Any:
    def generate(sources: Sequence[str], **settings: Any) -> list[Any]:
        calls.append(list(sources))
        return [SimpleNamespace(text=f"<{source}>\u2028{settings['beam_size']}") for source in sources]

    return SimpleNamespace(generate=generate)


def test_a_document_keeps_its_lines() -> None:
    calls: list[list[str]] = []
    text = "Title\r\n\n   \n  One. Two.\n\tThree.\n"
    translated = translate_document(translator(calls), text, beam_size=3)
    assert translated == "<Title> 3\r\n\n   \n  <One.> 3 <Two.> 3\n\t<Three.> 3\n"
    assert calls == [["Title", "One.", "Two.", "Three."]]  # all at once: batches are filled
    assert translate_document(translator(calls), "", beam_size=3) == ""
