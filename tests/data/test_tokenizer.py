from __future__ import annotations

import io
import itertools
import math
import sys
from collections import Counter

import data_cases
import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.config import TokenizerConfig
from pellucid.data import tokenizer_kinds
from pellucid.data.tokenizer import train_tokenizer, train_tokenizers, unknown_share
from pellucid.data.tokenizer_kinds import (
    BOS,
    EOS,
    PAD,
    UNK,
    CharacterTokenizer,
    SentencePieceTokenizer,
    SymbolTokenizer,
    Tokenizer,
)
from pellucid.errors import TokenizerError

PAIRS = data_cases.sentence_pairs(200)
TEXTS = [text for pair in PAIRS for text in pair]


def _train(texts: list[str] = TEXTS, **settings: object) -> SentencePieceTokenizer:
    tokenizer = train_tokenizer(TokenizerConfig(**{"vocab_size": 400, **settings}), "sentencepiece", texts)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return tokenizer


UNIGRAM = _train()
BPE = _train(model="bpe")


@pytest.mark.parametrize("tokenizer", [UNIGRAM, BPE, CharacterTokenizer(["a"]), SymbolTokenizer(["a"])])
def test_the_special_numbers_are_the_same_for_every_kind(tokenizer: Tokenizer) -> None:
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2, 3)
    assert tokenizer.pieces([0, 1, 2, 3]) == ["<pad>", "<unk>", "<s>", "</s>"]
    assert isinstance(tokenizer, Tokenizer)


@pytest.mark.parametrize("tokenizer", [UNIGRAM, BPE])
def test_sentencepiece_round_trip_pieces_and_no_specials(tokenizer: SentencePieceTokenizer) -> None:
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert min(ids) > EOS
        assert "".join(tokenizer.pieces(ids)) == "▁" + text.replace(" ", "▁")
    assert sum(len(tokenizer.encode(text)) for text in TEXTS) < 0.6 * sum(map(len, TEXTS))


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_training_is_a_function_of_text_and_settings(model: str) -> None:
    again = _train(model=model)
    assert again.model == {"unigram": UNIGRAM, "bpe": BPE}[model].model
    assert _train(model=model, vocab_size=290).fingerprint != again.fingerprint


@pytest.mark.parametrize("tokenizer", [UNIGRAM, BPE])
def test_specials_are_ignored_by_decode_and_unknown_is_shown(tokenizer: SentencePieceTokenizer) -> None:
    ids = tokenizer.encode("the cat")
    assert tokenizer.decode([BOS, *ids, EOS, PAD, PAD]) == "the cat"
    assert tokenizer.decode([]) == tokenizer.decode([BOS, EOS, PAD]) == ""
    assert tokenizer.decode([UNK]) == "⁇"
    assert tokenizer.decode([int(token) for token in np.array(ids)]) == "the cat"


def test_the_names_of_specials_in_a_text_are_plain_text() -> None:
    text = "the <s> </s> <pad> <unk> cat"
    for tokenizer in (UNIGRAM, BPE):
        ids = tokenizer.encode(text)
        assert not {PAD, UNK, BOS, EOS} & set(ids)
        assert tokenizer.decode(ids) == text
    symbols = train_tokenizer(TokenizerConfig(), "symbols", [text])
    ids = symbols.encode(text)
    assert not {PAD, UNK, BOS, EOS} & set(ids)
    assert symbols.decode(ids) == text


@settings(max_examples=50)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0▁"), min_size=1), max_size=5))
def test_byte_fallback_spells_any_text(words: list[str]) -> None:
    tokenizer = IDENTITY
    text = " ".join(" ".join(words).split(" "))
    text = " ".join(part for part in text.split(" ") if part)
    ids = tokenizer.encode(text)
    assert UNK not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(tokenizer.sample(text, 0.1, np.random.default_rng(len(text)))) == text


IDENTITY = _train(normalization="identity")


