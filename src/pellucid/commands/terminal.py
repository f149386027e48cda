"""What goes to the person and what goes to the next program: progress on stderr, results on stdout or in a file.

Knows nothing of models or training.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pellucid.errors import DataError
from pellucid.files import atomic_file

__all__ = ["Pace", "PlainReporter", "one_line", "open_output", "open_reporter", "to_json"]

# JSON escapes line feeds and other control characters; these three it leaves, and some readers of lines break at them.
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}


def one_line(text: str) -> str:
    """``text`` with a space for everything that any reader may take for the end of a line."""
    return " ".join(text.splitlines())


def to_json(value: Any, indent: int | None = None) -> str:
    """``value`` as JSON; on one line, whatever its texts hold, unless ``indent`` is given."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent).translate(_ESCAPES)


class PlainReporter:
    """Lines on stderr, for logs and pipes: no bar, nothing that is overwritten."""

    def line(self, text: str) -> None:
        """Write a line."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    def progress(self, task: str, done: int, total: int) -> None:
        """Nothing: the lines say enough."""


class _RichReporter:
    """Lines that stay, above a progress bar with the time left."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._task: str | None = None
        self._number: Any = None

    def line(self, text: str) -> None:
        """Write a line above the bar."""
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def progress(self, task: str, done: int, total: int) -> None:
        """Move the bar of ``task``; a new task's bar takes the place of the old one's."""
        if total and done >= total:
            self.close()
        elif task != self._task:
            self.close()
            # Starting at `done` keeps what an earlier process did out of the speed that the time left is guessed by.
            self._task, self._number = task, self._bars.add_task(task, total=total or None, completed=done)
            self._bars.start()
        else:
            self._bars.update(self._number, completed=done)

    def close(self) -> None:
        """Take the bar away; the terminal is then free for others."""
        if self._task is not None:
            self._bars.stop()
            self._bars.remove_task(self._number)
            self._task = None


class Pace:
    """How far a long piece of work is and how fast it goes: a bar on a terminal, a line now and then in a log.

    Args:
        reporter: where it is said.
        done: lines done before.
        sentences: sentences in them.
        total: lines there are; 0 where that is not known.
        quiet: whether a log is to have no lines.
    """

    every = 10.0
    """Seconds between two lines of a log; work that takes no longer has none."""

    def __init__(
        self, reporter: PlainReporter | _RichReporter, done: int, sentences: int, total: int, quiet: bool
    ) -> None:
        self._reporter, self._total = reporter, total
        self._first = self._done = done
        self._sentences = self._before = sentences
        self._quiet = quiet
        self._logs = isinstance(reporter, PlainReporter) and not quiet
        self._start = self._said = time.monotonic()
        reporter.progress("translating", done, total)

    def update(self, done: int, sentences: int) -> None:
        """Lines and sentences done in all."""
        self._done, self._sentences = done, sentences
        self._reporter.progress("translating", done, self._total)
        now = time.monotonic()
        if self._logs and now - self._said >= self.every and done != self._total:
            self._said = now
            self._reporter.line(f"translating: {self._place()}, {self._speed(now)}{self._left(now)}")

    def end(self) -> bool:
        """Say how fast it was, and give True, if it was long enough for anybody to have waited."""
        now = time.monotonic()
        was_long = now - self._start >= self.every and not self._quiet
        if was_long:
            lines = self._done - self._first
            self._reporter.line(f"translated {lines:,} lines in {_clock(now - self._start)}, {self._speed(now)}")
        return was_long

    def _place(self) -> str:
        if not self._total:
            return f"{self._done:,} lines"
        return f"{self._done:,} of {self._total:,} lines ({100 * self._done // self._total} %)"

    def _speed(self, now: float) -> str:
        return f"{(self._sentences - self._before) / max(now - self._start, 1e-9):,.1f} sentences/s"

    def _left(self, now: float) -> str:
        done = self._done - self._first
        if not self._total or not done:
            return ""
        return f", {_clock((now - self._start) / done * max(0, self._total - self._done))} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def open_reporter(wanted: bool = True) -> Iterator[PlainReporter | _RichReporter]:
    """A reporter: bars where they are wanted and stderr is a terminal, plain lines otherwise."""
    if not wanted or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield PlainReporter()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        """Of late, a second."""

        def render(self, task: Any) -> Any:
            return Text(f"{task.speed:,.1f}/s" if task.speed else "")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bars = Progress(
        *columns,
        console=Console(stderr=True, emoji=False),
        refresh_per_second=4,
        transient=True,
        # What others write to stdout is theirs; by default it would come out on stderr.
        redirect_stdout=False,
        redirect_stderr=False,
    )
    reporter = _RichReporter(bars)
    try:
        yield reporter
    finally:
        reporter.close()


@contextmanager
def open_output(name: str | None) -> Iterator[TextIO]:
    """Where results go: stdout, or a file that appears under its name when all of it is written.

    After Ctrl-C or an error, what was written so far is kept beside it, with ``.part`` behind the name.

    Args:
        name: a path; None and ``-`` are stdout.

    Raises:
        DataError: the path cannot be a file; found on entry, before anything is computed.
    """
    if name in (None, "-"):
        yield sys.stdout
        return
    path = Path(str(name))
    if path.is_dir():
        raise DataError("this is a folder, and a file is to be written here", path=path)
    if not path.parent.is_dir():
        raise DataError(f"cannot be written: there is no folder {path.parent}", path=path)
    if path.exists() and not path.is_file():  # a pipe or a device: to be written to, not to be replaced
        with path.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        return
    # A link stays a link: what it points to is replaced.
    place = path.resolve()
    with atomic_file(place) as temporary:
        try:
            file = temporary.open("w", encoding="utf-8", newline="\n")
        except OSError as error:
            raise DataError(f"cannot be written ({error.strerror})", path=path) from None
        try:
            with file:
                yield file
        except BaseException:
            if temporary.stat().st_size:
                part = place.with_name(f"{place.name}.part")
                os.replace(temporary, part)
                PlainReporter().line(f"what was written so far is in {part}")
            raise
