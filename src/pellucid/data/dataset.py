"""Text and token numbers on disk, memory-mapped and found again by content.

Knows nothing of batches, and needs numpy only. Two kinds of folder:

- texts (:class:`TextStore`): both sides of the cleaned pairs as UTF-8, with offsets and line numbers;
- tokens (:class:`TokenDataset`): token numbers of some of those pairs, with offsets.

A folder is written beside its place and renamed when whole; ``meta.json`` holds the key (what the content was made
from) and each file's CRC-32, so that a folder with another key, or half-written, or damaged, is made again.
"""

from __future__ import annotations

import array
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.data.corpus import Pair
from pellucid.data.report import CorpusReport
from pellucid.data.tagging import tagged
from pellucid.data.text import TextRules
from pellucid.data.tokenizer_kinds import Tokenizer, framed
from pellucid.files import recover_folder, replace_folder, write_json

__all__ = ["TextStore", "TokenDataset", "cache_key", "open_texts", "open_tokens"]

_FORMAT = 1  # part of every key: a new layout makes old caches strangers
_CHUNK = 1 << 22
_NUMBER = np.dtype(np.int64)  # as in array.array("q")
Progress = Callable[[int], None]


def cache_key(*parts: Any) -> str:
    """A name for content made from ``parts`` (JSON values), in hexadecimal."""
    return hashlib.sha256(json.dumps([_FORMAT, *parts], sort_keys=True).encode()).hexdigest()


class TextStore:
    """Cleaned pairs on disk: ``len()``, ``source(i)``, ``target(i)``, ``line(i)``, ``report``."""

    def __init__(self, folder: Path, meta: dict[str, Any], place: str = "") -> None:
        self._sources = _Blob(folder, "source", meta, np.dtype(np.uint8))
        self._targets = _Blob(folder, "target", meta, np.dtype(np.uint8))
        self._lines = _map(folder / "lines.bin", np.dtype(np.int64), meta["pairs"])
        self.key: str = meta["key"]
        self._report: dict[str, Any] = meta["report"]
        self._place = place

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def report(self) -> CorpusReport:
        """What was found while reading; a copy of its own each time."""
        return CorpusReport.from_json(self._report, self._place)

    def source(self, index: int) -> str:
        """The source text of a pair."""
        return self._sources[index].tobytes().decode("utf-8")

    def target(self, index: int) -> str:
        """The target text of a pair."""
        return self._targets[index].tobytes().decode("utf-8")

    def line(self, index: int) -> int:
        """The line of the corpus that a pair comes from."""
        return int(self._lines[index])


class TokenDataset:
    """Token numbers of pairs, mapped from disk.

    Attributes:
        source_lengths, target_lengths: [pairs] int32, tokens without <s> and </s>, language codes included.
        max_source_tokens, max_target_tokens: the limits that were applied.
        texts: where the pairs' texts are.
        rules: what was done to the texts in front of the tokenizers.
        tag: what stands in front of every source, a token of its own that is counted; empty: nothing.
        report: what was found and dropped, from reading to tokenising.
    """

    def __init__(
        self,
        folder: Path,
        meta: dict[str, Any],
        texts: TextStore,
        place: str = "",
        rules: TextRules | None = None,
        tag: str = "",
    ) -> None:
        self.tag = tag
        self._sources = _Blob(folder, "source", meta, np.dtype(meta["source_dtype"]))
        self._targets = _Blob(folder, "target", meta, np.dtype(meta["target_dtype"]))
        self._rows = _map(folder / "rows.bin", np.dtype(np.int64), meta["pairs"])
        self.texts = texts
        self.rules = rules or TextRules()
        self.source_lengths = self._sources.lengths()
        self.target_lengths = self._targets.lengths()
        self.max_source_tokens: int = meta["max_source_tokens"]
        self.max_target_tokens: int = meta["max_target_tokens"]
        self.key: str = meta["key"]
        self.report = CorpusReport.from_json(meta["report"], place)

    def __len__(self) -> int:
        return len(self._rows)

    def source(self, index: int) -> np.ndarray:
        """[tokens] int32, without <s> and </s>."""
        return self._sources[index].astype(np.int32)

    def target(self, index: int) -> np.ndarray:
        """[tokens] int32, without <s> and </s>."""
        return self._targets[index].astype(np.int32)

    def source_text(self, index: int) -> str:
        """The text that :meth:`source` was made from, as it is in the corpus."""
        return self.texts.source(int(self._rows[index]))

    def target_text(self, index: int) -> str:
        """The text that :meth:`target` was made from, as it is in the corpus."""
        return self.texts.target(int(self._rows[index]))

    def read_pair(self, index: int) -> tuple[str, str]:
        """Both texts as the tokenizers got them."""
        return self.rules.read_pair(self.source_text(index), self.target_text(index))

    def line(self, index: int) -> int:
        """The line of the corpus that a pair comes from."""
        return self.texts.line(int(self._rows[index]))

    def place(self, index: int) -> str:
        """File and line that a pair comes from."""
        line = f"line {self.line(index):,}"
        return f"{self.report.place}, {line}" if self.report.place else line

    def tag_of(self, index: int) -> str:
        """What stands in front of a pair's source; empty: nothing."""
        return self.tag

    def rows_of_epoch(self, seed: int, epoch: int) -> np.ndarray:
        """The numbers of the pairs that an epoch has, in any order: each once."""
        return np.arange(len(self))


