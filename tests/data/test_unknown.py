from __future__ import annotations

import data_cases
import pytest

from pellucid.config import TokenizerConfig
from pellucid.data.tokenizer import train_tokenizers
from pellucid.data.tokenizer_kinds import EOS, UNK, CharacterTokenizer, SymbolTokenizer, Tokenizer
from pellucid.data.unknown import source_parts, write_tokens

SUBWORDS = train_tokenizers(TokenizerConfig(vocab_size=60, byte_fallback=False), data_cases.sentence_pairs(60))[0]
WORDS = SymbolTokenizer(["a", "b"])
CHARACTERS = CharacterTokenizer(list("ab "))


def _written(tokenizer: Tokenizer, text: str, policy: str) -> str:
    """As if a model copied: every token is aligned to itself."""
    ids = tokenizer.encode(text)
    assert UNK in ids
    return write_tokens(tokenizer, ids, policy, source_parts(tokenizer, text), range(len(ids)))


@pytest.mark.parametrize(
    ("tokenizer", "text", "dropped"),
    [
        (WORDS, "a Zürich b", "a b"),
        (WORDS, "x a", "a"),
        (WORDS, "a x", "a"),
        (WORDS, "x y", ""),
        (WORDS, "x x a y y b z", "a b"),
        (CHARACTERS, "a 我 b", "a b"),
        (CHARACTERS, "a我b", "ab"),
        (SUBWORDS, "the Qatze", "the atze"),
        (SUBWORDS, "the ßß cat", "the cat"),
        (SUBWORDS, "ßß", ""),
        (SUBWORDS, "ß the ß ß cat", "the cat"),
    ],
)
def test_each_policy(tokenizer: Tokenizer, text: str, dropped: str) -> None:
    assert _written(tokenizer, text, "keep") == tokenizer.decode(tokenizer.encode(text))
    assert "⁇" in _written(tokenizer, text, "keep")
    assert _written(tokenizer, text, "drop") == dropped
    assert _written(tokenizer, text, "copy") == text


def test_what_is_copied_is_what_is_aligned() -> None:
    parts = source_parts(WORDS, "eins Zürich zwei")
    assert parts == ["eins", "Zürich", "zwei"]
    ids = [UNK, 4, UNK, EOS]
    assert write_tokens(WORDS, ids, "copy", parts, [1, 0, 2, 3]) == "Zürich a zwei"
    assert write_tokens(WORDS, ids, "copy", parts, [2, 0, 2, 3]) == "zwei a zwei"
    # Aligned to </s>, behind the parts, or to nothing: nothing to copy.
    assert write_tokens(WORDS, ids, "copy", parts, [3, 0, -1, 3]) == "a"


def test_without_unknown_tokens_no_policy_changes_anything() -> None:
    ids = SUBWORDS.encode("the cat sees the dog here")
    assert write_tokens(SUBWORDS, ids, "copy") == write_tokens(SUBWORDS, ids, "drop") == "the cat sees the dog here"


def test_copying_without_an_alignment_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="2 tokens need as many source tokens to copy from, not 0"):
        write_tokens(WORDS, [UNK, 4], "copy", ["x"])
