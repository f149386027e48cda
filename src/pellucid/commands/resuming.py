"""Results in a file that a later process can go on with, line by line; or on stdout, where nobody can.

While results are being written they are in ``FILE.part``. ``FILE.part.json``, the journal, says how many lines of
input are done, how many bytes of the part they are, and of which model, settings and input. The part is on the disk
before the journal that counts it, and whoever goes on cuts the part to what the journal says: no kill can lose, repeat
or tear a line that was counted. When all is done the part becomes ``FILE``. Knows nothing of how results are made.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pellucid.commands.reading import Line
from pellucid.commands.terminal import PlainReporter
from pellucid.errors import ConfigError, DataError
from pellucid.files import replace_file

__all__ = ["JOURNAL_SECONDS", "Sink", "model_fingerprint", "open_sink"]

JOURNAL_SECONDS = 1.0
"""Results of this long a time, or of one window if that takes longer, may have to be computed again after a kill."""

VERSION = 1


@dataclass(slots=True)
class Journal:
    """What ``FILE.part.json`` says.

    Attributes:
        lines: input lines that are done.
        size: of the part, in bytes, that they have become.
        input: SHA-256 of those lines.
        identity: of the model and of every setting that decides about the results.
        notes: what the command wants to know again.
        finished: nothing is missing but the renaming.
    """

    lines: int = 0
    size: int = 0
    input: str = ""
    identity: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    finished: bool = False


class Sink:
    """Where results go; by itself a stream that takes lines as they come and knows no resuming.

    Attributes:
        lines: input lines that an earlier process has done.
        notes: what it noted.
        finished: whether it has done all of them.
        shown: whether a person sees the results appear.
    """

    def __init__(self, file: Any = None) -> None:
        self._file = file
        self.lines = 0
        self.notes: dict[str, Any] = {}
        self.finished = False
        self.shown = file is not None and file.isatty()

    def begin(self, identity: Callable[[], dict[str, Any]], lines: Iterator[Line]) -> None:
        """Make ready to write, and pass over the lines that are done.

        Args:
            identity: computes what must be equal to go on.
            lines: the input, from its beginning.

        Raises:
            ConfigError: what was begun was begun with another model, with other settings, or of other input.
        """

    def add(self, rows: Sequence[str], lines: Sequence[Line], notes: Mapping[str, Any]) -> None:
        """Write the results of the next input lines."""
        self.add_last(rows)

    def add_last(self, rows: Sequence[str]) -> None:
        """Write results before an error: they are for who reads the file, and computed again by who goes on."""
        assert self._file is not None
        self._file.writelines(row + "\n" for row in rows)
        self._file.flush()


class PartSink(Sink):
    """A file in the making, with its journal."""

    def __init__(self, place: Path, resume: bool) -> None:
        super().__init__()
        self.place, self.resume = place, resume
        self.part = place.with_name(f"{place.name}.part")
        self.journal_file = place.with_name(f"{place.name}.part.json")
        self.journal = Journal()
        self._digest = hashlib.sha256()
        self._saved = time.monotonic()
        self._unsaved = self._begun = False
        written = self._journal()
        if not self.part.exists():
            # Without a part there is nothing to go on with, whatever the journal says: who deleted it wants it so.
            named = self.place.is_file() and (self.place.stat().st_size > 0 or (written or self.journal).finished)
            if resume and named:
                self.finished = True
                self.journal_file.unlink(missing_ok=True)
                return
            written = None
        self._descriptor = os.open(self.part, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._claim(written)
        except BaseException:
            os.close(self._descriptor)
            raise
        if resume and written is not None:
            self.journal = written
        self.lines, self.notes = self.journal.lines, self.journal.notes

    def _journal(self) -> Journal | None:
        """What the journal says, if it can be read."""
        try:
            values = json.loads(self.journal_file.read_text(encoding="utf-8"))
            return Journal(**values["journal"]) if values["version"] == VERSION else None
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def _claim(self, written: Journal | None) -> None:
        """Refuse to touch what another process writes, and what nobody has asked to go on with."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError("another process is writing this file", path=self.part) from None
        size = os.fstat(self._descriptor).st_size
        if not size and (written is None or not written.lines):
            return
        if written is None or written.size > size:
            raise DataError(
                f"in the way, and cannot be gone on with: {self.journal_file.name} beside it is missing, damaged or "
                "of another file; rename or delete it to start again",
                path=self.part,
            )
        if not self.resume:
            raise DataError(
                f"an interrupted run has left this, with the first {written.lines:,} lines of its input done: "
                "add --resume to go on with it, or rename or delete it to start again",
                path=self.part,
            )

    def begin(self, identity: Callable[[], dict[str, Any]], lines: Iterator[Line]) -> None:
        known = identity()
        begun = self.journal.identity
        if begun:
            self._compare(begun, known)
        for line in itertools.islice(lines, self.lines):
            self._count(line)
        if self.lines and self._digest.hexdigest() != self.journal.input:
            raise ConfigError(
                f"{self.part}: the first {self.lines:,} lines of the input are not those it was begun with: "
                f"give that input, or delete {self.part.name} to start again"
            )
        self.journal.identity, self.journal.finished = known, False
        self._begun = True
        os.ftruncate(self._descriptor, self.journal.size)
        os.lseek(self._descriptor, 0, os.SEEK_END)
        self._save()

    def _compare(self, begun: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        other = [
            f"{name} ({_shown(begun.get(name))} → {_shown(known.get(name))})" if name != "model" else "the model"
            for name in dict.fromkeys((*begun, *known))
            if begun.get(name) != known.get(name)
        ]
        if other:
            raise ConfigError(
                f"{self.part} was begun with other settings, and would be two things in one file: {', '.join(other)}; "
                f"give those it was begun with, or delete {self.part.name} to start again"
            )

    def add(self, rows: Sequence[str], lines: Sequence[Line], notes: Mapping[str, Any]) -> None:
        written = self._write(rows)
        for line in lines:
            self._count(line)
        self.journal.lines += len(lines)
        self.journal.size += written
        self.journal.notes = dict(notes)
        self._unsaved = True
        if time.monotonic() - self._saved >= JOURNAL_SECONDS:
            self._save()

    def add_last(self, rows: Sequence[str]) -> None:
        self._write(rows)

    def _write(self, rows: Sequence[str]) -> int:
        content = "".join(row + "\n" for row in rows).encode()
        left = memoryview(content)
        while left:
            left = left[os.write(self._descriptor, left) :]
        return len(content)

    def _count(self, line: Line) -> None:
        self._digest.update(line.raw + b"\n")

    def _save(self) -> None:
        """Write the journal, the part first."""
        self.journal.input = self._digest.hexdigest()
        os.fsync(self._descriptor)
        temporary = self.journal_file.with_name(f".{self.journal_file.name}.tmp")
        values = {"version": VERSION, "journal": asdict(self.journal)}
        temporary.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        replace_file(temporary, self.journal_file)
        self._saved, self._unsaved = time.monotonic(), False

    def finish(self) -> None:
        """Give the file its name."""
        self.journal.finished = True
        self._save()
        replace_file(self.part, self.place)
        self.journal_file.unlink()
        os.close(self._descriptor)

    def leave(self) -> None:
        """Keep what can be gone on with, and say so; keep nothing where there is nothing."""
        with suppress(OSError):
            if self._begun and self._unsaved:
                self._save()
        size = os.fstat(self._descriptor).st_size
        os.close(self._descriptor)
        self.journal_file.with_name(f".{self.journal_file.name}.tmp").unlink(missing_ok=True)
        if not size and not self.journal.lines:
            self.part.unlink(missing_ok=True)
            self.journal_file.unlink(missing_ok=True)
        elif self._begun:
            again = "the same command" if self.resume else "the same command with --resume"
            behind = f"; {again} goes on behind line {self.journal.lines:,}"
            PlainReporter().line(f"what was written so far is in {self.part}{behind}")


@contextmanager
def open_sink(name: str | None, resume: bool, source: str | None = None) -> Iterator[Sink]:
    """Where results go: stdout, or a file that appears under its name when all of it is written.

    Args:
        name: a path; None and ``-`` are stdout.
        resume: go on with what an interrupted process has left.
        source: the file that is read.

    Raises:
        ConfigError: nothing that could be gone on with can ever be there.
        DataError: the path cannot be a file, or the remains of another run are in the way; found on entry, before
            anything is computed.
    """
    path = Path(name or "-")
    if name in (None, "-") or (path.exists() and not path.is_file() and not path.is_dir()):
        if resume:
            raise ConfigError("--resume needs a file to go on with: give --output FILE")
        if name in (None, "-"):
            yield Sink(sys.stdout)
            return
        with path.open("w", encoding="utf-8", newline="\n") as file:  # a pipe or a device: not to be replaced
            yield Sink(file)
        return
    if path.is_dir():
        raise DataError("this is a folder, and a file is to be written here", path=path)
    if not path.parent.is_dir():
        raise DataError(f"cannot be written: there is no folder {path.parent}", path=path)
    place = path.resolve()  # a link stays a link: what it points to is replaced
    if resume and source is not None and place.exists() and Path(source).exists() and place.samefile(source):
        raise ConfigError(f"{name}: --resume cannot tell the text from its translation where both have one name")
    try:
        sink = PartSink(place, resume)
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror})", path=path) from None
    if sink.finished:
        yield sink
        return
    if resume and not sink.lines:
        PlainReporter().line(f"{name}: nothing to go on with, starting at the beginning")
    try:
        yield sink
        sink.finish()
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        sink.leave()
        raise


def model_fingerprint(translator: Any) -> str:
    """SHA-256 of all that a model is: architecture, weights, tokenizers."""
    import torch

    digest = hashlib.sha256(json.dumps(translator.model.config.model_dump(mode="json"), sort_keys=True).encode())
    for name, parameter in sorted(translator.model.named_parameters()):
        numbers = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(memoryview(numbers.numpy()))
    for tokenizer in (translator.source_tokenizer, translator.target_tokenizer):
        digest.update(tokenizer.fingerprint.encode())
    return digest.hexdigest()


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
