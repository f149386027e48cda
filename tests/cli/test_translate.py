"""`pellucid translate`: one line out for one line in, whatever is in the lines and wherever they come from."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

import pellucid
from pellucid.cli import main
from pellucid.commands import reading
from pellucid.commands.reading import Line
from pellucid.commands.streaming import stream_lines
from pellucid.errors import GenerationError, LengthError, PellucidError
from toys import Run

LINE_BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.fixture(scope="module")
def expected(tiny_run: Path, toy_corpus: Path) -> list[str]:
    """What the library gives for dev.src."""
    sources = (toy_corpus / "dev.src").read_text().splitlines()
    return [generation.text for generation in pellucid.load(tiny_run).generate(sources)]


def test_texts_as_arguments(tiny_run: Path, toy_corpus: Path, expected: list[str], run: Run) -> None:
    sources = (toy_corpus / "dev.src").read_text().splitlines()
    result = run("translate", "--model", tiny_run, *sources)
    assert result == (0, "".join(text + "\n" for text in expected), "")
    assert any(expected)


@pytest.mark.parametrize("batch_size", [3, 64])
def test_a_file_a_packed_file_and_stdin_give_the_same(
    batch_size: int, tiny_run: Path, toy_corpus: Path, expected: list[str], run: Run, tmp_path: Path
) -> None:
    packed = tmp_path / "dev.src.gz"
    packed.write_bytes(gzip.compress((toy_corpus / "dev.src").read_bytes()))
    base = ("translate", "--model", tiny_run, "--batch-size", batch_size)
    results = [
        run(*base, "--input", toy_corpus / "dev.src"),
        run(*base, "--input", packed),
        run(*base, stdin=(toy_corpus / "dev.src").read_bytes()),
        run(*base, "--input", "-", stdin=(toy_corpus / "dev.src").read_bytes()),
    ]
    assert results == [(0, "".join(text + "\n" for text in expected), "")] * 4


def test_lines_are_written_as_they_come(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow: when a chunk is read, all before it have been written and flushed."""

    class Output(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed = self.getvalue().count("\n")

    class Input:
        left = 20

        @property
        def buffer(self) -> Input:
            return self

        def readline(self, size: int) -> bytes:
            counts.append(output.flushed)
            self.left -= 1
            return b"ba\n" if self.left >= 0 else b""

        def isatty(self) -> bool:
            return False

    output, counts = Output(), list[int]()
    monkeypatch.setattr(sys, "stdin", Input())
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(reading, "CHUNK_BATCHES", 2)
    assert main(["translate", "--model", str(tiny_run), "--batch-size", "3", "--threads", "1"]) == 0
    assert counts == [number // 6 * 6 for number in range(21)]
    assert output.flushed == 20


def test_blank_lines_stay_blank(tiny_run: Path, run: Run) -> None:
    result = run("translate", "--model", tiny_run, stdin=b"ba da\n\n  \nga\n")
    lines = result.out.split("\n")
    assert (result.status, len(lines), lines[1], lines[2], lines[4]) == (0, 5, "", "", "")
    assert lines[0] and lines[3]


def test_an_empty_stdin_gives_nothing(tiny_run: Path, run: Run) -> None:
    assert run("translate", "--model", tiny_run) == (0, "", "")


def test_line_ends_and_byte_order_mark_do_not_matter(tiny_run: Path, run: Run) -> None:
    plain = run("translate", "--model", tiny_run, stdin=b"ba da\nga\n")
    assert run("translate", "--model", tiny_run, stdin="\ufeffba da\r\nga".encode()) == plain


@pytest.mark.parametrize("mode", [[], ["--json"], ["--n-best", "2"]])
def test_line_separators_inside_a_text_do_not_break_the_alignment(
    mode: list[str], tiny_run: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = pellucid.load(tiny_run).target_tokenizer
    monkeypatch.setattr(type(tokenizer), "decode", lambda self, ids: f"a{LINE_BREAKS}b")
    result = run("translate", "--model", tiny_run, *mode, f"ba{LINE_BREAKS}da", "ga")
    assert result.status == 0
    assert len(result.out.splitlines()) == 2 * (2 if "--n-best" in mode else 1)
    if mode == ["--json"]:
        first = json.loads(result.out.splitlines()[0])
        assert first["source"] == f"ba{LINE_BREAKS}da"
        assert first["hypotheses"][0]["text"] == f"a{LINE_BREAKS}b"


def test_json_is_an_object_a_line(tiny_run: Path, run: Run) -> None:
    result = run("translate", "--model", tiny_run, "--json", "--n-best", 2, "ba da", "", "--engine", "torch")
    first, second = (json.loads(line) for line in result.out.splitlines())
    expected = pellucid.load(tiny_run).generate(["ba da"], n_best=2)[0].hypotheses
    fields = ("text", "tokens", "token_logprobs", "score", "finish_reason")
    assert first == {
        "source": "ba da",
        "hypotheses": [{name: getattr(hypothesis, name) for name in fields} for hypothesis in expected],
    }
    assert second == {"source": "", "hypotheses": []}
    for hypothesis in first["hypotheses"]:
        assert len(hypothesis["tokens"]) == len(hypothesis["token_logprobs"])
        assert (hypothesis["tokens"][-1] == "</s>") == (hypothesis["finish_reason"] == "eos")


def test_n_best_is_in_the_form_of_moses(tiny_run: Path, run: Run) -> None:
    result = run("translate", "--model", tiny_run, "--n-best", 2, "ba da", "", "ga")
    rows = [line.split(" ||| ") for line in result.out.splitlines()]
    assert [row[0] for row in rows] == ["0", "0", "2", "2"]
    for first, second in (rows[:2], rows[2:]):
        assert first[1] != second[1] and float(first[2]) >= float(second[2])


def test_settings_reach_the_search(tiny_run: Path, run: Run) -> None:
    def first(*options: object) -> dict[str, object]:
        result = run("translate", "--model", tiny_run, "--json", *options, "ba da ga ka")
        return json.loads(result.out)["hypotheses"][0]

    cut = first("--max-length", 1)
    assert (cut["finish_reason"], len(cut["tokens"])) == ("length", 1)
    assert first("--max-length-ratio", 0, "--max-length-extra", 1) == cut
    total = first("--length-penalty", "none")
    assert total["score"] == pytest.approx(sum(total["token_logprobs"]), rel=1e-6)
    squared = first("--length-penalty", "power", "--length-alpha", 2)
    assert squared["score"] == pytest.approx(sum(squared["token_logprobs"]) / len(squared["tokens"]) ** 2, rel=1e-6)


def test_output_goes_to_a_file_as_a_whole(
    tiny_run: Path, toy_corpus: Path, expected: list[str], run: Run, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    base = ("translate", "--model", tiny_run, "--input", toy_corpus / "dev.src")
    assert run(*base, "--output", tmp_path / "link") == (0, "", "")
    assert (tmp_path / "out").read_text() == "".join(text + "\n" for text in expected)
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


def test_a_file_may_be_replaced_by_its_translation(
    tiny_run: Path, toy_corpus: Path, expected: list[str], run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "text"
    file.write_bytes((toy_corpus / "dev.src").read_bytes())
    assert run("translate", "--model", tiny_run, "--input", file, "--output", file).status == 0
    assert file.read_text().splitlines() == expected


def test_an_error_in_the_middle_leaves_the_old_output(tiny_run: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"ba\n" * 9 + b"\xff\n")
    (tmp_path / "out").write_text("old")
    base = ("translate", "--model", tiny_run, "--batch-size", 1, "--input", tmp_path / "in")
    result = run(*base, "--output", tmp_path / "out")
    assert result.status == 2 and "in, line 10: not UTF-8" in result.err
    assert (tmp_path / "out").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "out.part", "out.part.json"]
    assert run(*base).out.count("\n") == 9  # on stdout, what was translated before is there


def test_a_device_is_written_to_and_stays(tiny_run: Path, run: Run, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    result = run("translate", "--model", tiny_run, "--output", pipe, "ba")
    reader.join()
    assert result == (0, "", "")
    assert received[0].count("\n") == 1 and pipe.is_fifo()


def test_whoever_types_is_told_how(tiny_run: Path, run: Run) -> None:
    result = run("translate", "--model", tiny_run, stdin=b"ba\n", typed=True)
    assert result.out.count("\n") == 1
    assert result.err == "reading from the terminal, one text a line; Ctrl-D ends\n"
    assert run("translate", "--model", tiny_run, "ba", typed=True).err == ""


@pytest.mark.parametrize("options", [("--beam-size", 1), ("--beam-size", 4), ("--sampling", "--seed", 5)])
def test_streamed_text_is_the_same_text(
    tiny_run: Path, toy_corpus: Path, run: Run, options: tuple[str | int, ...]
) -> None:
    plain = run("translate", "--model", tiny_run, "--input", toy_corpus / "dev.src", *options)
    assert run("translate", "--model", tiny_run, "--input", toy_corpus / "dev.src", *options, "--stream") == plain
    assert plain.status == 0 and plain.out


def test_streaming_writes_before_a_text_is_done(
    tiny_run: Path, toy_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []

    class Output(io.StringIO):
        def flush(self) -> None:
            flushed.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Output())
    source = max((toy_corpus / "dev.src").read_text().splitlines(), key=len)
    assert main(["translate", "--model", str(tiny_run), source, "--beam-size", "1", "--stream"]) == 0
    words = flushed[-1].split()
    assert len(words) > 2
    assert [text.split() for text in flushed if "\n" not in text][: len(words)] == [
        words[: number + 1] for number in range(len(words))
    ]


@pytest.mark.parametrize(
    "option",
    [
        "--json",
        "--alignments",
        "--document",
        "--resume",
        "--output out",
        "--on-error blank",
        "--alignment-units tokens",
        "--alignment-threshold 0.5",
    ],
)
def test_what_needs_the_whole_text_cannot_be_streamed(tiny_run: Path, run: Run, option: str) -> None:
    result = run("translate", "--model", tiny_run, "ba", "--stream", *option.split())
    name = option.split()[0]
    assert result.status == 2 and f"--stream writes plain text as it comes, and {name} needs the whole" in result.err


class Parts:
    """Streams upper case letter by letter; "odd" fails at its first d, "no" at once, "stop" is Ctrl-C at its end."""

    def stream(self, text: str, *, index: int) -> Iterator[str]:
        if text == "no":
            raise LengthError("too long", number=1)
        for letter in text:
            if text == "odd" and letter == "d":
                raise GenerationError("nothing can be said", number=1)
            yield letter.upper()
        if text == "stop":
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("texts", "written", "error"),
    [
        (["one", "", "two"], "ONE\n\nTWO\n", None),
        (["one", "odd", "two"], "ONE\nO\n", PellucidError),
        (["one", "no", "two"], "ONE\n", PellucidError),
        (["no"], "", PellucidError),
        (["one", "stop"], "ONE\nSTOP\n", KeyboardInterrupt),
    ],
)
def test_a_streamed_line_is_ended_if_it_was_begun(
    texts: list[str], written: str, error: type[BaseException] | None
) -> None:
    lines = iter([Line(number, text.encode(), text) for number, text in enumerate(texts, 1)])
    file = io.StringIO()
    with nullcontext() if error is None else pytest.raises(error):
        stream_lines(Parts(), lines, "line", {}, file)
    assert file.getvalue() == written


def test_nothing_more_is_written_for_a_reader_who_is_gone() -> None:
    class Gone(io.StringIO):
        def flush(self) -> None:
            if len(self.getvalue()) == 2:
                raise BrokenPipeError

    file = Gone()
    with pytest.raises(BrokenPipeError):
        stream_lines(Parts(), iter([Line(1, b"one", "one")]), "line", {}, file)
    assert file.getvalue() == "ON"
