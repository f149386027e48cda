from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import data_cases
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pellucid.data import lines
from pellucid.data.lines import byte_lines, check_file, file_digest, read_lines
from pellucid.errors import DataError, MissingExtraError


def _stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


@pytest.mark.parametrize("packing", data_cases.PACKERS)
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\ntwo", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"\xef\xbb\xbfone\ntwo\n", ["one", "two"]),
        (b"\n\n", ["", ""]),
        (b" one \n", [" one "]),
        (b"a\rb\r\r\n", ["a\rb\r"]),
        ("我爱中国\né\n".encode(), ["我爱中国", "é"]),
        ("a\u2028b\u2029c\u0085d\n\x0be\x0cf\x1cg\n".encode(), ["a\u2028b\u2029c\u0085d", "\x0be\x0cf\x1cg"]),
    ],
)
def test_lines_end_at_newlines_only_and_bom_and_crlf_vanish(
    tmp_path: Path, packing: str, content: bytes, expected: list[str]
) -> None:
    path = tmp_path / f"text{packing}"
    path.write_bytes(data_cases.PACKERS[packing](content))
    assert list(read_lines(path)) == expected
    assert list(read_lines(str(path))) == expected


def test_a_bom_is_removed_at_the_beginning_of_the_file_only(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("\ufeff\ufeffone\n\ufefftwo\n", encoding="utf-8")
    assert list(read_lines(path)) == ["\ufeffone", "\ufefftwo"]


@given(st.lists(st.text(st.characters(exclude_characters="\n\r\0\ufeff", codec="utf-8"), max_size=9), min_size=1))
def test_lines_survive_any_division_into_chunks(texts: list[str]) -> None:
    content = "\n".join(texts).encode() + b"\n"
    chunks = [[content[i : i + size] for i in range(0, len(content), size)] for size in (1, 2, 3, 1000)]
    for division in chunks:
        assert [line.decode() for line in lines._split(iter(division))] == texts


@pytest.mark.parametrize("packing", data_cases.PACKERS)
def test_files_longer_than_a_chunk(tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_CHUNK", 7)
    path = tmp_path / f"text{packing}"
    expected = [f"Zeile {number} äöü" for number in range(50)]
    path.write_bytes(data_cases.PACKERS[packing]("\n".join(expected).encode()))
    assert list(read_lines(path)) == expected


@pytest.mark.parametrize(("packing", "pack"), list(data_cases.PACKERS.items())[1:])
def test_packed_files_in_several_parts_are_read_to_the_end(tmp_path: Path, packing: str, pack) -> None:
    path = tmp_path / f"text{packing}"
    path.write_bytes(pack(b"one\ntw") + pack(b"o\nthree\n"))
    assert list(read_lines(path)) == ["one", "two", "three"]


@pytest.mark.parametrize(("packing", "pack"), list(data_cases.PACKERS.items())[1:])
@pytest.mark.parametrize("cut", [5, -1, -9])
def test_a_truncated_packed_file_is_an_error_and_not_a_shorter_text(
    tmp_path: Path, packing: str, pack, cut: int
) -> None:
    path = tmp_path / f"text{packing}"
    path.write_bytes(pack(b"one\ntwo\n" * 1000)[:cut])
    with pytest.raises(DataError, match=rf"^{path}: the {packing} file is truncated or damaged \(.+\): get it again$"):
        list(read_lines(path))


@pytest.mark.parametrize(("packing", "pack"), list(data_cases.PACKERS.items())[1:])
def test_a_damaged_packed_file_is_an_error(tmp_path: Path, packing: str, pack) -> None:
    content = bytearray(pack(os.urandom(3000)))
    content[len(content) // 2 : len(content) // 2 + 40] = b"\0" * 40
    path = tmp_path / f"text{packing}"
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"truncated or damaged|not UTF-8|binary"):
        list(read_lines(path))


@pytest.mark.parametrize("packing", [".gz", ".xz", ".zst"])
def test_a_name_that_does_not_fit_the_content(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"text{packing}"
    path.write_bytes(b"plain text\n")
    with pytest.raises(DataError, match=rf"the name ends in {packing} but the content is not of that format$"):
        list(read_lines(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"x"), "this looks like a gzip file: its name must end in .gz"),
        (zstandard.ZstdCompressor().compress(b"x"), "this looks like a Zstandard file: its name must end in .zst"),
        (lzma.compress(b"x"), "this looks like an xz file: its name must end in .xz"),
        (b"PK\x03\x04rest", "this looks like a zip archive: unpack it first"),
        (
            b"PAR1rest",
            "this looks like a Parquet file: give it as `path`, with a name that ends in .parquet",
        ),
        ("hällo\n".encode("utf-16"), "this looks like UTF-16 text: convert it to UTF-8 first"),
        (b"%PDF-1.7\n", "this looks like a PDF file, not plain text"),
        (b"abc\0def\n", "this is a binary file (it has NUL bytes), and UTF-8 text is needed here"),
        ("hello\n".encode("utf-16-le"), "this is a binary file (it has NUL bytes), and UTF-8 text is needed here"),
        (b"", "the file is empty"),
    ],
)
def test_files_that_are_not_text(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_lines(path))
    assert str(caught.value) == f"{path}: {message}"
    assert caught.value.path == path


@pytest.mark.parametrize("packing", [".gz", ".xz", ".zst"])
def test_an_empty_text_inside_a_packed_file_is_an_error_too(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"text{packing}"
    path.write_bytes(data_cases.PACKERS[packing](b""))
    with pytest.raises(DataError, match="the file is empty"):
        list(read_lines(path))


def test_missing_files_folders_and_unreadable_names(tmp_path: Path) -> None:
    (tmp_path / "train.en.gz").write_bytes(b"x")
    cases = {
        tmp_path: "this is a folder, and a file is needed here",
        tmp_path / "train.en": "no such file; did you mean train.en.gz?",
        tmp_path / "else": "no such file",
        tmp_path / "no" / "file": f"no such file (nor the folder {tmp_path / 'no'})",
        tmp_path / ("x" * 300): "the file cannot be read (File name too long)",
        tmp_path / "train.en.gz" / "inside": "the file cannot be read (Not a directory)",
    }
    for path, message in cases.items():
        for reader in (check_file, lambda path: list(read_lines(path)), file_digest):
            with pytest.raises(DataError) as caught:
                reader(path)
            assert str(caught.value) == f"{path}: {message}"


def test_a_line_that_is_not_utf8_names_file_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"fine\nbad: \xe9t\xe9\n")
    reader = read_lines(path)
    assert next(reader) == "fine"
    with pytest.raises(DataError) as caught:
        next(reader)
    assert str(caught.value) == (f"{path}, line 2: not UTF-8 (byte 6 of the line is 0xE9): convert the text to UTF-8")
    assert (caught.value.path, caught.value.line) == (path, 2)


def test_a_nul_far_into_the_file_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"fine\n" * 4000 + b"a\0b\n")
    with pytest.raises(DataError, match=rf"^{path}, line 4001: the line has a NUL character: remove it$"):
        list(read_lines(path))