def open_texts(
    folder: Path, key: str, pairs: Callable[[], Iterable[Pair]], report: CorpusReport, progress: Progress | None = None
) -> TextStore:
    """The texts stored in ``folder`` under ``key``; read from ``pairs()`` and stored if they are not there.

    ``report`` is what reading ``pairs()`` fills; it is stored with the texts.
    """
    meta = _read_meta(folder, key)
    if meta is None:
        with replace_folder(folder) as temporary:
            with _Writer(temporary, "source") as sources, _Writer(temporary, "target") as targets:
                lines = array.array("q")
                for pair in pairs():
                    sources.add(pair.source.encode())
                    targets.add(pair.target.encode())
                    lines.append(pair.line)
                    if progress is not None and len(lines) % 1000 == 0:
                        progress(len(lines))
            _write_numbers(temporary / "lines.bin", memoryview(lines))
            meta = {"key": key, "pairs": len(lines), "report": report.to_json()}
            _write_meta(temporary, meta)
    return TextStore(folder, meta, report.place)


def open_tokens(
    folder: Path,
    texts: TextStore,
    rows: Sequence[int] | np.ndarray,
    tokenizers: tuple[Tokenizer, Tokenizer],
    limits: tuple[int, int, float],
    report: CorpusReport,
    progress: Progress | None = None,
    rules: TextRules | None = None,
    tag: str = "",
) -> TokenDataset:
    """The tokens of some rows of ``texts``; tokenised and stored in ``folder`` if they are not there.

    Args:
        rows: indices into ``texts``, in the order the data set shall have.
        limits: most source tokens, most target tokens, largest ratio of the two; pairs beyond are dropped and counted.
        report: of these rows so far; what is dropped is added to a copy, which the data set has.
        rules: what to do to the texts first; default nothing.
        tag: a piece of the source vocabulary to put in front of every source.

    Raises:
        TokenizerError: the vocabulary has no such piece.
    """
    rows = np.asarray(rows, dtype=np.int64)
    prints = [tokenizer.fingerprint for tokenizer in tokenizers]
    made_from = ["tokens", texts.key, hashlib.sha256(rows.tobytes()).hexdigest(), prints, limits, report.to_json()]
    before = replace(rules, tags=()) if rules else rules  # which tags there are besides changes no token
    key = cache_key(*made_from, *([before.to_json()] if before else []), *([["tag", tag]] if tag else []))
    tokenizers = tagged(tokenizers[0], tag), tokenizers[1]
    meta = _read_meta(folder, key)
    if meta is None:
        with replace_folder(folder) as temporary:
            counted = CorpusReport.from_json(report.to_json())
            meta = {"key": key, **_tokenise(temporary, texts, rows, tokenizers, limits, counted, progress, rules)}
            _write_meta(temporary, meta)
    return TokenDataset(folder, meta, texts, report.place, rules, tag)


