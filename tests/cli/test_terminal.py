"""Progress on a terminal, plain lines elsewhere; results on one line each."""

from __future__ import annotations

import io
import json
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from pellucid.commands.terminal import Pace, PlainReporter, one_line, open_output, open_reporter, to_json
from pellucid.errors import DataError
from pellucid.training.log import Reporter

LINE_BREAKS = "\n \r \x0b \x0c \x1c \x1d \x1e \x85 \u2028 \u2029"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch, name: str = "xterm") -> Terminal:
    """Called by the test itself: pytest sets stderr anew between a fixture and its test."""
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", name)
    return stderr


def test_a_terminal_shows_a_bar_with_the_time_left_and_lines_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with open_reporter() as reporter:
        assert isinstance(reporter, Reporter)
        reporter.progress("read train", 1000, 0)
        reporter.progress("training", 5, 20)
        reporter.line("epoch 1 [bold]:smile: " + "x" * 200)
        reporter.progress("training", 10, 20)
        reporter.progress("training", 20, 20)
        shown = screen.getvalue()
        reporter.line("after the bar")
    for part in ("read train", "1000/?", "training", " 5/20", "left", "epoch 1 [bold]:smile: " + "x" * 200 + "\n"):
        assert part in shown
    assert screen.getvalue().removeprefix(shown) == "after the bar\n"


def test_the_bar_leaves_stdout_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    screen = terminal(monkeypatch)
    with open_reporter() as reporter:
        reporter.progress("training", 1, 2)
        sys.stdout.write("result\n")
    assert capsys.readouterr().out == "result\n"
    assert "result" not in screen.getvalue()


def test_a_bar_is_taken_away_when_its_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with suppress(DataError), open_reporter() as reporter:
        reporter.progress("training", 1, 2)
        raise DataError("x")
    assert screen.getvalue().endswith("\x1b[2K")  # the line of the bar is erased
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h") == 1  # cursor hidden, shown


def test_speed_does_not_count_what_was_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal(monkeypatch)
    with open_reporter() as reporter:
        reporter.progress("training", 1000, 1002)
        (task,) = reporter._bars.tasks  # type: ignore[union-attr]
        assert (task.completed, task.speed) == (1000, None)


@pytest.mark.parametrize(("wanted", "name"), [(False, "xterm"), (True, "dumb")])
def test_no_bar_where_it_would_be_in_the_way(wanted: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch, name)
    with open_reporter(wanted) as reporter:
        reporter.progress("training", 1, 2)
        reporter.line("line")
    assert screen.getvalue() == "line\n"


def test_one_line() -> None:
    assert one_line("plain text ") == "plain text "
    assert one_line(f"a{LINE_BREAKS}b").splitlines() == [one_line(f"a{LINE_BREAKS}b")]
    assert one_line("a\r\nb") == "a b"


def test_json_is_on_one_line_and_exact() -> None:
    value = {"text": LINE_BREAKS, "中": [0.1, None]}
    assert to_json(value).splitlines() == [to_json(value)]
    assert json.loads(to_json(value)) == value
    assert "中" in to_json(value)


def test_an_interrupted_output_is_kept_beside_what_was_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("old")
    with suppress(RuntimeError), open_output(str(tmp_path / "out")) as file:
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with suppress(KeyboardInterrupt), open_output(str(tmp_path / "out")) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.part"]
    assert [(tmp_path / name).read_text() for name in ("out", "out.part")] == ["old", "half"]
    assert capsys.readouterr().err == f"what was written so far is in {tmp_path / 'out.part'}\n"


class Clock:
    """The time, as a test wants it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("pellucid.commands.terminal.time.monotonic", lambda: self.now)


def test_a_log_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock(monkeypatch)
    pace = Pace(PlainReporter(), 1000, 2000, 10_000, False)
    for done in range(1100, 10_001, 100):
        clock.now += 1.5
        pace.update(done, done * 2)
    pace.end()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 13
    assert lines[0] == "translating: 1,700 of 10,000 lines (17 %), 133.3 sentences/s, 2:04 left"
    assert lines[-1] == "translated 9,000 lines in 2:15, 133.3 sentences/s"


@pytest.mark.parametrize(("seconds", "quiet", "count"), [(0.1, False, 0), (5, True, 0), (5, False, 3)])
def test_short_work_is_quiet_and_so_is_what_a_person_sees_appear(
    seconds: float, quiet: bool, count: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    pace = Pace(PlainReporter(), 0, 0, 0, quiet)
    for done in (1, 2, 3, 4):
        clock.now += seconds
        pace.update(done, done)
    pace.end()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == count
    if count:
        assert lines[0] == "translating: 2 lines, 0.2 sentences/s"


def test_long_times_are_told_in_hours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock(monkeypatch)
    pace = Pace(PlainReporter(), 0, 0, 100, False)
    clock.now += 3725
    pace.update(50, 50)
    assert capsys.readouterr().err.endswith("(50 %), 0.0 sentences/s, 1:02:05 left\n")


def test_a_terminal_shows_speed_and_the_lines_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with open_reporter() as reporter:
        pace = Pace(reporter, 0, 0, 20, False)
        pace.update(5, 5)
        pace.update(10, 10)
    assert "10/20" in screen.getvalue() and "/s" in screen.getvalue()
