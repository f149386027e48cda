"""A line that cannot be translated: whose fault it is, what comes out for it, and that the others do not notice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from echoes import Echo, install

import pellucid
from pellucid.commands import reading
from pellucid.commands.failures import generate_each
from pellucid.commands.reading import MAX_LINE_BYTES, WINDOW_BYTES, Line, count_lines, windows
from pellucid.errors import (
    ConfigError,
    DataError,
    GenerationError,
    LengthError,
    MissingExtraError,
    PellucidError,
)
from toys import Run

BASE = ("translate", "-m", "model")
TEXT = b"one\nlong\ncaf\xe9\nodd one\n\na\0b\n" + b"x" * (MAX_LINE_BYTES + 1) + b"\nlast\n"
REASONS = [
    "line 2: 4 is too long",
    "standard input, line 3: not UTF-8 (byte 4 of the line is 0xE9): convert the text to UTF-8",
    "line 4: nothing can be said",
    "standard input, line 6: the line has a NUL character: remove it",
    "standard input, line 7: more than 1,048,576 bytes in one line, the most that is translated: break it into lines",
]


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Echo:
    return install(monkeypatch)


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize(
    ("policy", "kept", "word"),
    [
        ("keep-source", ["long", "caf\ufffd", "odd one", "a\ufffdb", ""], "source kept"),
        ("blank", [""] * 5, "left blank"),
    ],
)
def test_a_line_comes_out_for_every_line_and_a_report_at_the_end(
    policy: str, kept: list[str], word: str, batch_size: int, run: Run
) -> None:
    result = run(*BASE, "--on-error", policy, "--batch-size", batch_size, stdin=TEXT)
    assert result.status == 0
    assert result.out.split("\n") == ["ONE 0.0", *kept[:3], "", *kept[3:], "LAST 7.0", ""]
    assert result.err.splitlines() == [f"5 lines were not translated ({word}):", *(f"  {reason}" for reason in REASONS)]


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("number", range(5))
def test_by_default_it_stops_and_keeps_what_came_before(number: int, batch_size: int, run: Run) -> None:
    lines = TEXT.split(b"\n")
    bad = [1, 2, 3, 5, 6][number]
    text = b"\n".join([b"good" if i in (1, 2, 3, 5, 6) and i < bad else line for i, line in enumerate(lines)])
    result = run(*BASE, "--batch-size", batch_size, stdin=text)
    assert result.status == 2
    assert result.err == f"pellucid: error: {REASONS[number]}\n"
    assert result.out.split("\n")[:-1] == ["" if i == 4 else f"{text} {i}.0" for i, text in
                                           enumerate(["ONE", *["GOOD"] * 3, "", "GOOD"][:bad])]  # fmt: skip


@pytest.mark.usefixtures("echo")
def test_only_the_first_are_named(run: Run) -> None:
    result = run(*BASE, "--on-error", "blank", "--batch-size", 2, stdin=b"long\n" * 1234)
    lines = result.err.splitlines()
    assert lines[0] == "1,234 lines were not translated (left blank):"
    assert lines[1:6] == [f"  line {number}: 4 is too long" for number in range(1, 6)]
    assert lines[6:] == ["  and 1,229 more"]
    assert run(*BASE, "--on-error", "blank", stdin=b"long\n").err.startswith("1 line was not translated")


@pytest.mark.usefixtures("echo")
def test_json_has_the_reason_and_an_n_best_list_the_source(run: Run) -> None:
    options = ("--on-error", "keep-source", "--n-best", 2)
    rows = [json.loads(line) for line in run(*BASE, *options, "--json", stdin=b"one\nlong\n\xff\n").out.splitlines()]
    assert [(row["source"], len(row["hypotheses"]), "error" in row) for row in rows] == [
        ("one", 2, False),
        ("long", 0, True),
        ("\ufffd", 0, True),
    ]
    assert rows[1]["error"] == "4 is too long"
    result = run(*BASE, *options, stdin=b"one\nlong\n")
    assert result.out.splitlines()[2:] == ["1 ||| long ||| -inf"]
    result = run(*BASE, "--on-error", "blank", "--n-best", 2, stdin=b"long\none\n\n\xff\n")
    assert result.out.splitlines() == [
        "0 |||  ||| -inf",
        "1 ||| ONE 1.0 ||| -0.500000",
        "1 ||| ONE 1.1 ||| -1.500000",
        "3 |||  ||| -inf",
    ]


@pytest.mark.usefixtures("echo")
def test_what_is_wrong_for_every_text_is_no_text_s_fault(run: Run) -> None:
    result = run(*BASE, "--on-error", "blank", "--prefix", "wrong", stdin=b"one\n")
    assert result == (2, "", "pellucid: error: prefix: wrong for every text\n")
    assert "--on-error skip: choose stop, keep-source, blank" in run(*BASE, "--on-error", "skip", "x").err
    result = run(*BASE, "--on-error", "blank", stdin=b"one\nany\n")
    assert result == (2, "", "pellucid: error: max_length: wrong for every text, and seen late\n")


@pytest.mark.usefixtures("echo")
def test_a_file_that_breaks_off_is_always_an_error_and_what_came_before_is_kept(run: Run, workdir: Path) -> None:
    import gzip

    content = gzip.compress("".join(f"{number:01000}\n" for number in range(3000)).encode())
    (workdir / "text.gz").write_bytes(content[: len(content) // 2])
    result = run(*BASE, "--on-error", "blank", "--batch-size", 64, "-i", "text.gz")
    assert result.status == 2 and "text.gz: the .gz file is truncated or damaged" in result.err
    lines = result.out.splitlines()
    assert len(lines) > 1000 and lines == [f"{number:01000} {number}.0" for number in range(len(lines))]


def test_good_lines_of_a_real_model_do_not_notice_the_bad(tiny_run: Path, run: Run) -> None:
    lines = ["ba da", "ga " * 40, "ka", "la ma na", "pa " * 50, "ra ta ba"]
    alone = [pellucid.load(tiny_run).generate([line])[0].text for line in lines]
    options = ("--on-error", "blank", "--max-source-length", 20)
    result = run("translate", "-m", tiny_run, *options, stdin="".join(line + "\n" for line in lines).encode())
    assert result.out.splitlines() == ["" if len(line) > 50 else text for line, text in zip(lines, alone, strict=True)]
    assert "line 2: a sequence of 41 tokens is longer than max_source_length (20): shorten or split it" in result.err


# -- each text its own result


class Refusing:
    """Generates upper case; refuses texts that begin with a digit: 1 before anything is done, others in the middle.

    It says whose fault it was, but for 3.
    """

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.tried = self.checks = 0

    def check(self, texts: Sequence[str]) -> dict[int, PellucidError]:
        self.checks += 1
        return {
            place: LengthError("long", number=place + 1) for place, text in enumerate(texts) if text.startswith("1")
        }

    def __call__(self, texts: list[str]) -> list[str]:
        self.tried += 1
        for number, text in enumerate(texts, 1):
            if text.startswith("1"):
                raise LengthError("long", number=number)
        self.calls.append(sum(map(bool, texts)))
        for number, text in enumerate(texts, 1):
            if text.startswith("3"):
                raise PellucidError("nameless")
            if text.startswith("4"):
                raise ConfigError("does not fit", number=number)
            if text[:1].isdigit():
                raise GenerationError("odd", number=number)
        return [f"{place}{text.upper()}" for place, text in enumerate(texts)]


def shown(results: Sequence[Any]) -> list[str]:
    return [f"! {result}" if isinstance(result, Exception) else str(result) for result in results]


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("stop", [False, True])
def test_each_text_has_its_result_or_its_own_error(stop: bool, checked: bool) -> None:
    for text in ("", "a", "1", "2", "ab", "2b", "a1b", "12ab", "ab2cd1ef3", "333", "222", "abcdefgh2", "a4b41", "32a1"):
        expected = [f"{place}{c.upper()}" for place, c in enumerate(text)]
        for place, c in enumerate(text):
            errors = {
                "1": f"! source {place + 1}: long",
                "2": f"! text {place + 1}: odd",
                "3": "! nameless",
                "4": f"! text {place + 1}: does not fit",
            }
            expected[place] = errors.get(c, expected[place])
        refusing = Refusing()
        found = shown(generate_each(refusing, list(text), stop, refusing.check if checked else None))
        first = next((place for place, c in enumerate(text) if c.isdigit()), len(text))
        assert (found[: first + 1] if stop else found) == (expected[: first + 1] if stop else expected), text


def test_texts_that_are_too_long_cost_the_others_nothing() -> None:
    refusing = Refusing()
    generate_each(refusing, list("a1b1c" * 100), False, refusing.check)
    assert (refusing.tried, refusing.checks, refusing.calls) == (2, 1, [300])
    refusing = Refusing()
    generate_each(refusing, list("abc" * 100), False, refusing.check)
    assert (refusing.tried, refusing.checks) == (1, 0)


def test_one_text_for_which_nothing_can_be_generated_costs_the_others_one_more_pass() -> None:
    for place in (0, 200, 511):
        refusing = Refusing()
        generate_each(refusing, ["a"] * place + ["2"] + ["a"] * (511 - place), False, refusing.check)
        assert sum(refusing.calls) == 512 + 511
    refusing = Refusing()
    generate_each(refusing, ["2"] * 512, False, refusing.check)
    assert sum(refusing.calls) < 512 * 10  # not 512²/2


def test_what_is_nobody_s_fault_ends_everything() -> None:
    def generate(texts: list[str]) -> list[str]:
        raise MissingExtraError("chinese", "this")

    def refuse(texts: list[str]) -> list[str]:
        raise ConfigError("wrong for all")

    with pytest.raises(MissingExtraError):
        generate_each(generate, ["a", "b"], False)
    with pytest.raises(ConfigError):
        generate_each(refuse, ["a", "b"], False)


def test_a_model_says_all_that_it_would_refuse(tiny_run: Path) -> None:
    model = pellucid.load(tiny_run)
    texts = ["ba", "ga " * 40, "", "ka " * 41, "ra", "ba"]
    settings: dict[str, Any] = {
        "max_source_length": 20,
        "prefix": "BA DA",
        "max_length_ratio": 2,
        "max_length_extra": 1,
    }
    texts[0] = "ba da ga"
    found = model.check_sources(texts, **settings)
    assert {place: type(error) for place, error in found.items()} == {1: LengthError, 3: LengthError}
    assert str(found[3]).startswith("source 4: a sequence of 42 tokens is longer than max_source_length (20)")
    generate = partial(model.generate, **settings)
    results = generate_each(generate, texts, False, partial(model.check_sources, **settings))
    assert [type(result).__name__ for result in results] == [
        "Generation", "LengthError", "Generation", "LengthError", "Generation", "Generation",
    ]  # fmt: skip
    settings["max_length_ratio"] = 0.5
    found = model.check_sources(texts, **settings)
    assert {place: type(error) for place, error in found.items()} == {
        1: LengthError, 3: LengthError, 4: ConfigError, 5: ConfigError,
    }  # fmt: skip
    results = generate_each(partial(model.generate, **settings), texts, False, partial(model.check_sources, **settings))
    assert [str(result) for result in results if isinstance(result, Exception)] == list(map(str, found.values()))
    with pytest.raises(ConfigError, match="beam_size"):
        model.check_sources(texts, beam_size=0)


# -- windows


def line(number: int, size: int = 1) -> Line:
    return Line(number, b"x" * size, "")


def test_windows_are_of_so_many_lines_and_of_fewer_where_they_are_long() -> None:
    found = [[line.number for line in window] for window, _ in windows([line(number) for number in range(5)], 2)]
    assert found == [[0, 1], [2, 3], [4]]
    sizes = [1, WINDOW_BYTES // 2, WINDOW_BYTES // 2, 1, 1, WINDOW_BYTES, 1]
    found = [[line.number for line in window] for window, _ in windows(map(line, range(7), sizes), 3)]
    assert found == [[0, 1, 2], [3, 4, 5], [6]]
    sizes = [WINDOW_BYTES, WINDOW_BYTES, 1]
    assert [len(window) for window, _ in windows(map(line, range(3), sizes), 3)] == [1, 1, 1]
    assert list(windows([], 3)) == []


def test_lines_before_a_broken_end_come_with_the_error() -> None:
    def lines() -> Any:
        yield from map(line, range(3))
        raise DataError("broken")

    (first, none), (second, error) = windows(lines(), 2)
    assert ([len(first), len(second)], none, str(error)) == ([2, 1], None, "broken")


# -- how many there are


def test_lines_are_counted_where_that_costs_little(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content, count in ((b"a\nb\n", 2), (b"a\nb", 2), (b"\n", 1), (b"", 0)):
        (workdir / "text").write_bytes(content)
        assert count_lines("text") == count
    (workdir / "text.gz").write_bytes(b"a\nb\n")
    (workdir / "-").write_bytes(b"a\nb\n")
    assert [count_lines(name) for name in (None, "-", "none", ".", "text.gz")] == [0] * 5
    monkeypatch.setattr(reading, "COUNTED_BYTES", 3)
    (workdir / "text").write_bytes(b"a\nb\n")
    assert count_lines("text") == 0