def test_with_identity_and_byte_fallback_every_character_comes_back() -> None:
    codes = [code for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]  # all but halves of pairs
    for start in range(0, len(codes), 1000):
        text = "".join(f"a{chr(code)}" for code in codes[start : start + 1000]) + "a"
        # U+2581 is how SentencePiece writes a space.
        assert IDENTITY.decode(IDENTITY.encode(text)) == text.replace("▁", " ")
    for spaces in ("a  b   c", "a\u3000b\u00a0c\td"):
        assert IDENTITY.decode(IDENTITY.encode(spaces)) == spaces
        assert UNIGRAM.decode(UNIGRAM.encode(spaces)) == " ".join(spaces.split())


def test_a_character_out_of_bytes_is_put_together_again() -> None:
    ids = UNIGRAM.encode("the 猫 😀")
    assert UNIGRAM.decode(ids) == "the 猫 😀"
    assert {"<0xE7>", "<0xF0>"} <= set(UNIGRAM.pieces(ids))
    spelled = [token for token in ids if UNIGRAM.pieces([token])[0].startswith("<0x")]
    assert len(spelled) == 7
    assert UNIGRAM.decode(spelled[:2]) == "\ufffd\ufffd"


def test_without_byte_fallback_strange_characters_are_unknown() -> None:
    tokenizer = _train(byte_fallback=False, vocab_size=100)
    assert UNK in tokenizer.encode("the 猫")
    assert tokenizer.unknown("the 猫 cat 狗") == ["猫", "狗"]
    assert tokenizer.unknown("the cat") == []
    assert UNIGRAM.unknown("the 猫") == []


def test_normalisation_is_a_setting() -> None:
    assert UNIGRAM.decode(UNIGRAM.encode("Ｔhe ﬁne CAT")) == "The fine CAT"
    folded = _train(normalization="nmt_nfkc_cf")
    assert folded.decode(folded.encode("The CAT")) == "the cat"
    assert IDENTITY.decode(IDENTITY.encode("Ｔhe ﬁne CAT")) == "Ｔhe ﬁne CAT"


@pytest.mark.parametrize("model", ["unigram", "bpe"])
@pytest.mark.parametrize("byte_fallback", [True, False])
def test_a_text_with_fewer_pieces_than_asked_for_gives_what_there_is(model: str, byte_fallback: bool) -> None:
    texts = ["hello world", "hello"]
    tokenizer = _train(texts, model=model, byte_fallback=byte_fallback, vocab_size=8000)
    assert 11 <= tokenizer.vocab_size - 256 * byte_fallback <= 60
    assert tokenizer.decode(tokenizer.encode("hello world")) == "hello world"


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_too_small_a_vocabulary_says_how_many_pieces_are_needed(model: str) -> None:
    with pytest.raises(TokenizerError) as caught:
        _train(["abcdefgh" * 3, "ijkl mnop qrst"], model=model, vocab_size=16, byte_fallback=False)
    assert str(caught.value) == (
        "tokenizer.vocab_size (16) is too small: the characters of the text alone need 25 pieces; "
        "raise it, or lower tokenizer.character_coverage"
    )
    with pytest.raises(TokenizerError, match=r"and the 256 bytes of tokenizer\.byte_fallback alone need 281 pieces"):
        _train(["abcdefgh" * 3, "ijkl mnop qrst"], model=model, vocab_size=16)


