"""What was typed, as a config, as texts, as a model.

Knows nothing of what is done with them. Commands import this file when they run, because it imports pydantic.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pellucid.bundled import BUNDLED, bundled_folder
from pellucid.commands.options import given
from pellucid.commands.terminal import PlainReporter
from pellucid.config import Config, CorpusConfig, load_config, parse_config
from pellucid.data.corpus import Pair, read_pairs
from pellucid.data.lines import STDIN, byte_lines, check_file, decode_line
from pellucid.errors import ConfigError, DataError, PellucidError

__all__ = [
    "CHUNK_BATCHES",
    "MAX_LINE_BYTES",
    "Line",
    "choose_tag",
    "chunked",
    "count_lines",
    "name_bundled",
    "open_model",
    "read_config",
    "read_corpus",
    "read_texts",
    "windows",
]

CHUNK_BATCHES = 8
"""Batches of lines read at once: lines of like length are decoded together, so more is faster, up to a point."""

MAX_LINE_BYTES = 1 << 20
"""Longest line of text to translate; more in one line is no sentence, nor a paragraph."""

WINDOW_BYTES = 4 << 20
"""Lines read at once are fewer where they are long, so that memory stays what it is."""

COUNTED_BYTES = 1 << 30
"""Largest file whose lines are counted for the time left: about a second of reading."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Line:
    """One line to translate.

    Attributes:
        number: counted from 1.
        raw: its bytes, without the line's end; of a line that is too long, the beginning.
        text: as text; U+FFFD stands for what is not UTF-8, and a line that is too long is blank.
        error: what is wrong with it, with its place; None where nothing is.
    """

    number: int
    raw: bytes
    text: str
    error: PellucidError | None = None


def read_config(
    arguments: Sequence[str],
    flags: Mapping[str, str | None],
    train: Mapping[str, str | None],
    dev: Mapping[str, str | None],
) -> Config:
    """The config that a command line means.

    Args:
        arguments: ``[CONFIG.yaml] [KEY=VALUE]...``.
        flags: settings of the top level; None where not given.
        train, dev: the sides of a corpus; one given takes the place of a corpus in a single file.

    Raises:
        ConfigError: a setting is wrong, or there is more than one config file.
    """
    file, overrides = None, list(arguments)
    if overrides and ("=" not in overrides[0] or os.path.exists(overrides[0])):
        file = overrides.pop(0)
    for argument in overrides:
        if "=" not in argument:
            raise ConfigError(
                f"{argument!r} is not of the form KEY=VALUE; a config file must be the first argument, and the only one"
            )
    sides = {"train": given(**train), "dev": given(**dev)}
    data = {name: {"path": None, **corpus} for name, corpus in sides.items() if corpus}
    base: dict[str, Any] = given(**flags) | ({"data": data} if data else {})
    return load_config(file, overrides, base)


def read_texts(arguments: Sequence[str], path: str | None) -> tuple[Iterator[Line], str]:
    """The texts given as arguments, in a file, or on stdin; and a name for where they come from.

    What is wrong with a line is in the line.

    Raises:
        ConfigError: arguments and a file.
        DataError: an argument is not text, the file cannot be read (more may be found while iterating).
    """
    if arguments:
        if path is not None:
            raise ConfigError("texts are given both as arguments and with --input: give one of the two")
        return iter([_argument(text, number) for number, text in enumerate(arguments, 1)]), "text"
    if path in (None, STDIN):
        return _lines(STDIN), "line"
    check_file(Path(str(path)))
    return _lines(str(path)), f"{path}, line"


def _argument(text: str, number: int) -> Line:
    try:
        return Line(number, text.encode(), text)
    except UnicodeEncodeError:
        raise DataError(f"text {number} of the command line is not UTF-8: convert it") from None


