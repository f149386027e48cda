"""What was typed, as a config, as texts, as a model.

Knows nothing of what is done with them. Commands import this file when they run, because it imports pydantic.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pellucid.commands.options import given
from pellucid.config import Config, CorpusConfig, load_config, parse_config
from pellucid.data.corpus import Pair, read_pairs
from pellucid.data.lines import STDIN, check_file, read_lines
from pellucid.errors import ConfigError, DataError

__all__ = ["CHUNK_BATCHES", "chunked", "open_model", "read_config", "read_corpus", "read_texts"]

CHUNK_BATCHES = 8
"""Batches of lines read at once: lines of like length are decoded together, so more is faster, up to a point."""

Item = TypeVar("Item")


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


def read_texts(arguments: Sequence[str], path: str | None) -> tuple[Iterator[str], str]:
    """The texts given as arguments, in a file, or on stdin; and a name for where they come from.

    Raises:
        ConfigError: arguments and a file.
        DataError: an argument is not text, the file cannot be read (more may be found while iterating).
    """
    if arguments:
        if path is not None:
            raise ConfigError("texts are given both as arguments and with --input: give one of the two")
        for number, text in enumerate(arguments, 1):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise DataError(f"text {number} of the command line is not UTF-8: convert it") from None
        return iter(arguments), "text"
    if path in (None, STDIN):
        return read_lines(STDIN), "line"
    check_file(Path(str(path)))
    return read_lines(str(path)), f"{path}, line"


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


def open_model(model: str, device: str | None, threads: int | None) -> Any:
    """The :class:`~pellucid.translator.Translator` of a model folder, on that device, with that many CPU threads.

    Raises:
        ConfigError: no such device, no such number of threads.
        ModelFolderError: not a model.
    """
    machine = parse_config({"training": given(device=device, threads=threads)}).training
    from pellucid.training.runtime import set_threads
    from pellucid.translator import load

    set_threads(machine.threads)
    return load(model, machine.device)
