"""Parallel text in: two aligned files, or one TSV, JSONL or Parquet file, one pair at a time.

Knows nothing of tokens. What is wrong with a line is either an error with file and line or dropped with a count
(``data.on_bad_line``); what is wrong with a file is always an error.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pellucid.config import CorpusConfig
from pellucid.data.lines import STDIN, byte_lines, check_file, decode_line, file_digest, read_lines
from pellucid.data.report import CorpusReport
from pellucid.errors import DataError, MissingExtraError

__all__ = ["Pair", "clean_pairs", "corpus_digest", "corpus_files", "read_lines", "read_pairs"]

Policy = Literal["error", "drop"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence and its counterpart, and the 1-based line (row, for Parquet) they come from."""

    source: str
    target: str
    line: int


def corpus_files(corpus: CorpusConfig, dir: str | Path | None = None) -> list[Path]:
    """The files of a corpus: [source, target] or [path]; relative ones start from ``dir``."""
    names = [corpus.path] if corpus.path is not None else [corpus.source, corpus.target]
    base = Path() if dir is None else Path(dir).expanduser()
    return [Path(STDIN) if name == STDIN else base / Path(str(name)).expanduser() for name in names]


def corpus_digest(corpus: CorpusConfig, dir: str | Path | None = None) -> str:
    """Names the content of a corpus: endings and SHA-256 of its files, and the columns that are read."""
    files = [("".join(path.suffixes[-2:]), file_digest(path)) for path in corpus_files(corpus, dir)]
    return json.dumps([files, corpus.source_column, corpus.target_column])


def read_pairs(
    corpus: CorpusConfig,
    dir: str | Path | None = None,
    on_bad_line: Policy = "error",
    report: CorpusReport | None = None,
) -> Iterator[Pair]:
    """Stream the pairs of a corpus as they are in the files (nothing is cleaned but line ends and byte order mark).

    Args:
        corpus: where the text is; ``path: "-"`` is TSV on standard input.
        dir: folder that relative paths start from.
        on_bad_line: ``error`` or ``drop``, for lines that are not UTF-8, have too few columns or are not JSON.
        report: counts what was read and dropped.

    Raises:
        DataError: a file is missing, a folder, empty, binary, truncated; unequal line counts; a bad line.
        MissingExtraError: Parquet without pyarrow, .zst without zstandard.
    """
    report = CorpusReport("corpus") if report is None else report
    files = corpus_files(corpus, dir)
    for path in files:
        if str(path) != STDIN:
            check_file(path)
    rows = _aligned(files) if len(files) == 2 else _one_file(files[0], corpus, report)
    for line, parse in rows:
        report.read += 1
        try:
            source, target = parse()
        except DataError as error:
            if on_bad_line == "error":
                raise _with_hint(error) from None
            report.add("bad_line", line)
            continue
        yield Pair(source, target, line)


def _with_hint(error: DataError) -> DataError:
    hinted = DataError(f"{error}, or set data.on_bad_line to drop")
    hinted.path, hinted.line = error.path, error.line
    return hinted


def clean_pairs(pairs: Iterator[Pair], report: CorpusReport) -> Iterator[Pair]:
    """Strip white space at both ends, drop pairs with an empty side, count identical sides.

    Identical sides are kept, because names, numbers and addresses are the same in many languages.

    Raises:
        DataError: more than half of the pairs have identical sides (after the last pair).
    """
    kept = 0
    for pair in pairs:
        source, target = pair.source.strip(), pair.target.strip()
        if not source or not target:
            report.add("empty", pair.line)
            continue
        if source == target:
            report.add("identical", pair.line)
        kept += 1
        yield Pair(source, target, pair.line)
    if 2 * report.count("identical") > kept:
        raise DataError(
            f"{report.name}: {report.count('identical'):,} of {kept:,} pairs have the same text on both sides "
            f"(first: {report.first('identical')}): probably one file or column was given twice"
        )


Row = tuple[int, Callable[[], tuple[str, str]]]