def test_standard_input_is_read_like_a_file_and_may_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    _stdin(monkeypatch, "\ufeff我爱\r\n\nzwei".encode())
    assert list(read_lines("-")) == ["我爱", "", "zwei"]
    _stdin(monkeypatch, b"")
    assert list(read_lines("-")) == []
    _stdin(monkeypatch, b"ok\n\xff\n")
    with pytest.raises(DataError, match=r"^standard input, line 2: not UTF-8 \(byte 1 of the line is 0xFF\)"):
        list(read_lines("-"))


def test_standard_input_gives_a_line_as_soon_as_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as source, open(writing, "wb", buffering=0) as sink:
        monkeypatch.setattr(sys, "stdin", source)
        reader = read_lines("-")
        sink.write(b"one\ntw")
        assert next(reader) == "one"
        sink.write(b"o\n")
        assert next(reader) == "two"


def test_a_named_pipe_is_read_whole(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[str] = []
    # Daemons, because whoever opens a pipe a second time waits for ever.
    threads = [
        threading.Thread(target=lambda: pipe.write_bytes(b"one\ntwo\n"), daemon=True),
        threading.Thread(target=lambda: found.extend(read_lines(pipe)), daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert found == ["one", "two"]


def test_zstd_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text.zst"
    path.write_bytes(data_cases.PACKERS[".zst"](b"x\n"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pellucid\[zstd\]'"):
        list(read_lines(path))


def test_file_digest_is_sha256_of_the_bytes_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_CHUNK", 5)
    path = tmp_path / "text"
    path.write_bytes(b"0123456789abc")
    assert file_digest(path) == hashlib.sha256(b"0123456789abc").hexdigest()


@pytest.mark.parametrize("packing", [*data_cases.PACKERS, "stdin"])
@pytest.mark.parametrize("first", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_beyond_the_limit_is_cut_behind_it_and_the_next_is_whole(
    packing: str, first: bytes, end: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_CHUNK", 7)
    for size in range(9, 40):
        for filling in (b"x", b"\r"):
            content = first + filling * size + end + b"x" * 10 + end + b"last"
            if packing == "stdin":
                _stdin(monkeypatch, content)
                path: str | Path = "-"
            else:
                path = tmp_path / f"text{packing}"
                Path(path).write_bytes(data_cases.PACKERS[packing](content))
            found, *rest = byte_lines(path, 10)
            assert rest == [b"x" * 10, b"last"]
            whole = size - (filling + end == b"\r\n")  # the last of them belongs to the line's end
            assert len(found) == whole or 10 < len(found) < min(20, whole), (size, filling)


def test_one_huge_line_takes_little_memory() -> None:
    import tracemalloc

    def chunks() -> Iterator[bytes]:
        for _ in range(300):
            yield b"x" * (1 << 16)
        yield b"\nlast"

    tracemalloc.start()
    assert [len(line) for line in lines._split(chunks(), 1000)] == [1000, 4]
    assert tracemalloc.get_traced_memory()[1] < 1 << 19
    tracemalloc.stop()
