from __future__ import annotations

import errno
import itertools
import json
import os
import resource
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import data_cases
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.data.corpus import Pair
from pellucid.data.dataset import TextStore, TokenDataset, cache_key, open_texts, open_tokens
from pellucid.data.report import CorpusReport
from pellucid.data.tokenizer_kinds import CharacterTokenizer, SymbolTokenizer
from pellucid.errors import DataError

PAIRS = [Pair(source, target, line) for line, (source, target) in enumerate(data_cases.sentence_pairs(20), start=3)]
LETTERS = CharacterTokenizer(sorted({character for pair in PAIRS for character in pair.source + pair.target}))
LIMITS = (256, 256, 9.0)


class CountingTokenizer(CharacterTokenizer):
    """Counts what is encoded, to see that nothing is tokenised twice."""

    calls = 0

    def encode(self, text: str) -> list[int]:
        self.calls += 1
        return super().encode(text)


def _texts(folder: Path, pairs: list[Pair] = PAIRS, key: str = "k") -> TextStore:
    return open_texts(folder, key, lambda: pairs, CorpusReport("train", read=len(pairs)))


def _refuse() -> Iterator[Pair]:
    raise AssertionError("the corpus was read again")


def _tokens(folder: Path, texts: TextStore, **options: Any) -> TokenDataset:
    defaults = dict(
        rows=range(len(texts)), tokenizers=(LETTERS, LETTERS), limits=LIMITS, report=CorpusReport("train", len(texts))
    )
    return open_tokens(folder, texts, **{**defaults, **options})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.lists(st.tuples(st.text(), st.text(), st.integers(1, 2**40)), max_size=8))
def test_texts_are_stored_as_they_are(tmp_path: Path, rows: list[tuple[str, str, int]]) -> None:
    pairs = [Pair(*row) for row in rows]
    key = cache_key([list(row) for row in rows])
    for store in (_texts(tmp_path / "t", pairs, key), open_texts(tmp_path / "t", key, _refuse, CorpusReport("x"))):
        assert len(store) == len(pairs)
        assert [Pair(store.source(i), store.target(i), store.line(i)) for i in range(len(store))] == pairs


def test_an_index_outside_is_an_error(tmp_path: Path) -> None:
    texts = _texts(tmp_path / "t")
    tokens = _tokens(tmp_path / "k", texts)
    for index in (-1, len(PAIRS)):
        for reader in (texts.source, texts.target, tokens.source, tokens.target):
            with pytest.raises(IndexError, match=f"no pair {index}: there are 20"):
                reader(index)


def test_the_report_is_stored_with_the_texts_and_copied_out(tmp_path: Path) -> None:
    report = CorpusReport("train")

    def pairs() -> Iterator[Pair]:
        report.read = 21
        report.add("empty", 17)
        yield from PAIRS

    first = open_texts(tmp_path / "t", "k", pairs, report)
    again = open_texts(tmp_path / "t", "k", _refuse, CorpusReport("train"))
    assert first.report == again.report == report
    again.report.add("empty", 1)
    assert again.report == report


def _damages() -> dict[str, Callable[[Path], object]]:
    def flip(name: str) -> Callable[[Path], object]:
        def apply(folder: Path) -> None:
            content = bytearray((folder / name).read_bytes())
            content[len(content) // 2] ^= 1
            (folder / name).write_bytes(bytes(content))

        return apply

    def truncate(name: str) -> Callable[[Path], object]:
        return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 1)

    def lengthen(name: str) -> Callable[[Path], object]:
        return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + b"\0")

    files = ("source.bin", "source.ends.bin", "target.bin", "target.ends.bin")
    damages: dict[str, Callable[[Path], object]] = {
        "no meta": lambda folder: (folder / "meta.json").unlink(),
        "half a meta": truncate("meta.json"),
        "an empty meta": lambda folder: (folder / "meta.json").write_text("{}", encoding="utf-8"),
        "a list": lambda folder: (folder / "meta.json").write_text("[]", encoding="utf-8"),
    }
    for name in files:
        damages[f"no {name}"] = lambda folder, name=name: (folder / name).unlink()
        damages[f"flipped {name}"] = flip(name)
        damages[f"truncated {name}"] = truncate(name)
        damages[f"longer {name}"] = lengthen(name)
    return damages


