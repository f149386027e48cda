"""Searches that run in the engine give what the search in Python gives over the engine's steps, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_models import BOS, EOS, RULES, needs_engine, packed, random_model, random_sources, sentences

from pellucid.config import DecodingConfig
from pellucid.decoding.rules import TokenRules
from pellucid.decoding.search import SearchStats, search
from pellucid.errors import PellucidError
from pellucid.native.engine import NativeModel, searches_natively

needs_engine()

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"beam_size": 1},
    "greedy, full": {"beam_size": 1, "beam": "full"},
    "exact": {"beam_size": 4},
    "exact, three best": {"beam_size": 4, "n_best": 3},
    "full, heuristic": {"beam_size": 4, "n_best": 2, "beam": "full", "stop": "heuristic"},
    "full, first K": {"beam_size": 3, "beam": "full", "stop": "first_k"},
    "top": {"beam_size": 5, "stop": "top"},
    "full, top": {"beam_size": 5, "stop": "top", "beam": "full", "n_best": 5},
    "gnmt": {"beam_size": 4, "length_penalty": "gnmt", "length_alpha": 0.6},
    "power": {"beam_size": 4, "length_penalty": "power", "length_alpha": 1.7},
    "negative power": {"beam_size": 4, "length_penalty": "power", "length_alpha": -0.5},
    "no penalty": {"beam_size": 4, "length_penalty": "none"},
    "short": {"beam_size": 4, "n_best": 4, "max_length": 2},
    "one token": {"beam_size": 4, "n_best": 4, "max_length": 1},
    "long enough": {"beam_size": 4, "min_length": 7},
    "end forced": {"beam_size": 4, "max_length": 5, "force_end": True, "forced_score": "free", "beam": "full"},
    "end forced and counted": {"beam_size": 3, "n_best": 3, "max_length": 5, "force_end": True},
    "wide": {"beam_size": 64, "n_best": 64},
    "wider than the vocabulary": {"beam_size": 100, "n_best": 7, "beam": "full", "max_length": 4},
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> NativeModel:
    return packed(random_model(spread=6.0), tmp_path_factory.mktemp("engine"))


def both(
    engine: NativeModel,
    settings: DecodingConfig,
    rules: TokenRules = RULES,
    prefix: tuple[int, ...] = (),
    workers: int = 1,
) -> tuple[Any, Any]:
    sources = random_sources(9)
    asked = sentences(sources, settings, prefix=prefix)
    assert searches_natively(settings, rules)
    stats = SearchStats(), SearchStats()
    expected = search(engine.start(sources, 200), asked, settings, rules, stats[0])
    found = engine.search(sources, asked, settings, rules, stats[1], workers)
    counts = [(one.sentences, one.sentence_steps, one.settled_steps) for one in stats]
    return (expected, counts[0]), (found, counts[1])


@pytest.mark.parametrize("name", WAYS)
def test_it_is_the_same_search(engine: NativeModel, name: str) -> None:
    expected, found = both(engine, DecodingConfig(**WAYS[name]))
    assert found == expected


@pytest.mark.parametrize("settings", [{"beam_size": 1}, {"beam_size": 4}, {"beam_size": 4, "forced_score": "free"}])
def test_prefixes_are_forced(engine: NativeModel, settings: dict[str, Any]) -> None:
    expected, found = both(engine, DecodingConfig(**settings), prefix=(9, 44, 9))
    assert found == expected
    assert all(hypothesis.tokens[:3] == [9, 44, 9] for each in found[0] for hypothesis in each)


def test_tokens_are_forbidden_and_allowed(engine: NativeModel) -> None:
    for rules in (
        TokenRules(BOS, EOS, forbidden=tuple(range(3, 60))),
        TokenRules(BOS, EOS, forbidden=(0, 1, 8), allowed=(5, 6, 7, 8, 82)),
    ):
        expected, found = both(engine, DecodingConfig(beam_size=4, n_best=4), rules)
        assert found == expected
        assert all(rules.permits(token) for each in found[0] for one in each for token in one.tokens)


def test_nothing_may_follow(engine: NativeModel) -> None:
    rules = TokenRules(BOS, EOS, forbidden=(0, 1), allowed=())
    settings = DecodingConfig(beam_size=2, min_length=3, max_length=5)
    found = engine.search([[5, EOS]], sentences([[5, EOS]], settings), settings, rules, SearchStats())
    assert found == [[]]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_threads_and_batches_change_nothing(precision: Any, tmp_path: Path) -> None:
    engine = packed(random_model(spread=6.0), tmp_path, precision)
    sources = random_sources(40)
    answers = []
    for batch_size, workers, order in ((64, 1, 1), (1, 1, 1), (3, 2, -1), (7, 3, 1)):
        settings = DecodingConfig(beam_size=4, n_best=2, batch_size=batch_size)
        asked = sentences(sources, settings)
        found = engine.search(sources[::order], asked[::order], settings, RULES, SearchStats(), workers)
        answers.append(found[::order])
    assert answers[1:] == answers[:1] * 3


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("hidden", [32, 64])
def test_it_stops_where_numbers_end(tmp_path: Path, precision: Any, hidden: int) -> None:
    engine = packed(random_model(hidden_size=hidden), tmp_path, precision)
    table = engine.positions(0, 300)
    assert table is not None
    holes = np.zeros_like(table)  # what a row is filled up with stays as it is
    holes[:, :hidden] = np.nan
    engine._tables = [holes] * 2
    settings = DecodingConfig(beam_size=2)
    with pytest.raises(PellucidError, match="contain NaN"):
        engine.search([[5, EOS]], sentences([[5, EOS]], settings), settings, RULES, SearchStats())


def test_what_python_searches() -> None:
    for settings in (
        {"sampling": True},
        {"beam_size": 4, "diversity_groups": 2},
        {"repetition_penalty": 1.2},
        {"no_repeat_ngram": 2},
        {"renormalize": True},
    ):
        assert not searches_natively(DecodingConfig(**settings), RULES)
    assert not searches_natively(DecodingConfig(), TokenRules(BOS, EOS, forbidden_sequences=((4, 5),)))
