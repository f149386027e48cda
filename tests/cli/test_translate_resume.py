"""Interrupted translations: whatever ends them, going on gives the file that would have been, or a clear refusal."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from echoes import Echo, install, names

from pellucid.commands import resuming, translate
from pellucid.data.text import TextRules
from toys import SYMBOLS, Run

FORMS: list[tuple[dict[str, Any], bool]] = [
    ({}, False),
    ({}, True),
    ({"as_json": True}, True),
    ({"n_best": 2}, True),
    ({"on_error": "keep-source"}, True),
]
KILLS = 8
MODEL = ("translate", "-m", "model", "-i", "in", "--batch-size", 2)
TEXT = "one\ntwo\n\nfour\nfive\n"


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Echo:
    return install(monkeypatch)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is written behind every window."""
    monkeypatch.setattr(resuming, "JOURNAL_SECONDS", 0)


# -- kills


class Killed(BaseException):
    """The end of a process, as far as one process can play it."""


class Killer:
    """Ends everything at one call to the system, which has done half of its work or none or all of it.

    Attributes:
        calls: how many there have been.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
        self.moment, self.calls = moment, 0
        real = {name: getattr(os, name) for name in ("write", "fsync", "replace", "ftruncate")}
        unlink, write_text = Path.unlink, Path.write_text

        def call(do: Any, *arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.moment:
                raise Killed
            return do(*arguments, **options)

        def write(descriptor: int, content: Any) -> int:
            if self.calls + 1 == self.moment:
                real["write"](descriptor, bytes(content)[: len(content) // 2])
            return int(call(real["write"], descriptor, content))

        def write_half(path: Path, text: str, **options: Any) -> None:
            if self.calls + 1 == self.moment:
                write_text(path, text[: len(text) // 2], **options)
            call(write_text, path, text, **options)

        for name in ("fsync", "replace", "ftruncate"):
            monkeypatch.setattr(os, name, lambda *a, do=real[name]: call(do, *a))
        monkeypatch.setattr(os, "write", write)
        monkeypatch.setattr(Path, "write_text", write_half)
        monkeypatch.setattr(Path, "unlink", lambda *a, **o: call(unlink, *a, **o))
        # The dead clean nothing up; the system closes their files.
        monkeypatch.setattr(resuming.PartSink, "leave", lambda sink: os.close(sink._descriptor))


@pytest.mark.parametrize(("form", "twice"), FORMS)
@pytest.mark.usefixtures("echo", "always")
def test_a_kill_at_any_moment_changes_nothing(
    form: dict[str, Any], twice: bool, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # it takes most of the time, and nobody cuts the power

    def run(output: str, resume: bool) -> None:
        translate.translate(model="model", input="in", output=output, batch_size=2, resume=resume, **form)

    (workdir / "in").write_text(TEXT.replace("five", "too long") if "on_error" in form else TEXT)
    run("expected", False)
    expected = Path("expected").read_bytes()
    assert len(expected) > 25
    moment, lives = 0, 1
    while lives:
        moment += 1
        Path("out").write_text("old")
        lives = 0
        for _ in range(2 if twice else 1):
            with monkeypatch.context() as patch, suppress(Killed):
                Killer(patch, moment)
                lives += 1
                run("out", lives > 1 or Path("out.part").exists())
                lives -= 1
        assert Path("out").read_bytes() in (b"old", expected), moment
        if Path("out").read_bytes() == b"old" and not Path("out.part").exists():
            Path("out").unlink()  # nobody knows what it is
        known = {"out.part", "out.part.json", "out.done.json"} & set(names(workdir))
        if known or not Path("out").exists():  # else a run without --resume has finished
            run("out", True)
        assert Path("out").read_bytes() == expected, moment
        done = [name for name in names(workdir) if not name.startswith(".")]
        assert done == ["expected", "in", "out", *["out.done.json"] * Path("out.done.json").exists()], moment
        if Path("out.done.json").exists():
            run("out", True)
        Path("out.done.json").unlink(missing_ok=True)
    assert moment > 15


class Interrupter:
    """Ctrl-C at one moment of ``resuming.py``: between any two steps of what adds results, at any line of the rest.

    Attributes:
        moments: how many there have been.
    """

    def __init__(self, moment: int) -> None:
        self.moment, self.moments = moment, 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != resuming.__file__:
            return None
        if frame.f_code.co_name in ("add", "_write", "_feed"):
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._at

    def _at(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event in ("line", "opcode"):
            self.moments += 1
            if self.moments == self.moment:
                raise KeyboardInterrupt
        return self._at


def bury(part: Path) -> None:
    """Close what a process that has ended would not hold any more."""
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):
            writes = fcntl.fcntl(int(name), fcntl.F_GETFL) & os.O_RDWR
            if writes and os.path.samestat(os.fstat(int(name)), part.stat()):
                os.close(int(name))


@pytest.mark.parametrize(("seconds", "step"), [(0, 7), (100, 1)])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.usefixtures("echo")
def test_ctrl_c_at_any_moment_changes_nothing(
    seconds: int, step: int, workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resuming, "JOURNAL_SECONDS", seconds)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    def run(output: str, resume: bool) -> None:
        translate.translate(model="model", input="in", output=output, batch_size=2, resume=resume)

    (workdir / "in").write_text("one\ntwo\n\nfour\n")
    run("expected", False)
    expected = Path("expected").read_bytes()
    moment, interrupted = 0, True
    while interrupted:
        moment += step
        interrupter = Interrupter(moment)
        interrupted = False
        tracer = sys.gettrace()
        try:
            sys.settrace(interrupter)
            run("out", False)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(tracer)
        bury(workdir / "out.part")
        if Path("out.part.json").exists() and Path("out.part").exists():
            journal = json.loads(Path("out.part.json").read_text())["journal"]
            rows = Path("out.part").read_bytes()[: journal["size"]]
            assert rows.count(b"\n") == journal["lines"] and expected.startswith(rows), moment
        if Path("out.part").exists() or not Path("out").exists() or Path("out.part.json").exists():
            run("out", True)
        assert Path("out").read_bytes() == expected, moment
        assert "Traceback" not in capsys.readouterr().err
        for name in ("out", "out.done.json"):
            Path(name).unlink(missing_ok=True)
        assert names(workdir) == ["expected", "in"], moment
    assert moment > 200


@pytest.mark.usefixtures("echo", "always")
def test_what_was_counted_is_not_computed_again(run: Run, workdir: Path, echo: Echo) -> None:
    (workdir / "in").write_text("one\ntwo\nthree\nfour\nctrl-c\nsix\n")
    assert run(*MODEL, "-o", "out").status == 130
    before = len(echo.calls)
    assert run(*MODEL, "-o", "out", "--resume").status == 0
    assert [call for call in echo.calls[before:] if call] == [["ctrl-c", "six"]]
    assert Path("out").read_text().splitlines()[4:] == ["CTRL-C 4.0", "SIX 5.0"]  # samples belong to the line


@pytest.mark.slow
def test_kills_of_real_processes_at_random_moments_change_nothing(tiny_run: Path, workdir: Path) -> None:
    seed = int(os.environ.get("KILL_SEED") or int.from_bytes(os.urandom(4), "big"))
    sys.stdout.write(f"KILL_SEED={seed} repeats these moments, as far as the machine does\n")
    rng = random.Random(seed)
    lines = [" ".join(rng.choices(SYMBOLS, k=rng.randint(0, 6))) for _ in range(2000)]
    (workdir / "in").write_text("".join(line + "\n" for line in lines))
    program = (
        "import sys; from pellucid.commands import reading, resuming; from pellucid import cli; "
        "reading.CHUNK_BATCHES = 1; resuming.JOURNAL_SECONDS = 0; sys.exit(cli.main())"
    )
    arguments = ("translate", "-m", str(tiny_run), "-i", "in", "--threads", "1", "--batch-size", "16", "--json")
    base = [sys.executable, "-c", program, *arguments]
    subprocess.run([*base, "-o", "expected"], check=True, stderr=subprocess.DEVNULL)
    expected, part = Path("expected").read_bytes(), Path("out.part")
    for target in sorted(rng.uniform(0, 0.95 * len(expected)) for _ in range(KILLS)):
        with subprocess.Popen([*base, "-o", "out", "--resume"], stderr=subprocess.DEVNULL) as child:
            while child.poll() is None and (not part.exists() or part.stat().st_size < target):
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.03))
            child.kill()
        assert child.returncode == -signal.SIGKILL
    said = subprocess.run([*base, "-o", "out", "--resume"], check=True, capture_output=True, text=True).stderr
    assert "nothing to go on with" not in said
    assert Path("out").read_bytes() == expected
    assert len(expected.splitlines()) == len(lines)


# -- interruptions and errors


@pytest.mark.usefixtures("echo")
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(run: Run, workdir: Path) -> None:
    (workdir / "in").write_text("one\ntwo\nthree\nfour\nctrl-c\nsix\n")
    (workdir / "out").write_text("old")
    part = workdir / "out.part"
    result = run(*MODEL, "-o", "out")
    assert (result.status, result.out) == (130, "")
    again = "the same command with --resume goes on behind line 4"
    assert result.err == f"what was written so far is in {part}; {again}\n"
    assert (part.read_text().splitlines(), Path("out").read_text()) == (
        ["ONE 0.0", "TWO 1.0", "THREE 2.0", "FOUR 3.0"],
        "old",
    )
    assert run(*MODEL, "-o", "out", "--resume") == (0, "", "")
    assert Path("out").read_text().count("\n") == 6
    assert names(workdir) == ["in", "out", "out.done.json"]


@pytest.mark.usefixtures("echo")
def test_an_error_keeps_the_lines_before_it_and_the_rest_may_be_mended(run: Run, workdir: Path) -> None:
    (workdir / "in").write_text("one\ntwo\nthree\nlong\nfive\n")
    result = run(*MODEL, "-o", "out")
    assert result.status == 2
    assert result.err.splitlines()[-1] == "pellucid: error: in, line 4: 4 is too long"
    assert "--resume goes on behind line 2" in result.err
    assert Path("out.part").read_text() == "ONE 0.0\nTWO 1.0\nTHREE 2.0\n"
    (workdir / "in").write_text("one\ntwo\nthree\nshort\nfive\nsix\n")
    assert run(*MODEL, "-o", "out", "--resume").status == 0
    assert Path("out").read_text() == "ONE 0.0\nTWO 1.0\nTHREE 2.0\nSHORT 3.0\nFIVE 4.0\nSIX 5.0\n"


@pytest.mark.usefixtures("echo")
def test_failures_of_all_lives_are_reported(run: Run, workdir: Path) -> None:
    (workdir / "in").write_text("long\ntwo\nlong\nctrl-c\nfive\nlong\n")
    blank = ("--on-error", "blank")
    assert run(*MODEL, *blank, "-o", "out").status == 130
    result = run(*MODEL, "--on-error", "keep-source", "-o", "out", "--resume")
    assert result.status == 2 and "1 lines are written as --on-error blank wants it: go on with that" in result.err
    result = run(*MODEL, *blank, "-o", "out", "--resume")
    assert result.status == 0
    assert result.err.splitlines() == ["3 lines were not translated (left blank):"] + [
        f"  in, line {number}: 4 is too long" for number in (1, 3, 6)
    ]


@pytest.mark.usefixtures("echo")
def test_stdin_can_be_gone_on_with(run: Run, workdir: Path) -> None:
    text = b"one\ntwo\nctrl-c\nfour\n"
    base = ("translate", "-m", "model", "--batch-size", 2, "-o", "out")
    assert run(*base, stdin=text).status == 130
    assert run(*base, "--resume", stdin=text).status == 0
    assert Path("out").read_text() == "ONE 0.0\nTWO 1.0\nCTRL-C 2.0\nFOUR 3.0\n"


# -- what is refused


@pytest.fixture
def interrupted(echo: Echo, run: Run, workdir: Path) -> Path:
    """The current folder, with an interrupted run."""
    (workdir / "in").write_text("one\ntwo\nctrl-c\nfour\n")
    assert run(*MODEL, "-o", "out").status == 130
    return workdir


def test_without_resume_nothing_is_thrown_away(interrupted: Path, run: Run) -> None:
    before = {path: path.read_bytes() for path in interrupted.iterdir()}
    result = run(*MODEL, "-o", "out")
    assert (result.status, result.out) == (2, "")
    assert result.err == (
        f"pellucid: error: {interrupted / 'out.part'}: an interrupted run has left this, with the first 2 lines of its "
        "input done: add --resume to go on with it, or rename or delete it to start again\n"
    )
    assert {path: path.read_bytes() for path in interrupted.iterdir()} == before
    Path("out.part").unlink()
    assert run(*MODEL, "-o", "out").status == 0
    assert names(interrupted) == ["in", "out"]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--beam-size", "4"], r"beam_size (5 → 4)"),
        (["--json"], "json (false → true)"),
        (["--prefix", "x", "--seed", "3"], 'prefix (null → "x"), seed (1 → 3)'),
    ],
)
def test_other_settings_are_refused_by_name(options: list[str], what: str, interrupted: Path, run: Run) -> None:
    before = {path: path.read_bytes() for path in interrupted.iterdir()}
    result = run(*MODEL, "-o", "out", "--resume", *options)
    assert result.status == 2
    assert f"out.part was begun with other settings, and would be two things in one file: {what}; give" in result.err
    assert {path: path.read_bytes() for path in interrupted.iterdir()} == before


def test_another_model_and_another_input_are_refused(interrupted: Path, run: Run, echo: Echo) -> None:
    before = Path("out.part").read_bytes()
    echo.name = "other"
    assert "begun with other settings, and would be two things in one file: the model;" in (
        run(*MODEL, "-o", "out", "--resume").err
    )
    echo.name = "echo"
    for text in ("one\ntoo\nctrl-c\nfour\n", "one\n"):
        (interrupted / "in").write_text(text)
        result = run(*MODEL, "-o", "out", "--resume")
        assert result.status == 2 and "the first 2 lines of the input are not those it was begun with" in result.err
    assert Path("out.part").read_bytes() == before


def test_what_does_not_matter_may_change(interrupted: Path, run: Run) -> None:
    options = ("--batch-size", 3, "--threads", 1, "--on-error", "blank")
    assert run("translate", "-m", "model", "-i", "in", "-o", "out", "--resume", *options).status == 0
    assert Path("out").read_text() == "ONE 0.0\nTWO 1.0\nCTRL-C 2.0\nFOUR 3.0\n"


@pytest.mark.parametrize("journal", [None, "", "{", "[]", '{"version": 9, "journal": {}}', '{"version": 1}', "longer"])
def test_a_part_that_no_journal_fits_is_in_the_way(journal: str | None, interrupted: Path, run: Run) -> None:
    path = interrupted / "out.part.json"
    if journal is None:
        path.unlink()
    elif journal == "longer":
        path.write_text(path.read_text().replace('"size": 16', '"size": 17'))
    else:
        path.write_text(journal)
    for options in ([], ["--resume"]):
        result = run(*MODEL, "-o", "out", *options)
        assert result.status == 2 and "out.part: in the way, and cannot be gone on with" in result.err
    assert Path("out.part").stat().st_size == 16


def test_two_processes_do_not_write_one_file(interrupted: Path, run: Run) -> None:
    with Path("out.part").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for options in ([], ["--resume"]):
            assert "out.part: another process is writing this file" in run(*MODEL, "-o", "out", *options).err
    assert run(*MODEL, "-o", "out", "--resume").status == 0


@pytest.mark.usefixtures("echo")
def test_nothing_to_go_on_with_and_nothing_left_to_do(run: Run, workdir: Path) -> None:
    (workdir / "in").write_text(TEXT)
    first = run(*MODEL, "-o", "out", "--resume")
    assert first == (0, "", "out: nothing to go on with, starting at the beginning\n")
    written = Path("out").stat()
    again = run(*MODEL, "-o", "out", "--resume")
    assert again == (0, "", "out is finished: nothing is left to do (without --resume it is made anew)\n")
    assert Path("out").stat().st_mtime_ns == written.st_mtime_ns
    assert names(workdir) == ["in", "out", "out.done.json"]
    assert run(*MODEL, "-o", "out") == (0, "", "")
    assert names(workdir) == ["in", "out"]


@pytest.mark.usefixtures("echo")
def test_a_file_that_nothing_proves_to_be_finished_is_not_taken_for_it(run: Run, workdir: Path) -> None:
    (workdir / "in").write_text(TEXT)
    in_the_way = "out: in the way: no out.done.json beside it, which a run with --resume leaves, proves"
    (workdir / "out").write_text("something else\n")
    result = run(*MODEL, "-o", "out", "--resume")
    assert result.status == 2 and in_the_way in result.err
    assert run(*MODEL, "-o", "out").status == 0  # as a run without --resume always does
    assert in_the_way in run(*MODEL, "-o", "out", "--resume").err
    Path("out").unlink()
    assert run(*MODEL, "-o", "out", "--resume").status == 0
    for damage in ("ONE 0.1", "ONE 0.0\nmore"):
        content = Path("out").read_text()
        Path("out").write_text(content.replace("ONE 0.0", damage))
        assert in_the_way in run(*MODEL, "-o", "out", "--resume").err
        Path("out").write_text(content)
    assert "out is finished" in run(*MODEL, "-o", "out", "--resume").err
    assert names(workdir) == ["in", "out", "out.done.json"]


def test_a_finished_file_is_of_this_model_these_settings_and_this_input(run: Run, workdir: Path, echo: Echo) -> None:
    (workdir / "in").write_text(TEXT)
    base = (*MODEL, "-o", "out", "--resume")
    assert run(*base).status == 0
    before = {path: path.read_bytes() for path in workdir.iterdir() if path.name != "in"}
    result = run(*base, "--beam-size", 4)
    assert result.status == 2 and "out was made with other settings: beam_size (5 → 4); give those" in result.err
    echo.name = "other"
    assert "out was made with other settings: the model; give" in run(*base).err
    echo.name = "echo"
    for text in (TEXT + "more\n", TEXT.replace("two", "too"), "one\ntwo\n", "\n"):
        (workdir / "in").write_text(text)
        result = run(*base)
        assert result.status == 2 and "out was made of another input: leave --resume out" in result.err
    assert {path: path.read_bytes() for path in workdir.iterdir() if path.name != "in"} == before
    (workdir / "in").write_text(TEXT)
    assert "out is finished" in run(*base, "--batch-size", 7).err


@pytest.mark.usefixtures("echo")
def test_nothing_translated_is_finished_too(run: Run, workdir: Path) -> None:
    (workdir / "in").write_text("\n\n")
    (workdir / "out").write_text("")
    base = (*MODEL, "--n-best", 2, "-o", "out", "--resume")
    assert "nothing to go on with" in run(*base).err
    assert Path("out").read_text() == ""
    assert "out is finished" in run(*base).err


# -- two processes


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Lets something happen between opening the part and locking it, once."""
    flock = fcntl.flock

    def arrange(happening: Callable[[], object]) -> None:
        waiting = [happening]

        def late(descriptor: int, operation: int) -> None:
            if waiting:
                waiting.pop()()
            flock(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", late)

    return arrange


def test_what_another_process_finishes_meanwhile_is_not_touched(
    interrupted: Path, run: Run, meanwhile: Callable[[Callable[[], object]], None], echo: Echo
) -> None:
    meanwhile(lambda: run(*MODEL, "-o", "out", "--resume"))
    assert "out is finished" in run(*MODEL, "-o", "out", "--resume").err
    assert Path("out").read_text() == "ONE 0.0\nTWO 1.0\nCTRL-C 2.0\nFOUR 3.0\n"
    assert names(interrupted) == ["in", "out", "out.done.json"]
    Path("out").unlink()
    meanwhile(lambda: run(*MODEL, "-o", "out", "--resume"))  # the part is new this time
    computed = len(echo.calls)
    assert "out.part: another process" not in run(*MODEL, "-o", "out", "--resume").err
    assert Path("out").read_text().count("\n") == 4 and len(echo.calls) > computed


@pytest.mark.usefixtures("always")
def test_what_another_process_adds_meanwhile_counts(
    interrupted: Path, run: Run, meanwhile: Callable[[Callable[[], object]], None], echo: Echo
) -> None:
    (interrupted / "in").write_text("one\ntwo\nthree\nfour\nctrl-c\nsix\n")

    def go_on() -> None:
        echo.interrupts = True
        assert run(*MODEL, "-o", "out", "--resume").status == 130

    meanwhile(go_on)
    before = len(echo.calls)
    assert run(*MODEL, "-o", "out", "--resume").status == 0
    assert [call for call in echo.calls[before:] if call] == [["three", "four"], ["ctrl-c", "six"], ["ctrl-c", "six"]]
    assert Path("out").read_text().splitlines()[2:] == ["THREE 2.0", "FOUR 3.0", "CTRL-C 4.0", "SIX 5.0"]


@pytest.mark.usefixtures("echo")
def test_what_cannot_be_gone_on_with_is_said(run: Run, workdir: Path) -> None:
    (workdir / "in").write_text(TEXT)
    assert "--resume needs a file to go on with: give --output FILE" in run(*MODEL, "--resume").err
    assert "--resume cannot tell the text from its translation" in run(*MODEL, "-o", "in", "--resume").err
    assert Path("in").read_text() == TEXT


def test_the_fingerprint_is_of_weights_architecture_tokenizers_and_text_rules(tiny_run: Path, workdir: Path) -> None:
    import torch

    import pellucid

    known = resuming.model_fingerprint(pellucid.load(tiny_run))
    shutil.copytree(tiny_run / "best", workdir / "copy")
    other = pellucid.load(workdir / "copy")
    assert resuming.model_fingerprint(other) == known
    with torch.no_grad():
        other.model.output.weight.view(-1)[0] += 1
    assert resuming.model_fingerprint(other) != known
    ruled = pellucid.load(workdir / "copy")
    ruled.rules = TextRules(placeholders=("number",))
    assert resuming.model_fingerprint(ruled) != known


def test_the_journal_says_what_is_done(interrupted: Path) -> None:
    journal = json.loads((interrupted / "out.part.json").read_text())["journal"]
    assert (journal["lines"], journal["size"], journal["finished"]) == (2, 16, False)
    assert journal["identity"]["model"] == "echo"