def _lines(path: str) -> Iterator[Line]:
    for number, raw in enumerate(byte_lines(path, MAX_LINE_BYTES), start=1):
        try:
            if len(raw) > MAX_LINE_BYTES:
                place = "standard input" if path == STDIN else path
                raise DataError(
                    f"more than {MAX_LINE_BYTES:,} bytes in one line, the most that is translated: break it into lines",
                    path=place,
                    line=number,
                )
            yield Line(number, raw, decode_line(raw, path, number))
        except DataError as error:
            text = "" if len(raw) > MAX_LINE_BYTES else raw.decode("utf-8", errors="replace")
            yield Line(number, raw, text.replace("\0", "\ufffd"), error)


def count_lines(path: str | None) -> int:
    """The number of lines of a file where counting costs next to nothing; 0 elsewhere: packed, huge, or a pipe."""
    if path in (None, STDIN):
        return 0
    file = Path(str(path))
    if not file.is_file() or file.suffix.lower() in (".gz", ".zst", ".xz") or file.stat().st_size > COUNTED_BYTES:
        return 0
    count, last = 0, b"\n"
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


def windows(lines: Iterable[Line], size: int) -> Iterator[tuple[list[Line], PellucidError | None]]:
    """Lists of at most ``size`` lines, fewer where they are long; where one ends depends on the lines alone.

    If reading fails in the middle, the lines before it come with the error, and nothing after them.
    """
    window: list[Line] = []
    room = WINDOW_BYTES
    iterator = iter(lines)
    while True:
        try:
            line = next(iterator, None)
        except PellucidError as error:
            yield window, error
            return
        if line is not None:
            window.append(line)
            room -= len(line.raw)
        if window and (line is None or len(window) == size or room <= 0):
            yield window, None
            window, room = [], WINDOW_BYTES
        if line is None:
            return


def read_corpus(sources: str, targets: str) -> Iterator[Pair]:
    """Pairs of lines of two aligned files, one of which may be ``-``, as they are.

    Raises:
        ConfigError: both are stdin.
        DataError: a file cannot be read, or they have unequal numbers of lines.
    """
    if sources == targets == STDIN:
        raise ConfigError("only one of the two files can be standard input")
    return read_pairs(CorpusConfig(source=sources, target=targets))


def chunked(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` items; the last may be shorter."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def open_model(model: str | None, device: str | None, threads: int | None, **languages: str | None) -> Any:
    """The :class:`~pellucid.translator.Translator` of a model folder, on that device, with that many CPU threads.

    Args:
        model, device, threads: as typed; without a model it is the bundled one, and a line on stderr says so.
        **languages: ``source_language`` and ``target_language`` of :func:`~pellucid.loading.load`.

    Raises:
        ConfigError: no such device, no such number of threads; a language that does not fit the model.
        ModelFolderError: not a model, or the bundled one is missing.
    """
    machine = parse_config({"training": given(device=device, threads=threads)}).training
    from pellucid.loading import load
    from pellucid.training.runtime import set_threads

    set_threads(machine.threads)
    if model is None:
        name_bundled()
    return load(model, machine.device, **languages)


def choose_tag(translator: Any, decoding: Mapping[str, Any]) -> Any:
    """The model with the tag that was asked for; where it has tags and none was, a line on stderr says what it does.

    Args:
        translator: as it was opened.
        decoding: settings that were given; ``tag`` may be among them.

    Raises:
        ConfigError: the model does not know the tag; the message names those that it knows.
    """
    if "tag" in decoding:
        return translator.with_tag(decoding["tag"])
    if tags := translator.rules.tags:
        usual = translator.decoding.tag
        does = f"{usual} is put in front of every source, its default" if usual else "nothing is put in front"
        PlainReporter().line(f"this model was trained with tags ({', '.join(tags)}) and no --tag was given: {does}")
    return translator


def name_bundled() -> None:
    """Say on stderr which model it is that nobody named.

    Raises:
        ModelFolderError: it is missing.
    """
    bundled_folder()
    PlainReporter().line(f"no model was named: this is {BUNDLED}, Chinese to English, which comes with pellucid")
