"""Results in a file that a later process can go on with, line by line; or on stdout, where nobody can.

While results are being written they are in ``FILE.part``. ``FILE.part.json``, the journal, says how many lines of
input are done, how many bytes of the part they are, and of which model, settings and input. The part is on the disk
before the journal that counts it, and whoever goes on cuts the part to what the journal says: no kill can lose, repeat
or tear a line that was counted. When all is done the part becomes ``FILE``, and, for those who resume, the journal
``FILE.done.json``: it proves what the file was made by and of. Knows nothing of how results are made.
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
from dataclasses import asdict, dataclass, field, replace
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
COMPUTING = ("engine", "precision")
"""What of an identity is about neither model nor settings, but about what computes."""


@dataclass(frozen=True, slots=True)
class Journal:
    """What ``FILE.part.json`` and ``FILE.done.json`` say.

    Attributes:
        lines: input lines that are done.
        size: of the part, in bytes, that they have become.
        input: SHA-256 of those lines.
        identity: of the model and of every setting that decides about the results.
        notes: what the command wants to know again.
        finished: nothing is missing but the renaming.
        output: SHA-256 of the whole file, when it is finished.
    """

    lines: int = 0
    size: int = 0
    input: str = ""
    identity: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    finished: bool = False
    output: str = ""

    @classmethod
    def read(cls, path: Path) -> Journal | None:
        """What the file says; None where there is none, or it cannot be read."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**values["journal"]) if values["version"] == VERSION else None
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True, slots=True)
class _Done:
    """How far a sink has come: one value, so that no interruption finds one half of it new and the other old.

    Attributes:
        lines, size, notes: as in :class:`Journal`.
        digest: of the lines; copied, never fed, once it is here.
    """

    lines: int
    size: int
    notes: Mapping[str, Any]
    digest: Any