@pytest.mark.parametrize("name", _damages())
def test_a_damaged_cache_is_made_again(tmp_path: Path, name: str) -> None:
    texts = _texts(tmp_path / "texts")
    _tokens(tmp_path / "tokens", texts)
    _damages()[name](tmp_path / "texts")
    _damages()[name](tmp_path / "tokens")
    if name != "half a meta":  # a meta.json that lacks its last line break is still whole
        with pytest.raises(AssertionError, match="read again"):
            open_texts(tmp_path / "texts", "k", _refuse, CorpusReport("x"))
    texts = _texts(tmp_path / "texts")
    assert [texts.source(i) for i in range(20)] == [pair.source for pair in PAIRS]
    tokens = _tokens(tmp_path / "tokens", texts)
    assert [LETTERS.decode(tokens.target(i).tolist()) for i in range(20)] == [pair.target for pair in PAIRS]
    open_texts(tmp_path / "texts", "k", _refuse, CorpusReport("x"))


def test_another_key_makes_the_texts_again(tmp_path: Path) -> None:
    _texts(tmp_path / "t")
    store = _texts(tmp_path / "t", PAIRS[:3], key="other")
    assert len(store) == 3
    assert len(_texts(tmp_path / "t", PAIRS[:2], key="other")) == 3
    assert store.key == "other"


def test_an_interrupted_reading_leaves_what_was_there(tmp_path: Path) -> None:
    _texts(tmp_path / "t")

    def broken() -> Iterator[Pair]:
        yield PAIRS[0]
        raise DataError("line 2 is bad")

    with pytest.raises(DataError, match="line 2 is bad"):
        open_texts(tmp_path / "t", "new", broken, CorpusReport("x"))
    assert len(open_texts(tmp_path / "t", "k", _refuse, CorpusReport("x"))) == 20
    with pytest.raises(DataError):
        open_texts(tmp_path / "fresh", "new", broken, CorpusReport("x"))
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_tokens_lengths_texts_and_lines_belong_together(tmp_path: Path) -> None:
    texts = _texts(tmp_path / "t")
    rows = [5, 2, 19]
    tokens = _tokens(tmp_path / "k", texts, rows=rows)
    assert len(tokens) == 3
    for index, row in enumerate(rows):
        pair = PAIRS[row]
        assert (tokens.source_text(index), tokens.target_text(index)) == (pair.source, pair.target)
        assert tokens.line(index) == pair.line
        assert tokens.source(index).tolist() == LETTERS.encode(pair.source)
        assert tokens.target(index).tolist() == LETTERS.encode(pair.target)
        assert tokens.source(index).dtype == tokens.target(index).dtype == np.int32
    assert tokens.source_lengths.tolist() == [len(PAIRS[row].source) for row in rows]
    assert tokens.target_lengths.tolist() == [len(PAIRS[row].target) for row in rows]
    assert tokens.source_lengths.dtype == tokens.target_lengths.dtype == np.int32
    assert (tokens.max_source_tokens, tokens.max_target_tokens) == (256, 256)


def test_changing_what_was_handed_out_changes_nothing(tmp_path: Path) -> None:
    tokens = _tokens(tmp_path / "k", _texts(tmp_path / "t"))
    before = tokens.source(4).tolist()
    tokens.source(4)[:] = 0
    assert tokens.source(4).tolist() == before


