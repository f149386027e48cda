"""Units of texts, counted by hand, and which tokens belong to them, for every kind of tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.config import TokenizerConfig
from pellucid.data.tokenizer import train_tokenizer
from pellucid.data.tokenizer_kinds import CharacterTokenizer, SymbolTokenizer, Tokenizer
from pellucid.data.units import Segments, segment_ids, segment_text, unit_spans

TEXTS = [
    "the men are reading newspapers in the reading room",
    "a woman reads the newspaper, and the man sleeps.",
    "我爱中国。中国很大，我在中国。",
    "中国人爱中国，我们爱中国菜。",
]


@pytest.fixture(scope="module")
def subwords() -> Tokenizer:
    return train_tokenizer(TokenizerConfig(vocab_size=340), "sentencepiece", TEXTS)


class Given(SymbolTokenizer):
    """Claims to be of subwords, with the parts of the text that it is told."""

    kind = "sentencepiece"

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        super().__init__(["x"])
        self._spans = list(spans)

    def encode(self, text: str) -> list[int]:
        return [4] * len(self._spans)

    def spans(self, text: str) -> list[tuple[int, int]]:
        return self._spans


def words_of(text: str) -> list[str]:
    return [text[start:end] for start, end in unit_spans(text)]


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("", []),
        (" \t", []),
        ("Two  young guys, here.\n", ["Two", "young", "guys,", "here."]),
        ("a\u00a0b\u3000c\u2028d", ["a", "b", "c", "d"]),  # all that str.split takes for space
        ("我爱China。", ["我", "爱", "China", "。"]),
        ("中国iPhone手机 12个", ["中", "国", "iPhone", "手", "机", "12", "个"]),
        ("「東京」ヘ、か\u3099。", ["「", "東", "京", "」", "ヘ", "、", "か\u3099", "。"]),
        ("葛\U000e0100城 𠮷野", ["葛\U000e0100", "城", "𠮷", "野"]),
        ("ＡＢＣ１２！", ["ＡＢＣ１２", "！"]),
        ("나는 학교에 간다.", ["나는", "학교에", "간다."]),
        ("cafe\u0301 e\u0301", ["cafe\u0301", "e\u0301"]),
    ],
)
def test_units_are_words_and_characters_of_unspaced_scripts(text: str, units: list[str]) -> None:
    assert words_of(text) == units


@given(st.text(alphabet=st.characters(max_codepoint=0x2000), max_size=20))
def test_where_all_scripts_have_spaces_the_units_are_those_of_split(text: str) -> None:
    assert words_of(text) == text.split()


def test_subwords_are_collected_into_words(subwords: Tokenizer) -> None:
    for text in ("the  women read newspapers, and sleep.", "中国人爱the man。", "  the man", "unseen: žluťoučký ½ kůň"):
        segments = segment_text(subwords, text)
        assert segments.ids == subwords.encode(text)
        assert segments.units == words_of(text)
        assert sorted({unit for covered in segments.covers for unit in covered}) == list(range(len(segments.units)))
        assert [covered[0] for covered in segments.covers] == sorted(covered[0] for covered in segments.covers)
    segments = segment_text(subwords, "the women read newspapers, and sleep.")
    assert len(segments.ids) > 6
    for number, unit in enumerate(segments.units):
        pieces = [piece for piece, covered in zip(segments.ids, segments.covers, strict=True) if covered == (number,)]
        assert subwords.decode(pieces) == unit


def test_characters_of_one_subword_are_one_group(subwords: Tokenizer) -> None:
    segments = segment_text(subwords, "很大，爱中国")
    lengths = [len(piece.replace("▁", "")) for piece in subwords.pieces(segments.ids)]
    assert max(lengths) > 1  # else nothing is tested
    assert segments.units == list("很大，爱中国")
    ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    for covered, length, end in zip(segments.covers, lengths, ends, strict=True):
        assert covered == (tuple(range(end - length, end)) if length else (end,))
    groups = segments.groups()
    assert groups == [sum(0 < before <= unit for before in set(ends)) for unit in range(6)]


def test_generated_tokens_are_units_of_their_text(subwords: Tokenizer) -> None:
    ids = [subwords.unk_id, *subwords.encode("the man 中国"), subwords.unk_id, subwords.eos_id]
    segments = segment_ids(subwords, ids)
    assert segments.ids == ids
    assert segments.units == ["⁇", "the", "man", "中", "国", "⁇"]
    assert segments.units == words_of(subwords.decode(ids))
    assert (segments.covers[0], segments.covers[-2], segments.covers[-1]) == ((0,), (5,), ())


@pytest.mark.parametrize(
    ("text", "spans", "covers", "groups"),
    [
        # A token of mere space, and first bytes of a character, belong to what follows.
        ("ab cd", [(0, 2), (2, 3), (3, 3), (3, 5)], [(0,), (1,), (1,), (1,)], [0, 1]),
        # A token of two words, as vocabularies have them that were learned across spaces.
        ("ab cd ef", [(0, 1), (1, 4), (4, 8)], [(0,), (0, 1), (1, 2)], [0, 0, 0]),
        # What normalisation dropped in front of a word is no part of the word before.
        ("ab\u200b cd", [(0, 2), (2, 6)], [(0,), (1,)], [0, 1]),
        # Behind the last word there is none; and a word may be without a token.
        ("ab cd ", [(0, 2), (5, 6)], [(0,), ()], [0, 1]),
        ("我爱中国", [(0, 2), (2, 4)], [(0, 1), (2, 3)], [0, 0, 1, 1]),
    ],
)
def test_tokens_that_do_not_fit_words(
    text: str, spans: list[tuple[int, int]], covers: list[tuple[int, ...]], groups: list[int]
) -> None:
    segments = segment_text(Given(spans), text)
    assert segments.covers == covers
    assert segments.groups() == groups
    assert segments.token_groups() == [groups[covered[0]] if covered else -1 for covered in covers]


def test_every_character_and_every_symbol_is_a_unit() -> None:
    characters = CharacterTokenizer(list("ab "))
    assert segment_text(characters, "a é") == Segments([4, 6, 1], ["a", " ", "é"], [(0,), (1,), (2,)])
    assert segment_ids(characters, [4, 1, 3]) == Segments([4, 1, 3], ["a", "⁇"], [(0,), (1,), ()])
    symbols = SymbolTokenizer(["a", "ba", "\u3000"])
    assert segment_text(symbols, " ba  a \u3000 q").units == ["ba", "a", "\u3000", "q"]
    assert segment_ids(symbols, [5, 4, 1]) == Segments([5, 4, 1], ["ba", "a", "⁇"], [(0,), (1,), (2,)])


def test_tokens_as_units(subwords: Tokenizer) -> None:
    segments = segment_text(subwords, "the women 中国", "tokens")
    assert segments.units == subwords.pieces(segments.ids)
    assert segments.covers == [(number,) for number in range(len(segments.ids))]


def test_parts_written_anew_are_counted_as_they_are_written(subwords: Tokenizer) -> None:
    ids = subwords.encode("the man reads")
    parts = [subwords.pieces([token])[0] for token in ids]

    def written(part: str) -> str:
        return part.replace("m", "2 3")

    segments = segment_ids(subwords, ids, "words", written)
    assert segments.units == ["the", "2", "3an", "reads"]
    assert segment_text(subwords, "the man reads", "words", written) == segments
    holder = next(number for number, piece in enumerate(parts) if "m" in piece)
    assert segments.covers[holder] == (1, 2)
    assert segments.groups() == [0, 1, 1, 2]
    left_out = segment_ids(subwords, ids, "words", lambda part: part.replace("m", "").replace("a", "").replace("n", ""))
    assert left_out.units == ["the", "reds"]
    assert {unit for covered in left_out.covers for unit in covered} == {0, 1}


def test_spans_name_the_text_of_each_token(subwords: Tokenizer) -> None:
    text = "the  women read 中国"
    spans = subwords.spans(text)
    assert [text[start:end].strip() for start, end in spans if text[start:end].strip()] == [
        piece.replace("▁", "") for piece in subwords.pieces(subwords.encode(text)) if piece != "▁"
    ]
    decoded, spans = subwords.decode_spans(subwords.encode(text))
    assert decoded == "the women read 中国"
    assert "".join(decoded[start:end] for start, end in spans) == decoded
