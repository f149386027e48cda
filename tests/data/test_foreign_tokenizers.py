"""Tokenizers that others made: numbers by a table, special tokens, the way back, and a folder that keeps them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pellucid.config import TokenizerConfig
from pellucid.data.foreign_tokenizers import JsonTokenizer, Specials, TableTokenizer, byte_level_json
from pellucid.data.tokenizer import load_tokenizers, save_tokenizers, train_tokenizer
from pellucid.data.tokenizer_kinds import SentencePieceTokenizer, Tokenizer, framed
from pellucid.errors import TokenizerError

TEXTS = ["the old man reads", "two dogs run over the field", "she reads"]
SPECIALS = Specials(pad=1, unk=2, bos=1, eos=0, prefix=(3,), suffix=(0,), hidden=(4,))


def make_table(*, codes: bool = False, spare: int = 0) -> TableTokenizer:
    config = TokenizerConfig(vocab_size=60, byte_fallback=False)
    trained = train_tokenizer(config, "sentencepiece", TEXTS * 9)
    assert isinstance(trained, SentencePieceTokenizer)
    pieces = [piece for piece in trained.pieces(range(4, trained.vocab_size)) if piece != "d"]
    table = ["</s>", "<pad>", "<unk>", "<lang>", "<mask>", *reversed(pieces), ">>deu<<"]
    return TableTokenizer(trained.model, table, SPECIALS, len(table) + spare, codes=codes)


def make_json() -> JsonTokenizer:
    pytest.importorskip("tokenizers")
    letters = ["Ġ", *"abcdefghijklmnopqrstuvwxyz", "Ã", "¤"]
    numbers = {name: n for n, name in enumerate(["</s>", "<pad>", "<unk>", "<lang>", "<mask>", *letters, "th", "the"])}
    content = byte_level_json(numbers, [("t", "h"), ("th", "e")])
    return JsonTokenizer(content, SPECIALS, len(numbers) + 3)


@pytest.fixture(params=["table", "json"])
def tokenizer(request: pytest.FixtureRequest) -> TableTokenizer | JsonTokenizer:
    return make_table() if request.param == "table" else make_json()


def test_both_keep_the_protocol(tokenizer: TableTokenizer | JsonTokenizer) -> None:
    assert isinstance(tokenizer, Tokenizer)
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (1, 2, 1, 0)
    assert tokenizer.suppressed_ids == ()
    assert framed(tokenizer, [9, 8]) == [3, 9, 8, 0]


def test_text_goes_there_and_back_without_special_tokens(tokenizer: TableTokenizer | JsonTokenizer) -> None:
    for text in ("the man reads", "two  ogs"):
        ids = tokenizer.encode(text)
        assert not set(ids) & {0, 1, 2, 3, 4}
        assert tokenizer.decode([3, 1, *ids, 2, 4, 0]) == " ".join(text.split()) or tokenizer.kind == "tokenizer-json"
        assert tokenizer.sample(text, 0.5, np.random.default_rng(1)) == ids
    assert tokenizer.decode(tokenizer.encode("the man")) == "the man"


def test_every_number_of_the_model_has_a_name_and_spare_ones_no_text(tokenizer: TableTokenizer | JsonTokenizer) -> None:
    names = tokenizer.pieces(range(tokenizer.vocab_size))
    assert len(set(names)) == tokenizer.vocab_size
    spare = make_table(spare=2)
    assert spare.pieces([spare.vocab_size - 1]) == [f"<unused {spare.vocab_size - 1}>"]
    assert spare.decode([*spare.encode("the man"), spare.vocab_size - 1]) == "the man"


def test_what_the_table_does_not_number_is_unknown() -> None:
    tokenizer = make_table()
    text = "the qd man"
    assert tokenizer.encode(text).count(2) == len(tokenizer.unknown(text)) > 0
    assert set("".join(tokenizer.unknown(text)).strip()) <= set("qd")


def test_spans_cut_the_text_into_its_tokens(tokenizer: TableTokenizer | JsonTokenizer) -> None:
    text = "the old man reads"
    spans = tokenizer.spans(text)
    assert len(spans) == len(tokenizer.encode(text))
    assert "".join(text[a:b] for a, b in spans).replace(" ", "") == text.replace(" ", "")
    written, spans = tokenizer.decode_spans([3, *tokenizer.encode(text), 0])
    assert written == text
    assert len(spans) == len(tokenizer.encode(text)) + 2
    assert spans[0] == (0, 0)
    assert "".join(written[a:b] for a, b in spans).replace(" ", "") == text.replace(" ", "")


def test_a_language_code_at_the_beginning_is_one_token() -> None:
    tokenizer = make_table(codes=True)
    assert tokenizer.pieces(tokenizer.encode(">>deu<< the man"))[:2] == [">>deu<<", "▁t"]
    assert tokenizer.encode(">>xyz<< the man")[0] == tokenizer.unk_id
    assert make_table().pieces(tokenizer.encode(">>deu<< the"))[0] == ">>deu<<"
    assert len(make_table().encode(">>deu<< the man")) > len(tokenizer.encode(">>deu<< the man"))
    assert tokenizer.spans(">>deu<< the")[0] == (0, 7)


def test_a_folder_keeps_both_kinds(tmp_path: Path) -> None:
    table, library = make_table(codes=True, spare=1), make_json()
    save_tokenizers(tmp_path, table, library)
    source, target = load_tokenizers(tmp_path)
    assert (source.fingerprint, target.fingerprint) == (table.fingerprint, library.fingerprint)
    assert isinstance(source, TableTokenizer)
    assert isinstance(target, JsonTokenizer)
    assert (source.specials, source.codes, source.vocab_size) == (SPECIALS, True, table.vocab_size)
    assert target.encode("the man") == library.encode("the man")
    entry = json.loads((tmp_path / "tokenizer.json").read_text())
    entry["source"]["vocabulary"][7] = "other"
    (tmp_path / "tokenizer.json").write_text(json.dumps(entry))
    with pytest.raises(TokenizerError, match="SHA-256 differs"):
        load_tokenizers(tmp_path)


def test_how_a_file_would_cut_and_pad_is_ignored() -> None:
    library = make_json()
    content = json.loads(library.content)
    content["truncation"] = dict(direction="Right", max_length=2, strategy="LongestFirst", stride=0)
    content["padding"] = dict(
        strategy={"Fixed": 40}, direction="Right", pad_to_multiple_of=None, pad_id=1, pad_type_id=0, pad_token="<pad>"
    )
    changed = JsonTokenizer(json.dumps(content), SPECIALS, library.vocab_size)
    assert changed.encode("the man reads") == library.encode("the man reads")


def test_files_that_are_none_and_numbers_that_are_too_large() -> None:
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        TableTokenizer(b"x", ["a"] * 9, SPECIALS)
    with pytest.raises(TokenizerError, match="a special token has the number 4; the vocabulary has 4 tokens"):
        TableTokenizer(make_table().model, ["a"] * 4, SPECIALS)
    pytest.importorskip("tokenizers")
    with pytest.raises(TokenizerError, match=r"not a tokenizer.json that this version of tokenizers reads"):
        JsonTokenizer("{}", SPECIALS, 9)


def test_spans_of_long_texts_take_work_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    library = make_json()
    ids = library.encode("the man ä reads " * 100)
    decoded = 0
    raw = library._raw

    def count(some: Sequence[int]) -> str:
        nonlocal decoded
        decoded += len(some)
        return raw(some)

    monkeypatch.setattr(library, "_raw", count)
    text, spans = library.decode_spans(ids)
    assert decoded < 10 * len(ids)
    assert text == ("the man ä reads " * 100).strip()
    assert "".join(text[a:b] for a, b in spans) == text
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