def test_any_corpus_gives_a_tokenizer_or_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(5)
    learned = 0
    sentences = set()
    for number in range(120):
        alphabet = ["ab", "abc ", "我爱中国 ", "x😀é\u3000▁<s>", "a", " ", "\u200b"][number % 7]
        count, longest = int(rng.integers(1, 12)), int(rng.integers(1, 30))
        texts = ["".join(rng.choice(list(alphabet), int(rng.integers(0, longest + 1)))) for _ in range(count)]
        try:
            tokenizer = _train(
                texts,
                model=["unigram", "bpe"][number // 7 % 2],
                byte_fallback=bool(number // 14 % 2),
                vocab_size=[16, 50, 300][number % 3],
            )
        except TokenizerError as error:
            sentences.add(str(error).partition(" (")[0])
        else:
            learned += 1
            assert all(UNK not in tokenizer.encode(text) for text in texts)
    assert learned > 40
    assert sentences == {"tokenizer.vocab_size", "the text to learn a vocabulary from is empty"}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["sentencepiece", "characters", "letters", "symbols"])
@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text_is_an_error(kind: str, texts: list[str]) -> None:
    with pytest.raises(TokenizerError, match=r"^the text to learn a vocabulary from is empty$"):
        train_tokenizer(TokenizerConfig(), kind, texts)


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_a_text_that_normalisation_empties_is_empty(model: str) -> None:
    with pytest.raises(TokenizerError, match=r"^the text to learn a vocabulary from is empty$"):
        _train(["\u200b", "\u200b\u200b"], model=model)


def test_half_a_surrogate_pair_is_not_text() -> None:
    with pytest.raises(TokenizerError, match="half of a surrogate pair"):
        UNIGRAM.encode("a\udc80b")
    with pytest.raises(TokenizerError, match="half of a surrogate pair"):
        UNIGRAM.sample("a\udc80b", 0.5, np.random.default_rng(1))


@pytest.mark.parametrize("content", [b"", b"not a model", UNIGRAM.model[:-100]])
def test_bytes_that_are_no_model(content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TokenizerError, match="SentencePiece model"):
        SentencePieceTokenizer(content)
    assert capfd.readouterr() == ("", "")


def test_a_model_with_other_special_numbers_is_refused() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=60, hard_vocab_limit=False, minloglevel=2
    )
    with pytest.raises(TokenizerError) as caught:
        SentencePieceTokenizer(model.getvalue())
    assert str(caught.value) == (
        "the SentencePiece model numbers pad, unk, bos, eos as (-1, 0, 1, 2); pellucid needs (0, 1, 2, 3)"
    )


def test_character_coverage_is_a_setting_of_sentencepiece_too() -> None:
    texts = [*TEXTS, "猫"]
    assert UNK not in _train(texts, byte_fallback=False, vocab_size=100).encode("猫")
    assert UNK in _train(texts, byte_fallback=False, vocab_size=100, character_coverage=0.999).encode("猫")


# --- characters and symbols ---------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=12), min_size=1, max_size=6).filter(any))
def test_characters_round_trip(texts: list[str]) -> None:
    tokenizer = train_tokenizer(TokenizerConfig(), "characters", texts)
    assert tokenizer.vocab_size == 4 + len(set("".join(texts)))
    for text in texts:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.pieces(ids) == list(text)
        assert tokenizer.sample(text, 0.1, np.random.default_rng(1)) == ids
        assert all(token >= 4 for token in ids)


@given(st.lists(st.lists(st.text(min_size=1, max_size=3).filter(lambda s: " " not in s)), min_size=1).filter(any))
def test_symbols_round_trip(lists: list[list[str]]) -> None:
    tokenizer = train_tokenizer(TokenizerConfig(), "symbols", [" ".join(symbols) for symbols in lists])
    assert tokenizer.vocab_size == 4 + len({symbol for symbols in lists for symbol in symbols})
    for symbols in lists:
        ids = tokenizer.encode(" ".join(symbols))
        assert tokenizer.decode(ids) == " ".join(symbols)
        assert tokenizer.decode([BOS, *ids, EOS, PAD]) == " ".join(symbols)
        assert tokenizer.encode("  " + "   ".join(symbols) + " ") == ids
        assert tokenizer.pieces(ids) == symbols


