"""Tags: one token each in every kind of vocabulary, never found in a text, and refused where there is none."""

from __future__ import annotations

from typing import Any

import data_cases
import pytest

from pellucid.config import TokenizerConfig
from pellucid.data.tagging import resolve_tag, tag_ids, tagged, without_tags
from pellucid.data.text import TextRules
from pellucid.data.tokenizer import load_rules, load_tokenizers, save_tokenizers, train_tokenizer, train_tokenizers
from pellucid.data.tokenizer_kinds import UNK, framed
from pellucid.errors import ConfigError, TokenizerError
from pellucid.tags import named_tag, tag_name

PAIRS = data_cases.sentence_pairs(90)
TAGS = ("<2de>", ">>talks<<")
KINDS: list[dict[str, Any]] = [
    {"vocab_size": 400},
    {"vocab_size": 400, "model": "bpe", "placeholders": ["url"]},
    {"kind": "characters"},
    {"kind": "letters"},
    {"kind": "symbols"},
]


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_a_tag_is_one_token_that_no_text_is_split_into(settings: dict[str, Any]) -> None:
    tokenizer = train_tokenizers(TokenizerConfig(**settings), PAIRS, TAGS)[0]
    plain = train_tokenizers(TokenizerConfig(**settings), PAIRS)[0]
    numbers = tag_ids(tokenizer, TAGS)
    assert len({*numbers, 0, 1, 2, 3}) == 6
    assert tokenizer.pieces(numbers) == list(TAGS)
    for tag, number in zip(TAGS, numbers, strict=True):
        with_tag = tagged(tokenizer, tag)
        text = PAIRS[3][0]
        assert framed(with_tag, with_tag.encode(text)) == [number, *tokenizer.encode(text)]
        assert with_tag.decode(tokenizer.encode(text)) == plain.decode(plain.encode(text))
        assert tokenizer.prefix_ids == () and tagged(tokenizer, None) is tokenizer
        if settings.get("kind") != "symbols":  # there a symbol is what stands between spaces
            assert number not in tokenizer.encode(f"{tag} {text}{tag}")


def test_only_the_source_side_has_tags_where_there_are_two_vocabularies() -> None:
    source, target = train_tokenizers(TokenizerConfig(vocab_size=400, joint=False), PAIRS, TAGS)
    assert tag_ids(source, TAGS)
    with pytest.raises(TokenizerError):
        tag_ids(target, TAGS)


def test_a_target_side_with_the_same_pieces_never_writes_a_tag() -> None:
    joint = train_tokenizers(TokenizerConfig(vocab_size=400), PAIRS, TAGS)[0]
    silenced = without_tags(joint, joint, TAGS)
    assert silenced.suppressed_ids == (*joint.suppressed_ids, *tag_ids(joint, TAGS))
    assert set(joint.suppressed_ids).isdisjoint(tag_ids(joint, TAGS))
    assert without_tags(joint, joint, ()) is joint
    source, target = train_tokenizers(TokenizerConfig(vocab_size=400, joint=False), PAIRS, TAGS)
    assert without_tags(target, source, TAGS) is target


def test_a_vocabulary_without_the_tag_says_what_it_has() -> None:
    tokenizer = train_tokenizer(TokenizerConfig(vocab_size=400), "sentencepiece", (s for s, _ in PAIRS), tags=["<2de>"])
    with pytest.raises(
        TokenizerError, match=r"no piece <2fr> for the tag .*; it has <2de>: a vocabulary that is there"
    ):
        tag_ids(tokenizer, ["<2fr>"])
    with pytest.raises(
        TokenizerError, match="choose a tag that it has, leave the tag away, or learn a vocabulary with"
    ):
        tagged(tokenizer, "[2de]")


def test_a_tag_that_is_a_symbol_of_the_text_is_refused() -> None:
    pairs = [("<2de> a b", "x y"), ("b a", "y")]
    with pytest.raises(TokenizerError, match="the tag <2de> is a symbol of the text, too: choose another tag"):
        train_tokenizers(TokenizerConfig(kind="symbols"), pairs, ["<2de>"])


def test_a_tag_is_called_by_its_name_or_in_full() -> None:
    assert [tag_name(tag) for tag in (*TAGS, "__en_XX__", "<>")] == ["2de", "talks", "en_XX", ""]
    assert named_tag("2de", TAGS) == named_tag("<2de>", TAGS) == "<2de>"
    assert resolve_tag("talks", TAGS) == ">>talks<<"
    assert resolve_tag(None, TAGS) is None and resolve_tag("", TAGS) is None
    with pytest.raises(
        ConfigError, match=r"tag = 'fr': the model does not know this tag; its tags are <2de>, >>talks<<"
    ):
        resolve_tag("fr", TAGS)
    with pytest.raises(ConfigError, match="it was trained without tags"):
        resolve_tag("fr", ())


def test_tags_are_saved_with_the_tokenizers(tmp_path: Any) -> None:
    tokenizer = train_tokenizers(TokenizerConfig(vocab_size=400), PAIRS, TAGS)[0]
    save_tokenizers(tmp_path, tokenizer, tokenizer, TextRules(tags=TAGS))
    assert load_rules(tmp_path).tags == TAGS
    assert tag_ids(load_tokenizers(tmp_path)[0], TAGS) == tag_ids(tokenizer, TAGS)
    assert TextRules.from_json(TextRules(placeholders=("url",), tags=TAGS).to_json()).tags == TAGS
    assert "tags" not in TextRules(placeholders=("url",)).to_json()
    with pytest.raises(TokenizerError, match="incomplete or damaged"):
        TextRules.from_json({**TextRules(tags=TAGS).to_json(), "tags": [1]})


def test_the_unknown_piece_is_no_tag() -> None:
    tokenizer = train_tokenizers(TokenizerConfig(kind="symbols"), PAIRS)[0]
    assert tokenizer.pieces([UNK]) == ["<unk>"]
    with pytest.raises(TokenizerError):
        tag_ids(tokenizer, ["<none>"])
