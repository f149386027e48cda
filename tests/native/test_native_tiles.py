"""Products with AMX are those without, to the last bit: which instructions a CPU has decides about time alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_models import BOS, RULES, needs_engine, packed, random_model, random_sources, sentences

from pellucid.config import DecodingConfig
from pellucid.decoding.search import SearchStats
from pellucid.native.build import load_library
from pellucid.native.engine import NativeModel

needs_engine()

SIZES = {"hidden_size": 70, "num_heads": 2, "ff_size": 203, "vocab": (211, 211)}
ROWS = (*range(6, 20), 31, 32, 33, 47, 64, 65, 97, 289)
"""One round of two blocks and several, blocks of one height and of 16, with and without overlap; 6: without AMX."""


@pytest.fixture
def use_tiles() -> Iterator[Callable[[bool], bool]]:
    library = load_library()

    def use(wanted: bool) -> bool:
        return bool(library.pellucid_use_tiles(int(wanted)))

    if not use(True):
        pytest.skip("this CPU has no AMX")
    yield use
    use(True)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> NativeModel:
    return packed(random_model(**SIZES), tmp_path_factory.mktemp("tiles"), "int8")


def test_every_number_of_rows(engine: NativeModel, use_tiles: Callable[[bool], bool]) -> None:
    def logprobs(rows: int) -> Any:
        step = engine.start(random_sources(rows, vocab=211), 3)
        first = np.array(step(np.full(rows, BOS)).read())
        return first, np.array(step(first.argmax(1)).read())

    for rows in ROWS:
        with_tiles = logprobs(rows)
        assert not use_tiles(False)
        without = logprobs(rows)
        assert use_tiles(True)
        np.testing.assert_array_equal(with_tiles, without, err_msg=f"{rows} rows")


def test_whole_searches_by_several_threads(engine: NativeModel, use_tiles: Callable[[bool], bool]) -> None:
    sources = random_sources(60, vocab=211)
    settings = DecodingConfig(beam_size=4, batch_size=16)
    asked = sentences(sources, settings)

    def found(workers: int) -> Any:
        return engine.search(sources, asked, settings, RULES, SearchStats(), workers)

    with_tiles = found(3)
    use_tiles(False)
    assert found(1) == with_tiles


def test_outputs_of_a_sentence_do_not_depend_on_its_neighbours(
    tmp_path: Path, use_tiles: Callable[[bool], bool]
) -> None:
    engine = packed(random_model(3, **SIZES), tmp_path, "int8")
    assert use_tiles(True)
    sources = random_sources(40, vocab=211)
    together = np.array(engine.start(sources, 2)(np.full(40, BOS)).read())
    for number in (0, 7, 39):  # alone: too few rows for AMX
        alone = np.array(engine.start([sources[number]], 2)(np.full(1, BOS)).read())
        np.testing.assert_array_equal(alone[0], together[number])
