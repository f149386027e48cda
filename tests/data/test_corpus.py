from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import data_cases
import pyarrow
import pyarrow.parquet
import pytest

from pellucid.config import CorpusConfig
from pellucid.data.corpus import Pair, clean_pairs, corpus_digest, corpus_files, read_pairs
from pellucid.data.report import CorpusReport
from pellucid.errors import DataError, MissingExtraError

EXPECTED = [Pair("我爱中国", "I love China", 1), Pair("你好", "hello", 2)]


def _write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _parquet(path: Path, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def _read(corpus: CorpusConfig, dir: Path | None = None, **options: Any) -> list[Pair]:
    return list(read_pairs(corpus, dir, **options))


@pytest.mark.parametrize("packing", data_cases.PACKERS)
def test_two_aligned_files_in_every_packing(tmp_path: Path, packing: str) -> None:
    pack = data_cases.PACKERS[packing]
    _write(tmp_path / f"a.zh{packing}", pack("\ufeff我爱中国\r\n你好\r\n".encode()))
    _write(tmp_path / f"a.en{packing}", pack(b"I love China\nhello"))
    assert _read(CorpusConfig(source=f"a.zh{packing}", target=f"a.en{packing}"), tmp_path) == EXPECTED


@pytest.mark.parametrize("packing", data_cases.PACKERS)
def test_tsv_takes_its_columns_and_ignores_the_others(tmp_path: Path, packing: str) -> None:
    rows = "我爱中国\tI love China\tsome attribution\n你好\thello\n"
    _write(tmp_path / f"a.tsv{packing}", data_cases.PACKERS[packing](rows.encode()))
    assert _read(CorpusConfig(path=f"a.tsv{packing}"), tmp_path) == EXPECTED
    rows = "1\tI love China\tx\t我爱中国\n2\thello\ty\t你好\n"
    _write(tmp_path / f"b.TSV{packing}", data_cases.PACKERS[packing](rows.encode()))
    assert _read(CorpusConfig(path=f"b.TSV{packing}", source_column=3, target_column=1), tmp_path) == EXPECTED


@pytest.mark.parametrize("packing", data_cases.PACKERS)
def test_jsonl_with_objects_or_lists(tmp_path: Path, packing: str) -> None:
    objects = [{"en": "I love China", "zh": "我爱中国", "id": 7}, {"zh": "你好", "en": "hello"}]
    content = "\n".join(json.dumps(row) for row in objects).encode()
    _write(tmp_path / f"a.jsonl{packing}", data_cases.PACKERS[packing](content))
    keys = CorpusConfig(path=f"a.jsonl{packing}", source_column="zh", target_column="en")
    assert _read(keys, tmp_path) == EXPECTED
    _write(tmp_path / "list.jsonl", '["我爱中国", "I love China", 3]\n["你好", "hello"]\n')
    assert _read(CorpusConfig(path="list.jsonl"), tmp_path) == EXPECTED


def test_parquet_by_name_and_by_number(tmp_path: Path) -> None:
    _parquet(tmp_path / "a.parquet", id=[1, 2], zh=["我爱中国", "你好"], en=["I love China", "hello"])
    for source, target in (("zh", "en"), (1, 2)):
        corpus = CorpusConfig(path="a.parquet", source_column=source, target_column=target)
        assert _read(corpus, tmp_path) == EXPECTED


def test_parquet_over_many_batches_keeps_order_and_rows(tmp_path: Path) -> None:
    texts = [str(number) for number in range(10_000)]
    _parquet(tmp_path / "a.parquet", a=texts, b=texts[::-1])
    corpus = CorpusConfig(path="a.parquet", source_column="a", target_column="b")
    expected = [Pair(str(number), str(9999 - number), number + 1) for number in range(10_000)]
    assert _read(corpus, tmp_path) == expected


def test_parquet_with_one_column_twice_and_large_strings(tmp_path: Path) -> None:
    _parquet(tmp_path / "a.parquet", a=pyarrow.array(["x", "y"], pyarrow.large_string()))
    corpus = CorpusConfig(path="a.parquet", source_column="a", target_column="a")
    assert _read(corpus, tmp_path) == [Pair("x", "x", 1), Pair("y", "y", 2)]


def test_missing_values_are_empty_sides(tmp_path: Path) -> None:
    _parquet(tmp_path / "a.parquet", a=["x", None], b=[None, "y"])
    assert _read(CorpusConfig(path="a.parquet"), tmp_path) == [Pair("x", "", 1), Pair("", "y", 2)]
    _write(tmp_path / "a.jsonl", '["x", null]\n\n[null, "y"]\n')
    assert _read(CorpusConfig(path="a.jsonl"), tmp_path) == [Pair("x", "", 1), Pair("", "", 2), Pair("", "y", 3)]


def test_a_blank_line_in_tsv_is_an_empty_pair_and_not_a_bad_line(tmp_path: Path) -> None:
    _write(tmp_path / "a.tsv", "a\tb\n\n\t\nc\td\n")
    pairs = [Pair("a", "b", 1), Pair("", "", 2), Pair("", "", 3), Pair("c", "d", 4)]
    assert _read(CorpusConfig(path="a.tsv"), tmp_path) == pairs


def test_pairs_are_streamed(tmp_path: Path) -> None:
    _write(tmp_path / "a.tsv", b"good\tgut\n" + b"x\ty\n" * 9 + b"\xff\n")
    stream = read_pairs(CorpusConfig(path="a.tsv"), tmp_path)
    assert next(stream) == Pair("good", "gut", 1)
    with pytest.raises(DataError, match="line 11"):
        list(stream)


def test_standard_input_is_tsv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\tb\nc\n")))
    stream = read_pairs(CorpusConfig(path="-"))
    assert next(stream) == Pair("a", "b", 1)
    with pytest.raises(DataError, match=r"^standard input, line 2: 1 column, and column 1 "):
        next(stream)


def test_relative_paths_start_from_dir_and_absolute_ones_do_not(tmp_path: Path) -> None:
    absolute = tmp_path / "abs.en"
    corpus = CorpusConfig(source="sub/a.zh", target=str(absolute))
    assert corpus_files(corpus, tmp_path) == [tmp_path / "sub" / "a.zh", absolute]
    assert corpus_files(corpus) == [Path("sub/a.zh"), absolute]
    assert corpus_files(CorpusConfig(path="~/x.tsv"), "~/data") == [Path.home() / "x.tsv"]


@pytest.mark.parametrize(("source_lines", "target_lines"), [(3, 5), (5, 3), (1, 2)])
def test_unequal_line_counts_name_both_counts(tmp_path: Path, source_lines: int, target_lines: int) -> None:
    source = _write(tmp_path / "a", "x\n" * source_lines)
    target = _write(tmp_path / "b", "y\n" * target_lines)
    report = CorpusReport("train")
    with pytest.raises(DataError) as caught:
        _read(CorpusConfig(source="a", target="b"), tmp_path, report=report)
    assert str(caught.value) == (
        f"{source} has {source_lines} lines and {target} has {target_lines}: "
        "aligned files must have the same number of lines"
    )
    assert report.read == min(source_lines, target_lines)


BAD_LINES = {
    "bytes.tsv": (b"a\tb\nc\xff\td\ne\tf\n", "not UTF-8 (byte 2 of the line is 0xFF): convert the text to UTF-8"),
    "columns.tsv": (b"a\tb\ncd\ne\tf\n", "1 column, and column 1 (counted from 0) is needed: mend the line"),
    "json.jsonl": (b'["a","b"]\n["c","d"\n["e","f"]\n', "not JSON: mend the line"),
    "deep.jsonl": (b'["a","b"]\n' + b"[" * 100_000 + b'\n["e","f"]\n', "not JSON: mend the line"),
    "short.jsonl": (
        b'["a","b"]\n["c"]\n["e","f"]\n',
        "no 1 here, this is a list of 1: set source_column and target_column to its keys",
    ),
    "keys.jsonl": (
        b'["a","b"]\n{"zh":"c","en":"d"}\n["e","f"]\n',
        "no 0 here, this is an object with the keys zh, en: set source_column and target_column to its keys",
    ),
    "text.jsonl": (
        b'["a","b"]\n"c"\n["e","f"]\n',
        "no 0 here, this is no object or list (str): set source_column and target_column to its keys",
    ),
    "number.jsonl": (b'["a","b"]\n["c",5]\n["e","f"]\n', "1 is not text but int"),
    "surrogate.jsonl": (
        b'["a","b"]\n["c\\ud800","d"]\n["e","f"]\n',
        "0 holds half of a surrogate pair, which is not text",
    ),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_lines_are_errors_with_file_and_line_or_dropped_with_a_count(tmp_path: Path, name: str) -> None:
    content, message = BAD_LINES[name]
    path = _write(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        _read(CorpusConfig(path=name), tmp_path)
    assert str(caught.value) == f"{path}, line 2: {message}, or set data.on_bad_line to drop"
    assert (caught.value.path, caught.value.line) == (path, 2)

    report = CorpusReport("train")
    kept = _read(CorpusConfig(path=name), tmp_path, on_bad_line="drop", report=report)
    assert kept == [Pair("a", "b", 1), Pair("e", "f", 3)]
    assert (report.read, report.kept, report.count("bad_line")) == (3, 2, 1)
    assert report.findings["bad_line"].first_line == 2


def test_dropping_a_bad_line_of_one_file_keeps_the_files_aligned(tmp_path: Path) -> None:
    _write(tmp_path / "a", b"one\ntwo\xff\nthree\n")
    _write(tmp_path / "b", b"eins\nzwei\ndrei\n")
    report = CorpusReport("train")
    kept = _read(CorpusConfig(source="a", target="b"), tmp_path, on_bad_line="drop", report=report)
    assert kept == [Pair("one", "eins", 1), Pair("three", "drei", 3)]
    with pytest.raises(DataError, match=r"/a, line 2: not UTF-8"):
        _read(CorpusConfig(source="a", target="b"), tmp_path)
    with pytest.raises(DataError, match=r"/a, line 2: not UTF-8"):
        _read(CorpusConfig(source="b", target="a"), tmp_path)


def test_a_missing_file_is_an_error_whatever_the_policy_for_lines(tmp_path: Path) -> None:
    _write(tmp_path / "a", "x\n")
    with pytest.raises(DataError, match="/b: no such file"):
        _read(CorpusConfig(source="a", target="b"), tmp_path, on_bad_line="drop")


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.parquet.gz", "tsv", "a.tsv.bz2"])
def test_an_unknown_ending_says_which_are_known(tmp_path: Path, name: str) -> None:
    _write(tmp_path / name, "x\ty\n")
    with pytest.raises(
        DataError, match=r"must end in \.tsv or \.jsonl \(also with \.gz, \.zst or \.xz\), or in \.parq"
    ):
        _read(CorpusConfig(path=name), tmp_path)


def test_tsv_columns_are_numbers(tmp_path: Path) -> None:
    _write(tmp_path / "a.tsv", "x\ty\n")
    with pytest.raises(DataError, match=r"a\.tsv: the columns of a TSV file are numbers from 0, not 'zh'$"):
        _read(CorpusConfig(path="a.tsv", target_column="zh"), tmp_path, on_bad_line="drop")


def test_parquet_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _parquet(tmp_path / "a.parquet", a=["x"], n=[1])
    with pytest.raises(DataError, match=r"no column 'zh'; there are: a, n \(set source_column and target_column\)$"):
        _read(CorpusConfig(path="a.parquet", source_column="zh"), tmp_path)
    with pytest.raises(DataError, match=r"no column 2; there are: a, n"):
        _read(CorpusConfig(path="a.parquet", source_column=2), tmp_path)
    with pytest.raises(DataError, match=r"column 'n' is not text but int64$"):
        _read(CorpusConfig(path="a.parquet"), tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a\.parquet: not a whole Parquet file \(.+\)$"):
        _read(CorpusConfig(path="a.parquet"), tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pellucid\[parquet\]'"):
        _read(CorpusConfig(path="a.parquet"), tmp_path)


def test_line_breaks_inside_a_text_become_spaces_and_are_counted(tmp_path: Path) -> None:
    rows = [["a\nb", "c"], ["d", "e\r\nf\rg"], ["h\n", "\ni"], ["j", "k"]]
    _write(tmp_path / "a.jsonl", "\n".join(json.dumps(row) for row in rows))
    report = CorpusReport("train")
    pairs = list(clean_pairs(read_pairs(CorpusConfig(path="a.jsonl"), tmp_path, report=report), report))
    assert [(p.source, p.target) for p in pairs] == [("a b", "c"), ("d", "e f g"), ("h", "i"), ("j", "k")]
    assert (report.count("line_break"), report.findings["line_break"].first_line) == (2, 1)
    assert report.kept == 4


def test_cleaning_strips_and_drops_empty_sides_with_a_count() -> None:
    report = CorpusReport("train", read=5)
    raw = [Pair(" a\t", "\u3000b ", 1), Pair("", "x", 2), Pair("y", "  ", 3), Pair(" ", "", 4), Pair("c", "d", 5)]
    assert list(clean_pairs(iter(raw), report)) == [Pair("a", "b", 1), Pair("c", "d", 5)]
    assert (report.count("empty"), report.findings["empty"].first_line, report.kept) == (3, 2, 2)


def test_identical_sides_are_kept_and_counted_up_to_one_half() -> None:
    report = CorpusReport("train", read=4)
    raw = [Pair("a", "b", 1), Pair("Tom", " Tom", 2), Pair("c", "d", 3), Pair("42", "42", 4)]
    assert len(list(clean_pairs(iter(raw), report))) == 4
    assert (report.count("identical"), report.findings["identical"].first_line, report.kept) == (2, 2, 4)
    raw.append(Pair("OK", "OK", 5))
    with pytest.raises(DataError) as caught:
        list(clean_pairs(iter(raw), CorpusReport("train")))
    assert str(caught.value) == (
        "train: 3 of 5 pairs have the same text on both sides (first: line 2): "
        "probably one file or column was given twice"
    )


def test_the_digest_names_content_and_columns_and_not_the_place(tmp_path: Path) -> None:
    _write(tmp_path / "a.tsv", "x\ty\n")
    _write(tmp_path / "b.tsv", "x\ty\n")
    _write(tmp_path / "c.tsv", "x\tz\n")
    _write(tmp_path / "b.jsonl", "x\ty\n")
    digest = corpus_digest(CorpusConfig(path="a.tsv"), tmp_path)
    assert corpus_digest(CorpusConfig(path=str(tmp_path / "b.tsv"))) == digest
    assert corpus_digest(CorpusConfig(path="c.tsv"), tmp_path) != digest
    assert corpus_digest(CorpusConfig(path="b.jsonl"), tmp_path) != digest
    assert corpus_digest(CorpusConfig(path="a.tsv", target_column=0), tmp_path) != digest
    two = corpus_digest(CorpusConfig(source="a.tsv", target="c.tsv"), tmp_path)
    assert two != corpus_digest(CorpusConfig(source="c.tsv", target="a.tsv"), tmp_path)


def test_the_report_in_sentences_and_as_json() -> None:
    report = CorpusReport("train", read=12_000)
    for line in (3, 9, 12):
        report.add("empty", line)
    report.add("identical", 2)
    report.add("ratio", 77)
    report.add("leak", 5)
    assert report.kept == 11_996
    assert report.sentences() == [
        "train: 12,000 pairs read, 11,996 kept.",
        "train: dropped 3 pairs with an empty side (first: line 3).",
        "train: kept 1 pair whose two sides are the same text (first: line 2).",
        "train: dropped 1 pair whose sides differ in length by more than data.max_length_ratio (first: line 77).",
        "train: 1 pair also in the training corpus: scores on them flatter the model (first: line 5).",
    ]
    copy = CorpusReport.from_json(json.loads(json.dumps(report.to_json())))
    assert copy == report
    copy.add("empty", 1)
    assert (report.count("empty"), copy.count("empty"), copy.findings["empty"].first_line) == (3, 4, 3)
    assert report.count("bad_line") == 0


def _translations(path: Path, cells: list[Any]) -> Path:
    """A column as Hugging Face has it: a struct with a field for each language."""
    kind = pyarrow.struct([("de", pyarrow.string()), ("en", pyarrow.string())])
    return _parquet(path, id=list(range(len(cells))), translation=pyarrow.array(cells, kind))


def test_parquet_fields_of_a_struct_have_dotted_names(tmp_path: Path) -> None:
    _translations(tmp_path / "a.parquet", [{"de": "ja", "en": "yes"}, None, {"de": None, "en": "no"}])
    corpus = CorpusConfig(path="a.parquet", source_column="translation.en", target_column="translation.de")
    assert _read(corpus, tmp_path) == [Pair("yes", "ja", 1), Pair("", "", 2), Pair("no", "", 3)]
    for column, what in (
        ("translation", r"is a struct: name one of its fields, translation\.de or translation\.en$"),
        ("translation.fr", r"there are: id, translation\.de, translation\.en \(set"),
        ("id.x", r"there are: id, translation\.de, translation\.en \(set"),
        (1, r"column 'translation' is a struct: name one"),
    ):
        with pytest.raises(DataError, match=what):
            _read(CorpusConfig(path="a.parquet", source_column=column, target_column="translation.de"), tmp_path)
    pyarrow.parquet.write_table(pyarrow.table({"a.b": ["x"], "c": ["y"]}), tmp_path / "dot.parquet")
    dotted = CorpusConfig(path="dot.parquet", source_column="a.b", target_column="c")
    assert _read(dotted, tmp_path) == [Pair("x", "y", 1)]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pyarrow.array([["x"]], pyarrow.list_(pyarrow.string())), "list<"),
        (pyarrow.array([b"x"], pyarrow.binary()), "binary"),
        (pyarrow.array([1]).dictionary_encode(), "int64"),
    ],
)
def test_parquet_columns_that_only_sound_like_text(tmp_path: Path, column: Any, kind: str) -> None:
    _parquet(tmp_path / "a.parquet", a=column, b=["y"])
    with pytest.raises(DataError, match=f"column 'a' is not text but {kind}"):
        _read(CorpusConfig(path="a.parquet", source_column="a", target_column="b"), tmp_path)


def test_parquet_dictionaries_of_strings_are_text(tmp_path: Path) -> None:
    _parquet(tmp_path / "a.parquet", a=pyarrow.array(["x", None, "x"]).dictionary_encode(), b=["1", "2", "3"])
    assert _read(CorpusConfig(path="a.parquet"), tmp_path) == [Pair("x", "1", 1), Pair("", "2", 2), Pair("x", "3", 3)]


def test_parquet_text_that_is_not_utf8_is_a_bad_line(tmp_path: Path) -> None:
    bad = pyarrow.Array.from_buffers(
        pyarrow.string(), 3, pyarrow.array([b"a", b"b\xff", b"c"], pyarrow.binary()).buffers()
    )
    path = _parquet(tmp_path / "a.parquet", a=bad, b=["x", "y", "z"])
    with pytest.raises(DataError, match=r"a\.parquet, line 2: not UTF-8 .* set data\.on_bad_line to drop$") as caught:
        _read(CorpusConfig(path="a.parquet"), tmp_path)
    assert (caught.value.path, caught.value.line) == (path, 2)
    report = CorpusReport("train")
    kept = _read(CorpusConfig(path="a.parquet"), tmp_path, on_bad_line="drop", report=report)
    assert (kept, report.count("bad_line")) == ([Pair("a", "x", 1), Pair("c", "z", 3)], 1)


def test_the_sentences_name_the_file() -> None:
    report = CorpusReport("train", read=5, place="text/train.zh")
    report.add("empty", 7)
    assert report.sentences()[1] == "train: dropped 1 pair with an empty side (first: text/train.zh, line 7)."
    assert CorpusReport.from_json(report.to_json(), "moved/train.zh").first("empty") == "moved/train.zh, line 7"
    raw = [Pair("OK", "OK", 5)]
    with pytest.raises(DataError, match=r"\(first: text/train\.zh, line 5\)"):
        list(clean_pairs(iter(raw), CorpusReport("train", place="text/train.zh")))