def _aligned(files: list[Path]) -> Iterator[Row]:
    source_path, target_path = files
    sources, targets = byte_lines(source_path), byte_lines(target_path)
    for line in itertools.count(1):
        source, target = next(sources, None), next(targets, None)
        if source is None and target is None:
            return
        if source is None or target is None:
            shorter = line - 1
            longer = line + sum(1 for _ in (targets if source is None else sources))
            counts = (shorter, longer) if source is None else (longer, shorter)
            raise DataError(
                f"{source_path} has {counts[0]:,} lines and {target_path} has {counts[1]:,}: "
                "aligned files must have the same number of lines"
            )
        yield line, _decoder(source, target, source_path, target_path, line)


def _decoder(
    source: bytes, target: bytes, source_path: Path, target_path: Path, line: int
) -> Callable[[], tuple[str, str]]:
    return lambda: (decode_line(source, source_path, line), decode_line(target, target_path, line))


def _one_file(path: Path, corpus: CorpusConfig, report: CorpusReport) -> Iterator[Row]:
    if str(path) == STDIN:
        return _tsv(path, corpus)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] in (".gz", ".zst", ".xz")
    kind = (suffixes[:-1] if packed else suffixes)[-1:]
    if kind == [".tsv"]:
        return _tsv(path, corpus)
    if kind == [".jsonl"]:
        return _jsonl(path, corpus, report)
    if kind == [".parquet"] and not packed:
        return _parquet(path, corpus, report)
    raise DataError(
        "a corpus in one file must end in .tsv or .jsonl (also with .gz, .zst or .xz), or in .parquet", path=path
    )


def _tsv(path: Path, corpus: CorpusConfig) -> Iterator[Row]:
    columns: list[int] = []
    for column in (corpus.source_column, corpus.target_column):
        if not isinstance(column, int):
            raise DataError(f"the columns of a TSV file are numbers from 0, not {column!r}", path=path)
        columns.append(column)

    def parse(raw: bytes, line: int) -> tuple[str, str]:
        text = decode_line(raw, path, line)
        if not text.strip():
            return "", ""
        cells = text.split("\t")
        if len(cells) <= max(columns):
            raise DataError(
                f"{_count(len(cells), 'column')}, and column {max(columns)} (counted from 0) is needed: mend the line",
                path="standard input" if str(path) == STDIN else path,
                line=line,
            )
        return cells[columns[0]], cells[columns[1]]

    return ((line, _bound(parse, raw, line)) for line, raw in enumerate(byte_lines(path), start=1))


def _jsonl(path: Path, corpus: CorpusConfig, report: CorpusReport) -> Iterator[Row]:
    keys = (corpus.source_column, corpus.target_column)

    def parse(raw: bytes, line: int) -> tuple[str, str]:
        text = decode_line(raw, path, line)
        if not text.strip():
            return "", ""
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            raise DataError("not JSON: mend the line", path=path, line=line) from None
        cells = [_json_cell(row, key, path, line) for key in keys]
        return _without_breaks(cells[0], cells[1], line, report)

    return ((line, _bound(parse, raw, line)) for line, raw in enumerate(byte_lines(path), start=1))


def _json_cell(row: Any, key: str | int, path: Path, line: int) -> str:
    if isinstance(row, dict):
        known = key in row
        has = f"an object with the keys {', '.join(map(str, row))}"
    elif isinstance(row, list):
        known = isinstance(key, int) and key < len(row)
        has = f"a list of {len(row)}"
    else:
        known, has = False, f"no object or list ({type(row).__name__})"
    if not known:
        raise DataError(
            f"no {key!r} here, this is {has}: set source_column and target_column to its keys", path=path, line=line
        )
    value = row[key]
    if value is None:
        return ""
    try:
        if isinstance(value, str):
            value.encode()
            return value
    except UnicodeEncodeError:
        raise DataError(f"{key!r} holds half of a surrogate pair, which is not text", path=path, line=line) from None
    raise DataError(f"{key!r} is not text but {type(value).__name__}", path=path, line=line)