def test_nothing_is_tokenised_twice_and_everything_that_matters_is_in_the_key(tmp_path: Path) -> None:
    texts = _texts(tmp_path / "t")
    counting = CountingTokenizer(LETTERS.vocabulary)
    first = _tokens(tmp_path / "k", texts, tokenizers=(counting, counting))
    assert counting.calls == 40
    again = _tokens(tmp_path / "k", texts, tokenizers=(counting, counting))
    assert counting.calls == 40
    assert len(again) == 20
    assert again.report == first.report
    assert [again.source(i).tolist() for i in range(20)] == [first.source(i).tolist() for i in range(20)]
    other = CharacterTokenizer([*LETTERS.vocabulary, "!"])
    changes = [
        dict(rows=range(19)),
        dict(rows=range(19, -1, -1)),
        dict(tokenizers=(LETTERS, other)),
        dict(tokenizers=(other, LETTERS)),
        dict(limits=(255, 256, 9.0)),
        dict(limits=(256, 255, 9.0)),
        dict(limits=(256, 256, 8.0)),
        dict(report=CorpusReport("dev", 20)),
        dict(texts=_texts(tmp_path / "u", key="other")),
    ]
    keys = [first.key]
    for change in changes:
        keys.append(_tokens(tmp_path / "k", **{"texts": texts, **change}).key)
    assert len(set(keys)) == len(keys)


def test_long_and_lopsided_pairs_are_dropped_at_the_limit_and_not_before(tmp_path: Path) -> None:
    lengths = [(3, 3), (4, 3), (3, 5), (2, 5), (3, 4), (2, 4), (4, 2), (1, 3), (3, 1), (4, 5)]
    pairs = [Pair("a" * source, "b" * target, line) for line, (source, target) in enumerate(lengths, start=11)]
    tokenizer = CharacterTokenizer(["a", "b"])
    report = CorpusReport("train", read=10)
    tokens = _tokens(
        tmp_path / "k",
        _texts(tmp_path / "t", pairs),
        tokenizers=(tokenizer, tokenizer),
        limits=(3, 4, 2.0),
        report=report,
    )
    assert report == CorpusReport("train", read=10)
    kept = list(zip(tokens.source_lengths.tolist(), tokens.target_lengths.tolist(), strict=True))
    assert kept == [(3, 3), (3, 4), (2, 4)]
    assert (tokens.report.count("too_long"), tokens.report.findings["too_long"].first_line) == (5, 12)
    assert (tokens.report.count("ratio"), tokens.report.findings["ratio"].first_line) == (2, 18)
    assert (tokens.report.read, tokens.report.kept) == (10, 3)


def test_a_text_without_tokens_is_dropped_as_empty(tmp_path: Path) -> None:
    tokenizer = SymbolTokenizer(["a"])
    pairs = [Pair("a", "a", 1), Pair(" ", "a", 2), Pair("a", " ", 3)]
    tokens = _tokens(tmp_path / "k", _texts(tmp_path / "t", pairs), tokenizers=(tokenizer, tokenizer))
    assert len(tokens) == 1
    assert (tokens.report.count("empty"), tokens.report.findings["empty"].first_line) == (2, 2)


def test_no_pairs_at_all(tmp_path: Path) -> None:
    texts = _texts(tmp_path / "t", [])
    tokens = _tokens(tmp_path / "k", texts)
    assert (len(texts), len(tokens), tokens.source_lengths.tolist()) == (0, 0, [])