class Sink:
    """Where results go; by itself a stream that takes lines as they come and knows no resuming.

    Attributes:
        lines: input lines that an earlier process has done.
        notes: what it noted.
        finished: whether it has done all of them; known behind :meth:`begin`.
        shown: whether a person sees the results appear.
    """

    def __init__(self, file: Any = None) -> None:
        self._file = file
        self.lines = 0
        self.notes: Mapping[str, Any] = {}
        self.finished = False
        self.shown = file is not None and file.isatty()

    def begin(self, identity: Callable[[], dict[str, Any]], lines: Iterator[Line]) -> None:
        """Make ready to write, and pass over the lines that are done; where all are, see that they are these.

        Args:
            identity: computes what must be equal to go on.
            lines: the input, from its beginning.

        Raises:
            ConfigError: what is there was made with another model, with other settings, or of other input.
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
    """A file in the making, with its journal; or one that is finished, of which nothing is touched.

    Args:
        place: of the file.
        resume: whether to go on with what is there.

    Attributes:
        proved: the file is there, as a run has finished it; which one, :meth:`begin` sees.

    Raises:
        DataError: what is there is in the way.
    """

    def __init__(self, place: Path, resume: bool) -> None:
        super().__init__()
        self.place, self.resume = place, resume
        self.part = place.with_name(f"{place.name}.part")
        self.journal_file = place.with_name(f"{place.name}.part.json")
        self.done_file = place.with_name(f"{place.name}.done.json")
        self._descriptor = -1
        self._created = self._begun = False
        self._journal, self.proved = Journal(), False
        while not self._open():
            pass
        self.lines, self.notes = self._journal.lines, self._journal.notes
        self._done = self._saved = _Done(self.lines, self._journal.size, self.notes, hashlib.sha256())
        self._saved_at = time.monotonic()

    def _open(self) -> bool:
        """Find the part, or a proof that there is no need of one; False where another process has just moved it."""
        try:
            self._descriptor, self._created = os.open(self.part, os.O_RDWR), False
        except FileNotFoundError:
            # Without a part there is nothing to go on with, whatever the journal says: who deleted it wants it so.
            if self.resume and (proof := self._proof()) is not None:
                self._journal, self.proved = proof, True
                return True
            try:
                self._descriptor = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                return False
            self._created = True
        kept = False
        try:
            self._lock()
            # Only what is read behind the lock is true: until then another process may have gone on, or finished.
            if self._created and self.resume and _size(self.place):
                self.part.unlink()
            elif self._is_part():
                if not self._created:
                    self._journal = self._claimed()
                kept = True
        finally:
            if not kept:
                os.close(self._descriptor)
        return kept

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError("another process is writing this file", path=self.part) from None

    def _is_part(self) -> bool:
        """Whether what is open still has the name that it was opened by."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self.part))
        except OSError:
            return False

    def _proof(self) -> Journal | None:
        """The journal of the finished file; None where there is no file, or an empty one that nothing is known of.

        Raises:
            DataError: there is a file, and nobody knows what has made it.
        """
        if not self.place.is_file():
            return None
        output = ""
        for path in (self.journal_file, self.done_file):
            journal = Journal.read(path)
            if journal is not None and journal.finished and journal.size == _size(self.place):
                output = output or _sha256(self.place)
                if journal.output == output:
                    return journal
        if _size(self.place):
            raise DataError(
                f"in the way: no {self.done_file.name} beside it, which a run with --resume leaves, proves that it is "
                "this translation, finished; leave --resume out to replace it, or rename or delete it",
                path=self.place,
            )
        return None

    def _claimed(self) -> Journal:
        """What to go on with; refuses to touch what cannot be gone on with, or what nobody has asked to go on with."""
        size, written = os.fstat(self._descriptor).st_size, Journal.read(self.journal_file)
        if not size and (written is None or not written.lines):
            return Journal()
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
        return written

    def begin(self, identity: Callable[[], dict[str, Any]], lines: Iterator[Line]) -> None:
        known = identity()
        self._compare(known)
        digest, count = hashlib.sha256(), 0
        for line in itertools.islice(lines, self.lines):
            _feed(digest, line)
            count += 1
        same = not self.lines or (count, digest.hexdigest()) == (self.lines, self._journal.input)
        if self.proved:
            if not same or next(lines, None) is not None:
                raise ConfigError(f"{self.place} was made of another input: leave --resume out to make it anew")
            self._keep_proof()
            self.finished = True
            return
        if not same:
            raise ConfigError(
                f"{self.part}: the first {self.lines:,} lines of the input are not those it was begun with: "
                f"give that input, or delete {self.part.name} to start again"
            )
        self._journal = replace(self._journal, identity=known, finished=False, output="")
        self._done = replace(self._done, digest=digest)
        self._begun = True
        os.ftruncate(self._descriptor, self._done.size)
        os.lseek(self._descriptor, 0, os.SEEK_END)
        self._save(self._journal)

    def _compare(self, known: Mapping[str, Any]) -> None:
        begun = self._journal.identity
        differing = [name for name in dict.fromkeys((*begun, *known)) if begun.get(name) != known.get(name)]
        if "engine" not in begun:  # an earlier version's
            differing = [name for name in differing if name not in COMPUTING]
        if not set(COMPUTING).isdisjoint(differing):  # each knows a model by other numbers
            differing = [name for name in differing if name != "model"]
        other = [
            f"{name} ({_shown(begun.get(name))} → {_shown(known.get(name))})" if name != "model" else "the model"
            for name in differing
        ]
        if not begun or not other:
            return
        if self.proved:
            raise ConfigError(
                f"{self.place} was made with other settings: {', '.join(other)}; "
                "give those it was made with, or leave --resume out to make it anew"
            )
        raise ConfigError(
            f"{self.part} was begun with other settings, and would be two things in one file: {', '.join(other)}; "
            f"give those it was begun with, or delete {self.part.name} to start again"
        )

    def add(self, rows: Sequence[str], lines: Sequence[Line], notes: Mapping[str, Any]) -> None:
        size = self._done.size + self._write(rows)
        digest = self._done.digest.copy()
        for line in lines:
            _feed(digest, line)
        self._done = _Done(self._done.lines + len(lines), size, dict(notes), digest)
        if time.monotonic() - self._saved_at >= JOURNAL_SECONDS:
            self._save(self._journal)

    def add_last(self, rows: Sequence[str]) -> None:
        self._write(rows)

    def _write(self, rows: Sequence[str]) -> int:
        content = "".join(row + "\n" for row in rows).encode()
        left = memoryview(content)
        while left:
            left = left[os.write(self._descriptor, left) :]
        return len(content)

    def _save(self, journal: Journal) -> None:
        """Write the journal with what is done, the part first."""
        done = self._done
        os.fsync(self._descriptor)
        input_digest = done.digest.hexdigest()
        _write_journal(
            replace(journal, lines=done.lines, size=done.size, input=input_digest, notes=done.notes), self.journal_file
        )
        self._saved, self._saved_at = done, time.monotonic()

    def _keep_proof(self) -> None:
        """Give the proof the name that it keeps, where a kill has come before that."""
        if Journal.read(self.journal_file) == self._journal:
            _write_journal(self._journal, self.done_file)
            self.journal_file.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the file its name."""
        if self.proved:
            return
        self._save(replace(self._journal, finished=True, output=_sha256(self.part)))
        if not self.resume:
            self.done_file.unlink(missing_ok=True)  # of the file that is replaced
        replace_file(self.part, self.place)
        if self.resume:
            replace_file(self.journal_file, self.done_file)
        else:
            self.journal_file.unlink()
        os.close(self._descriptor)

    def leave(self) -> None:
        """Keep what can be gone on with, and say so; keep nothing where there is nothing."""
        if self.proved:
            return
        if self._is_part():  # else it is finished already, and the journal says so
            self._leave_part()
        with suppress(OSError):
            os.close(self._descriptor)  # last: whoever waits for the lock must not find what is about to go

    def _leave_part(self) -> None:
        with suppress(OSError):
            if self._begun and self._saved is not self._done:
                self._save(self._journal)
        _temporary(self.journal_file).unlink(missing_ok=True)
        if not os.fstat(self._descriptor).st_size and not self._done.lines:
            if self._begun or not self._created:
                self.journal_file.unlink(missing_ok=True)
            self.part.unlink(missing_ok=True)
        elif self._begun:
            again = "the same command" if self.resume else "the same command with --resume"
            behind = f"; {again} goes on behind line {self._done.lines:,}"
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
    try:
        if resume and not sink.lines and not sink.proved:
            PlainReporter().line(f"{name}: nothing to go on with, starting at the beginning")
        yield sink
        sink.finish()
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        sink.leave()
        raise


def model_fingerprint(translator: Any) -> str:
    """SHA-256 of all that a model is: architecture, weights, tokenizers, and what is done to text around them."""
    from pellucid.native_translator import NativeTranslator

    if isinstance(translator, NativeTranslator):
        return translator.fingerprint()
    import torch

    digest = hashlib.sha256(json.dumps(translator.model.config.model_dump(mode="json"), sort_keys=True).encode())
    for name, parameter in sorted(translator.model.named_parameters()):
        numbers = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(memoryview(numbers.numpy()))
    for tokenizer in (translator.source_tokenizer, translator.target_tokenizer):
        digest.update(tokenizer.fingerprint.encode())
    digest.update(json.dumps(translator.rules.to_json(), sort_keys=True).encode())
    return digest.hexdigest()


def _feed(digest: Any, line: Line) -> None:
    digest.update(line.raw + b"\n")


def _size(path: Path) -> int:
    """Of a file, in bytes; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _write_journal(journal: Journal, path: Path) -> None:
    values = {"version": VERSION, "journal": asdict(journal)}
    _temporary(path).write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    replace_file(_temporary(path), path)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
