r"""Text files as a stream of lines: plain, .gz, .zst, .xz, or standard input; and clear errors for bad files.

Knows nothing of pairs or tokens. Lines end at ``\n`` or ``\r\n`` and nowhere else: ``str.splitlines`` would split at
U+2028, U+000B and others, too, and two aligned files would drift apart.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import io
import lzma
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from pellucid.errors import DataError, MissingExtraError

__all__ = ["STDIN", "byte_lines", "check_file", "decode_line", "file_digest", "read_lines"]

STDIN = "-"
_CHUNK = 1 << 20
_COMPRESSED = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd", ".xz": b"\xfd7zXZ\x00"}
_MAGIC = {
    b"\x1f\x8b": "a gzip file: its name must end in .gz",
    b"\x28\xb5\x2f\xfd": "a Zstandard file: its name must end in .zst",
    b"\xfd7zXZ\x00": "an xz file: its name must end in .xz",
    b"BZh91AY&SY": "a bzip2 file: unpack it first",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"PAR1": "a Parquet file: give it as `path`, with a name that ends in .parquet",
    b"\xff\xfe": "UTF-16 text: convert it to UTF-8 first",
    b"\xfe\xff": "UTF-16 text: convert it to UTF-8 first",
    b"%PDF-": "a PDF file, not plain text",
    b"\x89PNG": "a PNG image, not text",
    b"\x7fELF": "a program, not text",
}
_BOM = b"\xef\xbb\xbf"


def read_lines(path: str | Path) -> Iterator[str]:
    """Lines of a UTF-8 file (``-``: of standard input), without line ends and byte order mark.

    Raises:
        DataError: no such file, a folder, empty, binary, truncated, or a line that is not UTF-8 (with file and line).
            Standard input may be empty.
    """
    for number, line in enumerate(byte_lines(path), start=1):
        yield decode_line(line, path, number)


def decode_line(line: bytes, path: str | Path, number: int) -> str:
    """``line`` as text; a :class:`DataError` naming file, line and byte if it is not UTF-8 or has a NUL."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 (byte {error.start + 1} of the line is 0x{line[error.start]:02X}): convert the text to UTF-8",
            path=_name(path),
            line=number,
        ) from None
    if "\0" in text:
        raise DataError("the line has a NUL character: remove it", path=_name(path), line=number)
    return text


def byte_lines(path: str | Path, limit: int | None = None) -> Iterator[bytes]:
    """Lines as bytes, without line ends and without the byte order mark of the first; errors of the file as above.

    With a ``limit``, a line with more bytes is cut a few bytes behind it and the rest is passed over: it is still seen
    to be too long, and takes no more memory than that.
    """
    most = None if limit is None else limit + len(_BOM + b"\r\n")
    # Standard input line by line, not by chunks: whoever types or pipes slowly gets an answer to each line.
    lines = _stdin_lines(most) if str(path) == STDIN else _split(_checked_chunks(Path(path)), most)
    for number, line in enumerate(lines):
        if number == 0:
            line = line.removeprefix(_BOM)
        yield line.removesuffix(b"\r")


def _stdin_lines(most: int | None) -> Iterator[bytes]:
    if most is None:
        for line in sys.stdin.buffer:
            yield line.removesuffix(b"\n")
        return
    while line := sys.stdin.buffer.readline(most):
        yield line.removesuffix(b"\n")
        while line and not line.endswith(b"\n"):
            line = sys.stdin.buffer.readline(_CHUNK)


def check_file(path: Path) -> None:
    """Raise a :class:`DataError` unless ``path`` is a file that can be opened and has at least one byte, or a pipe."""
    try:
        if path.is_dir():
            raise DataError("this is a folder, and a file is needed here", path=path)
        if path.exists() and not path.is_file():
            return  # a pipe, e.g. from the shell's <(…): what is read from it to look is gone
        with path.open("rb") as file:
            if not file.read(1):
                raise DataError("the file is empty", path=path)
    except FileNotFoundError:
        raise DataError(f"no such file{_nearest(path)}", path=path) from None
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror})", path=path) from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as they are on disk, in hexadecimal."""
    check_file(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _checked_chunks(path: Path) -> Iterator[bytes]:
    check_file(path)
    first = True
    try:
        for chunk in _chunks(path):
            if first and chunk:
                _refuse_binary(chunk, path)
                first = False
            yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"the {path.suffix} file is truncated or damaged ({str(error).rstrip('.')}): get it again", path=path
        ) from None
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror or error})", path=path) from None
    if first:
        raise DataError("the file is empty", path=path)


def _chunks(path: Path) -> Iterator[bytes]:
    """The file's content, unpacked, about a mebibyte at a time."""
    suffix = path.suffix.lower()
    if suffix in _COMPRESSED:
        with path.open("rb") as raw:
            head = raw.read(8)
        if not _COMPRESSED[suffix].startswith(head[: len(_COMPRESSED[suffix])]):
            raise DataError(f"the name ends in {suffix} but the content is not of that format", path=path)
    if suffix == ".zst":
        yield from _zstd_chunks(path)
        return
    if suffix == ".gz":
        with gzip.open(path, "rb") as packed:
            yield from _blocks(packed)
    elif suffix == ".xz":
        with lzma.open(path, "rb") as packed:
            yield from _blocks(packed)
    else:
        with path.open("rb") as file:
            yield from _blocks(file)


def _blocks(file: io.BufferedIOBase) -> Iterator[bytes]:
    while block := file.read(_CHUNK):
        yield block


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise MissingExtraError("zstd", f"reading {path}") from None
    # Not stream_reader: it ends silently where a frame is cut off.
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    fresh = True
    with path.open("rb") as raw:
        while chunk := raw.read(_CHUNK):
            while chunk:
                try:
                    yield unpacker.decompress(chunk)
                except zstandard.ZstdError as error:
                    raise zlib.error(str(error)) from None
                fresh, chunk = unpacker.eof, unpacker.unused_data
                if unpacker.eof:
                    unpacker = zstandard.ZstdDecompressor().decompressobj()
    if not fresh:
        raise EOFError("the last frame has no end")


def _split(chunks: Iterator[bytes], most: int | None = None) -> Iterator[bytes]:
    # The parts of an unfinished line are joined once, so that one huge line stays linear in time.
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        head, *tail = chunk.split(b"\n")
        if most is None or size < most:
            parts.append(head)
            size += len(head)
        if tail:
            yield b"".join(parts)[:most]
            for line in tail[:-1]:
                yield line[:most]
            parts, size = [tail[-1]], len(tail[-1])
    if last := b"".join(parts):
        yield last[:most]


def _refuse_binary(head: bytes, path: Path) -> None:
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"this looks like {what}", path=path)
    if b"\0" in head[:8192]:
        raise DataError("this is a binary file (it has NUL bytes), and UTF-8 text is needed here", path=path)


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor the folder {path.parent})"
    near = difflib.get_close_matches(path.name, sorted(entry.name for entry in path.parent.iterdir()), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _name(path: str | Path) -> str | Path:
    return "standard input" if str(path) == STDIN else path