@pytest.mark.parametrize(("size", "width"), [(65_536 - 4, 2), (65_537 - 4, 4)])
def test_numbers_take_two_bytes_where_they_fit(tmp_path: Path, size: int, width: int) -> None:
    vocabulary = [chr(0x10000 + number) for number in range(size)]
    tokenizer = CharacterTokenizer(vocabulary)
    text = vocabulary[0] + vocabulary[-1]
    tokens = _tokens(tmp_path / "k", _texts(tmp_path / "t", [Pair(text, text, 1)]), tokenizers=(tokenizer, tokenizer))
    assert (tmp_path / "k" / "source.bin").stat().st_size == 2 * width
    assert tokens.source(0).tolist() == [4, size + 3]
    assert tokens.target(0).tolist() == [4, size + 3]
    small = CharacterTokenizer([vocabulary[0], vocabulary[-1]])
    for tokenizers in ((small, tokenizer), (tokenizer, small)):
        tokens = _tokens(tmp_path / "k", tokens.texts, tokenizers=tokenizers)
        for reader, kind in zip((tokens.source, tokens.target), tokenizers, strict=True):
            assert reader(0).tolist() == kind.encode(text)


def test_the_tokens_are_mapped_not_read(tmp_path: Path) -> None:
    tokens = _tokens(tmp_path / "k", _texts(tmp_path / "t"))
    flat = tokens._sources._flat
    base = flat
    while not isinstance(base, np.memmap):
        base = base.base
    assert base.filename == tmp_path / "k" / "source.bin"
    assert not flat.flags.writeable


def test_progress_is_told_every_thousand_pairs(tmp_path: Path) -> None:
    pairs = [Pair("the", "die", line) for line in range(1, 2501)]
    heard: dict[str, list[int]] = {"read": [], "tokenise": []}
    texts = open_texts(tmp_path / "t", "k", lambda: pairs, CorpusReport("x"), heard["read"].append)
    _tokens(tmp_path / "k", texts, progress=heard["tokenise"].append)
    assert heard == {"read": [1000, 2000], "tokenise": [1000, 2000]}


def test_a_cache_key_is_the_same_for_equal_parts_only() -> None:
    parts: list[Any] = [["a"], ["a", "b"], ["ab"], [["a", "b"]], [{"x": 1, "y": 2}], [None]]
    assert cache_key({"x": 1, "y": 2}) == cache_key({"y": 2, "x": 1})
    for first, second in itertools.combinations(parts, 2):
        assert cache_key(*first) != cache_key(*second)
    assert json.dumps(cache_key("a")) == f'"{cache_key("a")}"'


def test_a_full_disk_is_said_to_be_one(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the texts fit in it, the line numbers do not."""
    pairs = [Pair("a", "b", line) for line in range(1000)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            _texts(tmp_path / "t", pairs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["source.bin", "source.ends.bin", "target.bin", "target.ends.bin", "rest"])
def test_a_cache_that_was_too_short_from_the_start_is_made_again(tmp_path: Path, name: str) -> None:
    """Its checksums are right: they were taken from the short files."""
    tokens = _tokens(tmp_path / "tokens", _texts(tmp_path / "texts"))
    for folder, rest in ((tmp_path / "texts", "lines.bin"), (tmp_path / "tokens", "rows.bin")):
        path = folder / (rest if name == "rest" else name)
        os.truncate(path, path.stat().st_size - 8)
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        meta["files"][path.name] = zlib.crc32(path.read_bytes())
        (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(AssertionError, match="read again"):
        open_texts(tmp_path / "texts", "k", _refuse, CorpusReport("x"))
    again = _tokens(tmp_path / "tokens", _texts(tmp_path / "texts"))
    assert [again.source(i).tolist() for i in range(20)] == [LETTERS.encode(pair.source) for pair in PAIRS]
    assert again.key == tokens.key


def test_the_place_of_a_corpus_is_for_sentences_and_no_part_of_the_key(tmp_path: Path) -> None:
    stores = []
    for place in ("here/a.tsv", "there/a.tsv"):
        report = CorpusReport("train", read=20, place=place)
        report.add("empty", 3)
        texts = open_texts(tmp_path / "t", "k", lambda: PAIRS, report)
        tokens = _tokens(tmp_path / "k", texts, report=texts.report)
        assert texts.report.first("empty") == tokens.report.first("empty") == f"{place}, line 3"
        stores.append(tokens)
    assert stores[0].key == stores[1].key
