"""The error tree: what catches what, and how the sentences are put together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pellucid import errors
from pellucid.errors import DataError, LengthError, MissingExtraError, PellucidError, TokenizerError


def test_the_tree_is_the_one_in_the_docstring() -> None:
    parents = {}
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        if drawn := re.match(r"    ([│├└─ ]*)(\w+Error)\b", line):
            depth = len(drawn[1])
            above[depth] = drawn[2]
            parents[drawn[2]] = above[depth - 4] if depth else "ValueError"
    assert parents == {name: getattr(errors, name).__bases__[0].__name__ for name in errors.__all__}
    assert len(parents) == 9


@pytest.mark.parametrize("kind", [DataError, TokenizerError])
def test_a_data_error_names_file_and_line(kind: type[DataError]) -> None:
    error = kind("this line is not UTF-8", path="corpus/a.zh", line=3)
    assert str(error) == "corpus/a.zh, line 3: this line is not UTF-8"
    assert (error.path, error.line) == (Path("corpus/a.zh"), 3)


def test_a_data_error_without_a_line_or_without_a_file() -> None:
    error = DataError("no such file", path=Path("a.zh"))
    assert (str(error), error.path, error.line) == ("a.zh: no such file", Path("a.zh"), None)
    error = DataError("nothing to train on")
    assert (str(error), error.path, error.line) == ("nothing to train on", None, None)


def test_a_missing_extra_is_answered_with_the_command_that_installs_it() -> None:
    error = MissingExtraError("parquet", "reading a.parquet")
    assert isinstance(error, PellucidError)
    assert str(error) == "reading a.parquet needs an optional dependency: pip install 'pellucid[parquet]'"
    assert error.extra == "parquet"


def test_a_length_error_says_which_of_the_texts_it_is_about() -> None:
    error = LengthError("600 tokens, but the position table has 512", number=3)
    assert str(error) == "source 3: 600 tokens, but the position table has 512"
    assert (error.reason, error.number) == ("600 tokens, but the position table has 512", 3)
    error = LengthError("too long")
    assert (str(error), error.reason, error.number) == ("too long", "too long", None)