def _parquet(path: Path, corpus: CorpusConfig, report: CorpusReport) -> Iterator[Row]:
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtraError("parquet", f"reading {path}") from None
    keys = (corpus.source_column, corpus.target_column)

    def parse(source: bytes, target: bytes, line: int) -> tuple[str, str]:
        return _without_breaks(decode_line(source, path, line), decode_line(target, path, line), line, report)

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            fields = [_parquet_field(file.schema_arrow, column, path) for column in keys]
            line = 0
            for batch in file.iter_batches(batch_size=4096, columns=[".".join(names) for names in fields]):
                sides = [_parquet_bytes(batch, names) for names in fields]
                for source, target in zip(*sides, strict=True):
                    line += 1
                    yield line, _bound_cells(parse, source or b"", target or b"", line)
    except (pyarrow.ArrowException, OSError) as error:
        detail = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"not a whole Parquet file ({detail})", path=path) from None


def _parquet_field(schema: Any, column: str | int, path: Path) -> list[str]:
    """The names that lead to a column with text: its own, or, where it is inside a struct, the struct's before it."""
    if isinstance(column, int) and column < len(schema.names):
        column = schema.names[column]
    kinds = dict(zip(schema.names, schema.types, strict=True))
    text = str(column)
    names = [text] if text in kinds else text.split(".")
    kind = kinds.get(names[0])
    for name in names[1:]:
        kind = _struct_fields(kind).get(name)
    if isinstance(column, int) or kind is None:
        known = [leaf for name, found in kinds.items() for leaf in _leaves(name, found)]
        raise DataError(
            f"no column {column!r}; there are: {', '.join(known)} (set source_column and target_column)", path=path
        )
    if _struct_fields(kind):
        raise DataError(
            f"column {column!r} is a struct: name one of its fields, {' or '.join(_leaves(text, kind))}", path=path
        )
    if not _is_text(kind):
        raise DataError(f"column {column!r} is not text but {kind}", path=path)
    return names


def _struct_fields(kind: Any) -> dict[str, Any]:
    """The types of a struct's fields by name; empty for any other type."""
    import pyarrow.types  # type: ignore[import-untyped]

    return {field.name: field.type for field in kind} if kind is not None and pyarrow.types.is_struct(kind) else {}


def _leaves(name: str, kind: Any) -> list[str]:
    fields = _struct_fields(kind)
    return [leaf for field in fields for leaf in _leaves(f"{name}.{field}", fields[field])] if fields else [name]


def _is_text(kind: Any) -> bool:
    import pyarrow.types

    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _parquet_bytes(batch: Any, names: list[str]) -> list[bytes | None]:
    """The cells as bytes: pyarrow does not check that what a file calls a string is UTF-8."""
    import pyarrow
    import pyarrow.compute  # type: ignore[import-untyped]

    cells = batch.column(names[0])
    for name in names[1:]:
        cells = pyarrow.compute.struct_field(cells, name)
    if pyarrow.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    found: list[bytes | None] = cells.cast(pyarrow.large_binary()).to_pylist()
    return found


def _bound(parse: Callable[[bytes, int], tuple[str, str]], raw: bytes, line: int) -> Callable[[], tuple[str, str]]:
    return lambda: parse(raw, line)


def _bound_cells(
    parse: Callable[[bytes, bytes, int], tuple[str, str]], source: bytes, target: bytes, line: int
) -> Callable[[], tuple[str, str]]:
    return lambda: parse(source, target, line)


def _without_breaks(source: str, target: str, line: int, report: CorpusReport) -> tuple[str, str]:
    """JSON and Parquet can hold line breaks; the translator's output is one line per text, so they become spaces."""
    sides = [" ".join(text.replace("\r\n", "\n").replace("\r", "\n").split("\n")) for text in (source, target)]
    if [source, target] != sides and ("\n" in source.strip() or "\n" in target.strip()):
        report.add("line_break", line)
    return sides[0], sides[1]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
