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
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from echoes import Echo, install, names

from pellucid.commands import resuming, translate
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
            Path("out").unlink()  # for --resume, a file without a part is a finished one
        run("out", True)
        assert Path("out").read_bytes() == expected, moment
        assert [name for name in names(workdir) if not name.startswith(".")] == ["expected", "in", "out"], moment
    assert moment > 15


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
    assert names(workdir) == ["in", "out"]


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
    assert run(*MODEL, "-o", "out") == (0, "", "")
    assert names(workdir) == ["in", "out"]


@pytest.mark.usefixtures("echo")
def test_what_cannot_be_gone_on_with_is_said(run: Run, workdir: Path) -> None:
    (workdir / "in").write_text(TEXT)
    assert "--resume needs a file to go on with: give --output FILE" in run(*MODEL, "--resume").err
    assert "--resume cannot tell the text from its translation" in run(*MODEL, "-o", "in", "--resume").err
    assert Path("in").read_text() == TEXT


def test_the_fingerprint_is_of_weights_architecture_and_tokenizers(tiny_run: Path, workdir: Path) -> None:
    import torch

    import pellucid

    known = resuming.model_fingerprint(pellucid.load(tiny_run))
    shutil.copytree(tiny_run / "best", workdir / "copy")
    other = pellucid.load(workdir / "copy")
    assert resuming.model_fingerprint(other) == known
    with torch.no_grad():
        other.model.output.weight.view(-1)[0] += 1
    assert resuming.model_fingerprint(other) != known


def test_the_journal_says_what_is_done(interrupted: Path) -> None:
    journal = json.loads((interrupted / "out.part.json").read_text())["journal"]
    assert (journal["lines"], journal["size"], journal["finished"]) == (2, 16, False)
    assert journal["identity"]["model"] == "echo"
