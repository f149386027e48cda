"""Words, characters and byte-pair codes numbered by a table, as fairseq, OpenNMT-py and JoeyNMT use them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pellucid.data.foreign_tokenizers import Specials
from pellucid.data.tokenizer import load_tokenizers, save_tokenizers
from pellucid.data.word_tokenizer import BytePairCodes, WordTokenizer
from pellucid.errors import TokenizerError

SPECIALS = Specials(pad=1, unk=3, bos=2, eos=2, hidden=(0,))
FIRST = ["<s>", "<pad>", "</s>", "<unk>"]
# Learned in this order: lo, low, er</w>, low er</w>, es, est</w>.
CODES = "#version: 0.2\nl o\nlo w\ne r</w>\nlow er</w>\ne s\nes t</w>\n"


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("low", ["lo", "w"]),  # low</w> was never merged: its last letter carries the end of the word
        ("lower", ["lower"]),
        ("lowest", ["low", "est"]),
        ("lowlow", ["low", "lo", "w"]),
        ("ess", ["es", "s"]),
        ("x", ["x"]),
    ],
)
def test_merges_in_the_order_they_were_learned(word: str, parts: list[str]) -> None:
    assert BytePairCodes(CODES).split(word) == parts


def test_the_three_formats() -> None:
    fast = CODES.split("\n", 1)[1].replace("\n", " 7\n")
    assert BytePairCodes(fast).split("lowest") == ["low", "est"]
    # The first format has the end of a word as a symbol of its own.
    first = "l o\nlo w\nlow </w>\n"
    assert BytePairCodes(first).split("low") == ["low"]
    assert BytePairCodes("#version: 0.1\n" + first).split("slow") == ["s", "low"]
    with pytest.raises(TokenizerError, match="line 3 of the byte-pair codes is not two symbols"):
        BytePairCodes("#version: 0.2\nl o\nlo w x\n")


def test_subwords_that_are_not_in_the_table_are_split_again() -> None:
    codes = BytePairCodes(CODES)
    assert codes.split("lower", {"low@@", "er"}) == ["low", "er"]
    assert codes.split("lower", {"lo@@", "w@@", "er"}) == ["lo", "w", "er"]
    assert codes.split("lower", {"l@@"}) == ["l", "o", "w", "e", "r"]


def test_text_to_numbers_and_back() -> None:
    tokenizer = WordTokenizer([*FIRST, "low@@", "est", "lower", "a"], SPECIALS, codes=CODES)
    ids = tokenizer.encode("a  lowest lower low")
    assert tokenizer.pieces(ids) == ["a", "low@@", "est", "lower", "<unk>", "<unk>"]
    assert tokenizer.decode([*ids, 2, 1]) == "a lowest lower"
    assert tokenizer.unknown("a low") == ["lo", "w"]
    assert tokenizer.spans("a lowest") == [(0, 1), (2, 5), (5, 8)]
    text, spans = tokenizer.decode_spans(ids[:3])
    assert [text[start:end] for start, end in spans] == ["a", "low", "est"]


def test_characters() -> None:
    tokenizer = WordTokenizer([*FIRST, "a", "b", "▁"], SPECIALS, "characters")
    assert tokenizer.encode("ab a") == [4, 5, 6, 4]
    assert tokenizer.decode([4, 5, 6, 4, 2]) == "ab a"
    assert tokenizer.unknown("abc") == ["c"]


def test_a_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    table = [*FIRST, "low@@", "er", "▁", "a"]
    source = WordTokenizer(table, SPECIALS, codes=CODES, restricted=True)
    target = WordTokenizer(table, SPECIALS, "characters")
    save_tokenizers(tmp_path, source, target)
    loaded = load_tokenizers(tmp_path)
    assert [found.fingerprint for found in loaded] == [source.fingerprint, target.fingerprint]
    assert loaded[0].encode("lower") == source.encode("lower") == [4, 5]
    (tmp_path / "source.codes").write_text(CODES.replace("l o", "o l"))
    with pytest.raises(TokenizerError, match="SHA-256 differs"):
        load_tokenizers(tmp_path)