def test_numbers_go_by_frequency_then_by_text() -> None:
    tokenizer = train_tokenizer(TokenizerConfig(), "characters", ["cab", "cc", "ba"])
    assert tokenizer.pieces([4, 5, 6]) == ["c", "a", "b"]
    symbols = train_tokenizer(TokenizerConfig(), "symbols", ["x yy", "zz yy", "x"])
    assert symbols.encode("x yy zz q") == [4, 5, 6, UNK]
    assert symbols.decode([4, UNK, 6]) == "x ⁇ zz"
    assert symbols.unknown("q x p") == ["q", "p"]


def test_only_the_plain_space_separates_symbols() -> None:
    tokenizer = train_tokenizer(TokenizerConfig(), "symbols", ["a\u3000b c\u00a0d"])
    assert tokenizer.pieces(tokenizer.encode("a\u3000b c\u00a0d")) == ["a\u3000b", "c\u00a0d"]


def test_character_coverage_leaves_rare_characters_out() -> None:
    texts = ["a" * 50 + "b" * 45 + "cccd" + "e"]
    tokenizer = train_tokenizer(TokenizerConfig(character_coverage=0.95), "characters", texts)
    assert tokenizer.pieces(tokenizer.encode("abcde")) == ["a", "b", "<unk>", "<unk>", "<unk>"]
    tokenizer = train_tokenizer(TokenizerConfig(character_coverage=0.951), "characters", texts)
    assert tokenizer.pieces(tokenizer.encode("abcde")) == ["a", "b", "c", "<unk>", "<unk>"]
    full = train_tokenizer(TokenizerConfig(), "characters", texts)
    assert UNK not in full.encode("abcde")


def test_an_entry_twice_in_a_vocabulary_is_an_error() -> None:
    with pytest.raises(TokenizerError, match="occurs twice"):
        CharacterTokenizer(["a", "b", "a"])


# --- both sides ---------------------------------------------------------------------------------------------------


def test_a_joint_vocabulary_is_one_object_and_separate_ones_are_two() -> None:
    source, target = train_tokenizers(TokenizerConfig(vocab_size=400), PAIRS)
    assert source is target
    assert source.fingerprint == UNIGRAM.fingerprint
    source, target = train_tokenizers(TokenizerConfig(vocab_size=330, joint=False), PAIRS)
    assert source is not target
    assert isinstance(source, SentencePieceTokenizer)
    assert source.model == _train([s for s, _ in PAIRS], vocab_size=330).model
    assert target.fingerprint == _train([t for _, t in PAIRS], vocab_size=330).fingerprint


@pytest.mark.parametrize("once", [True, False])
def test_kinds_may_differ_by_side_and_pairs_may_be_an_iterator(once: bool) -> None:
    pairs = [("abc", "a b k"), ("cab", "k a b")]
    config = TokenizerConfig(kind="characters", target_kind="symbols")
    source, target = train_tokenizers(config, iter(pairs) if once else pairs)
    assert (source.kind, target.kind) == ("characters", "symbols")
    assert source.pieces(source.encode("abc")) == ["a", "b", "c"]
    assert target.pieces(target.encode("a k")) == ["a", "k"]


def test_errors_of_training_name_the_side() -> None:
    config = TokenizerConfig(joint=False, vocab_size=16, byte_fallback=False)
    with pytest.raises(TokenizerError, match="the characters of the target side alone need"):
        train_tokenizers(config, [("ab", "abcdefghijklmnopqrstuvw")])
    with pytest.raises(TokenizerError, match=r"^the source side to learn a vocabulary from is empty$"):
        train_tokenizers(config, [("", "abc")])


# --- sampling -----------------------------------------------------------------------------------------------------