def _tokenise(
    folder: Path,
    texts: TextStore,
    rows: np.ndarray,
    tokenizers: tuple[Tokenizer, Tokenizer],
    limits: tuple[int, int, float],
    report: CorpusReport,
    progress: Progress | None,
    rules: TextRules | None,
) -> dict[str, Any]:
    rules = rules or TextRules()
    dtypes = [np.dtype(np.uint16 if t.vocab_size <= 1 << 16 else np.int32) for t in tokenizers]
    kept = array.array("q")
    with _Writer(folder, "source", dtypes[0]) as sources, _Writer(folder, "target", dtypes[1]) as targets:
        for done, row in enumerate(map(int, rows), start=1):
            pair = rules.read_pair(texts.source(row), texts.target(row))
            source, target = tokenizers[0].encode(pair[0]), tokenizers[1].encode(pair[1])
            if progress is not None and done % 1000 == 0:
                progress(done)
            if not source or not target:  # normalisation can leave nothing of, say, a lone zero-width space
                report.add("empty", texts.line(row))
                continue
            source, target = framed(tokenizers[0], source), framed(tokenizers[1], target)
            if len(source) > limits[0] or len(target) > limits[1]:
                report.add("too_long", texts.line(row))
            elif max(len(source), len(target)) > limits[2] * min(len(source), len(target)):
                report.add("ratio", texts.line(row))
            else:
                sources.add(np.asarray(source, dtype=dtypes[0]).tobytes())
                targets.add(np.asarray(target, dtype=dtypes[1]).tobytes())
                kept.append(row)
    _write_numbers(folder / "rows.bin", memoryview(kept))
    return {
        "pairs": len(kept),
        "source_dtype": dtypes[0].str,
        "target_dtype": dtypes[1].str,
        "max_source_tokens": limits[0],
        "max_target_tokens": limits[1],
        "report": report.to_json(),
    }


class _Writer:
    """Appends items to ``{name}.bin`` and writes their ends to ``{name}.ends.bin``."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any] | None = None) -> None:
        self._file = (folder / f"{name}.bin").open("wb")
        self._ends_path = folder / f"{name}.ends.bin"
        self._size = 1 if dtype is None else dtype.itemsize
        self._end = 0
        self._ends = array.array("q")

    def add(self, item: bytes) -> None:
        self._file.write(item)
        self._end += len(item) // self._size
        self._ends.append(self._end)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        _write_numbers(self._ends_path, memoryview(self._ends))


class _Blob:
    """Items of different lengths, one after another in a mapped file."""

    def __init__(self, folder: Path, name: str, meta: dict[str, Any], dtype: np.dtype[Any]) -> None:
        self._ends = _map(folder / f"{name}.ends.bin", np.dtype(np.int64), meta["pairs"])
        self._flat = _map(folder / f"{name}.bin", dtype, int(self._ends[-1]) if len(self._ends) else 0)

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self._ends):
            raise IndexError(f"no pair {index}: there are {len(self._ends)}")
        return self._flat[int(self._ends[index - 1]) if index else 0 : int(self._ends[index])]

    def lengths(self) -> np.ndarray:
        return np.diff(self._ends, prepend=0).astype(np.int32)


def _map(path: Path, dtype: np.dtype[Any], length: int) -> np.ndarray:
    if not length:  # an empty file cannot be mapped
        return np.empty(0, dtype=dtype)
    # A plain view: np.memmap's own slicing is several times slower.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=(length,)))


def _write_numbers(path: Path, numbers: memoryview) -> None:
    # Not numpy's tofile: where the disk is full, its error does not say so, or there is none and the file is short.
    with path.open("wb") as file:
        file.write(numbers)


def _write_meta(folder: Path, meta: dict[str, Any]) -> None:
    files = {path.name: _checksum(path) for path in sorted(folder.glob("*.bin"))}
    write_json(folder / "meta.json", {**meta, "files": files})


def _read_meta(folder: Path, key: str) -> dict[str, Any] | None:
    """The meta data of a whole, undamaged folder made for ``key``; None if it has to be made."""
    recover_folder(folder)
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["key"] != key:
            return None
        if any(_checksum(folder / name) != checksum for name, checksum in meta["files"].items()):
            return None
        if not all(_has_size(folder, name, meta) for name in meta["files"]):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return meta


def _has_size(folder: Path, name: str, meta: dict[str, Any]) -> bool:
    """Whether a file is as long as the number of pairs says; a checksum says only that it is as it was written."""
    side = name.removesuffix(".bin")
    expected = int(meta["pairs"]) * _NUMBER.itemsize
    if side in ("source", "target"):
        ends = _map(folder / f"{side}.ends.bin", _NUMBER, meta["pairs"])
        expected = int(ends[-1]) * np.dtype(meta.get(f"{side}_dtype", np.uint8)).itemsize if len(ends) else 0
    return (folder / name).stat().st_size == expected


def _checksum(path: Path) -> int:
    checksum = 0
    for chunk in _file_chunks(path):
        checksum = zlib.crc32(chunk, checksum)
    return checksum


def _file_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