def test_samples_are_segmentations_of_the_text_and_belong_to_the_generator() -> None:
    text = TEXTS[0]
    drawn = [UNIGRAM.sample(text, 0.1, np.random.default_rng(seed)) for seed in range(60)]
    assert all(UNIGRAM.decode(ids) == text for ids in drawn)
    assert len({tuple(ids) for ids in drawn}) > 10
    assert drawn == [UNIGRAM.sample(text, 0.1, np.random.default_rng(seed)) for seed in range(60)]
    rng = np.random.default_rng(3)
    assert UNIGRAM.sample(text, 0.1, rng) == drawn[3]
    assert UNIGRAM.sample("", 0.1, rng) == []


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
def test_segmentations_are_drawn_with_probability_p_to_the_alpha(alpha: float) -> None:
    text = "hund"
    processor = UNIGRAM._processor
    scores = {}
    # All ways to cut the text into pieces, by brute force: fewer than 64, so that none is beyond the n-best list.
    marked = "▁" + text
    for cuts in itertools.product([False, True], repeat=len(marked) - 1):
        parts, start = [], 0
        for position, cut in enumerate([*cuts, True], start=1):
            if cut:
                parts.append(marked[start:position])
                start = position
        ids = tuple(processor.PieceToId(part) for part in parts)
        if UNK not in ids:
            scores[ids] = sum(processor.GetScore(token) for token in ids)
    assert 2 < len(scores) < 64
    total = sum(math.exp(alpha * score) for score in scores.values())
    rng = np.random.default_rng(8)
    draws = 4000
    seen = Counter(tuple(UNIGRAM.sample(text, alpha, rng)) for _ in range(draws))
    assert set(seen) <= set(scores)
    for ids, score in scores.items():
        expected = math.exp(alpha * score) / total
        assert abs(seen[ids] / draws - expected) < 4 * math.sqrt(expected * (1 - expected) / draws) + 1e-3


def test_what_is_remembered_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    remembering, forgetful = SentencePieceTokenizer(UNIGRAM.model), SentencePieceTokenizer(UNIGRAM.model)
    expected = [remembering.sample(text, 0.3, np.random.default_rng(i)) for i, text in enumerate(TEXTS[:20] * 2)]
    monkeypatch.setattr(tokenizer_kinds, "_MEMO_BYTES", 0)
    assert expected == [forgetful.sample(text, 0.3, np.random.default_rng(i)) for i, text in enumerate(TEXTS[:20] * 2)]
    assert len(remembering._memo) == 20
    assert not forgetful._memo


def test_bpe_has_no_segmentations_to_sample(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TokenizerError, match="unigram model only"):
        BPE.sample("the cat", 0.5, np.random.default_rng(1))


# --- unknown text -------------------------------------------------------------------------------------------------


def test_unknown_share_counts_tokens_and_shows_the_most_frequent() -> None:
    tokenizer = CharacterTokenizer(["a", "b"])
    found = unknown_share(tokenizer, ["axbx", "ay", ""])
    assert (found.unknown, found.total, found.share, found.examples) == (3, 6, 0.5, ("x", "y"))
    assert unknown_share(tokenizer, []).share == 0.0
    many = unknown_share(tokenizer, ["cdefghijklmnop" + "z" * 3])
    assert len(many.examples) == 10
    assert many.examples[0] == "z"
    assert unknown_share(UNIGRAM, ["the 猫"]).unknown == 0


def test_letters_take_characters_apart_and_put_them_together() -> None:
    tokenizer = train_tokenizer(TokenizerConfig(), "letters", ["가곡 각시", "été"])
    assert tokenizer.pieces(tokenizer.encode("각é")) == ["ᄀ", "ᅡ", "ᆨ", "e", "\u0301"]
    assert tokenizer.decode(tokenizer.encode("각시 été")) == "각시 été"
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "é"  # composed, however it came
    assert UNK not in tokenizer.encode("고")  # a syllable never seen, of letters that were
    assert tokenizer.spans("각é") == [(0, 1), (0, 1), (0, 1), (1, 2), (1, 2)]
    ids = [*tokenizer.encode("é각"), tokenizer.eos_id]
    assert tokenizer.decode_spans(ids) == ("é각", [(0, 1), (0, 1), (1, 2), (1, 2), (1, 2), (2, 2)])
