"""What Python hands to the engine is checked in front of it: whatever it is, it ends in a sentence, never in C++.

Also run on the build with sanitizers, which would see what slips through.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_models import BOS, EOS, RULES, needs_engine, packed, random_model, random_sources, sentences

from pellucid.config import DecodingConfig
from pellucid.decoding.rules import Sentence, TokenRules
from pellucid.decoding.search import SearchStats
from pellucid.errors import LengthError, ModelFolderError, PellucidError
from pellucid.native import engine as engine_module
from pellucid.native.arguments import sentences_within, tokens_within
from pellucid.native.engine import NativeModel
from pellucid.native.step import NativeStep

needs_engine()

GREEDY = DecodingConfig(beam_size=1)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> NativeModel:
    return packed(random_model(vocab=(61, 83), tied_embeddings="none"), tmp_path_factory.mktemp("engine"))


@pytest.fixture
def step(engine: NativeModel) -> NativeStep:
    """Two sentences of two rows each, one step done."""
    started = engine.start([[5, EOS], [7, 8, EOS]], 4)
    started(np.full(2, BOS))
    started.reorder(np.array([0, 0, 1, 1]))
    return started


def search(engine: NativeModel, sources: Any, rules: TokenRules = RULES, **given: Any) -> Any:
    asked = [Sentence(9, index, **given) for index in range(len(sources))]
    return engine.search(sources, asked, GREEDY, rules, SearchStats())


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ([[5, EOS], [61, EOS]], r"source 2: there is no token 61 in a vocabulary of 61 \(0 to 60\)"),
        ([[-1, EOS]], "source 1: there is no token -1"),
        ([[2**31 + 5, EOS]], "source 1: there is no token 2147483653"),
        ([[2**70, EOS]], "must be a row of whole numbers"),
        ([[5, EOS], []], "source 2 is empty"),
    ],
)
def test_sources(engine: NativeModel, sources: Any, words: str) -> None:
    with pytest.raises(PellucidError, match=words):
        engine.start(sources, 3)
    with pytest.raises(PellucidError, match=words):
        search(engine, sources)


def test_what_a_search_is_told(engine: NativeModel) -> None:
    source = [[5, EOS]]
    with pytest.raises(PellucidError, match="prefix 1: there is no token 83 in a vocabulary of 83"):
        search(engine, source, prefix=(4, 83))
    with pytest.raises(PellucidError, match="forbidden tokens: there is no token 900"):
        search(engine, source, TokenRules(BOS, EOS, forbidden=(0, 900)))
    with pytest.raises(PellucidError, match="the first and the last token: there is no token 83"):
        search(engine, source, TokenRules(BOS, 83))
    with pytest.raises(PellucidError, match="1 sources and 2 sentences"):
        engine.search(source, [Sentence(4, 0)] * 2, GREEDY, RULES, SearchStats())
    with pytest.raises(PellucidError, match="sentence 1 has no room for a token"):
        engine.search(source, [Sentence(0, 0)], GREEDY, RULES, SearchStats())


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda step: step(np.array([3, 4, 5])), "3 tokens for 4 rows"),
        (lambda step: step(np.array([3, 4, 5, 83])), "tokens of a step: there is no token 83"),
        (lambda step: step(np.array([3, 4, 5, -1])), "tokens of a step: there is no token -1"),
        (lambda step: step(np.array([3, 4, 5, 2**40])), "tokens of a step: there is no token 1099511627776"),
        (lambda step: step.reorder(np.array([0, 1, 1, 2])), "row 2 cannot continue row 1: .* are 2 to 3"),
        (lambda step: step.reorder(np.array([0, 1, 2, 4])), "row 3 cannot continue row 4"),
        (lambda step: step.reorder(np.array([-1, 1, 2, 3])), "row 0 cannot continue row -1"),
        (lambda step: step.reorder(np.array([0, 1, 2])), "3 parents for 2 sentences"),
        (lambda step: step.reorder(np.array([], np.int64)), "0 parents for 2 sentences"),
        (lambda step: step.select(np.array([2])), "there is no sentence 2 to keep"),
        (lambda step: step.select(np.array([-1])), "there is no sentence -1 to keep"),
        (lambda step: step.select(np.array([1, 1])), "a sentence is kept twice"),
    ],
)
def test_steps(step: NativeStep, do: Callable[[NativeStep], Any], words: str) -> None:
    with pytest.raises(PellucidError, match=words):
        do(step)
    assert np.isfinite(np.array(step(np.full(4, 9)).read())).all()  # nothing has happened to it


def test_arrays_of_any_kind_and_layout() -> None:
    wide = np.arange(40).reshape(4, 10)
    for values in ([1, 31], wide[::3, 1], np.array([1, 31], np.uint8), np.array([31, 1], ">i8")[::-1]):
        for found in (tokens_within(values, 40, "tokens"), sentences_within(values, 40)):
            assert found.tolist() == [1, 31] and found.flags.c_contiguous and found.dtype.isnative
        assert (tokens_within(values, 40, "tokens").dtype, sentences_within(values, 40).dtype) == (np.int32, np.int64)
    for values, words in (
        ([5.0, 6.0], "not float64"),
        ([[5, 6], [7, 8]], r"not int64 of shape \(2, 2\)"),
        ([[5], [7, 8]], "not object"),
        (np.array([True, False]), "not bool"),
        (["5"], "not <U1"),
        ([2**70], "not object"),
    ):
        with pytest.raises(PellucidError, match=f"tokens must be a row of whole numbers, {words}"):
            tokens_within(values, 40, "tokens")
    with pytest.raises(PellucidError, match="there is no token"):
        tokens_within(np.array([2**64 - 1], np.uint64), 40, "tokens")


def test_no_step_beyond_what_was_announced(engine: NativeModel) -> None:
    step = engine.start([[5, EOS]], 1)
    step(np.array([BOS]))
    with pytest.raises(PellucidError, match="more steps than the 1"):
        step(np.array([4]))
    nobody = engine.start([[5, EOS]], 3)
    nobody.select(np.array([], np.int64))
    nobody.reorder(np.array([], np.int64))
    nobody(np.array([], np.int64))
    assert engine.search([], [], GREEDY, RULES, SearchStats()) == []


def test_learned_positions_end_in_the_words_of_the_model(tmp_path: Path) -> None:
    engine = packed(random_model(positions="learned", max_positions=8), tmp_path)
    with pytest.raises(LengthError) as found:
        engine.start([[5] * 9], 3)
    assert str(found.value) == str(LengthError.beyond_positions(9, 8))
    with pytest.raises(LengthError, match="a sequence of 9 tokens does not fit the 8 learned positions"):
        search(engine, [[5] * 8])
    step = engine.start([[5] * 8], 100)
    for _ in range(8):
        step(np.array([BOS]))
    with pytest.raises(LengthError, match="a sequence of 9 tokens does not fit the 8 learned positions"):
        step(np.array([BOS]))


def test_a_batch_outlives_the_restriction_it_was_begun_under(engine: NativeModel) -> None:
    with engine.restricted([5, 6, EOS]):
        step = engine.start([[5, EOS]], 3)
    logprobs = np.array(step(np.array([BOS])).read())[0]
    assert set(np.flatnonzero(np.isfinite(logprobs)).tolist()) == {EOS, 5, 6}
    with pytest.raises(PellucidError, match="there is no token 83"), engine.restricted([83]):
        pass


def test_one_batch_in_several_threads(engine: NativeModel) -> None:
    step = engine.start([[5, EOS]] * 8, 400)
    found: list[Any] = []

    def work() -> None:
        found.extend(np.isfinite(np.array(step(np.full(8, 4)).read())).all() for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 200 and all(found)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("settings", [{}, {"positions": "learned", "max_positions": 9, "tied_embeddings": "none"}])
def test_packed_weights_whose_head_is_of_another_model(tmp_path: Path, precision: Any, settings: Any) -> None:
    packed(random_model(**settings), tmp_path, precision)
    file = tmp_path / f"{precision}.bin"
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    model, places = header["model"], header["tensors"]
    others: list[dict[str, Any]] = [
        {"model": {**model, "hidden_size": 256}},
        {"model": {**model, "decoder_layers": 5}},
        {"model": {**model, "encoder_layers": 1}},
        {"model": {**model, "ff_size": 4096}},
        {"model": {**model, "head_dim": 512}},
        {"model": {**model, "positions": "learned", "max_positions": 4000}},
        {"model": "none"},
        {"sizes": [83, 4000]},
        {"sizes": [4000, 83]},
        {"sizes": [83, -1]},
        {"sizes": [83]},
        {"precision": "int4"},
        {"precision": "int8" if precision == "float32" else "float32"},
        {"packed_tables": []},
        {"tensors": places[:-1]},
        {"tensors": places[:1]},
        {"tensors": []},
        {"tensors": [*places, places[0]]},
        {"tensors": [None, *places[1:]]},
        {"tensors": [[places[0][0], 1 << 40], *places[1:]]},
        {"tensors": [[-64, places[0][1]], *places[1:]]},
        {"tensors": [[places[0][0] + 1, places[0][1]], *places[1:]]},
    ]
    for other in others:
        head = json.dumps({**header, **other}).encode()
        head += b" " * (-(8 + len(head)) % 64)
        (tmp_path / "other.bin").write_bytes(len(head).to_bytes(8, "little") + head + whole[8 + length :])
        with pytest.raises(ModelFolderError, match="packed weights that are damaged"):
            NativeModel(tmp_path / "other.bin")


@pytest.mark.parametrize("workers", [1, 3])
def test_one_bound_of_memory_for_all_workers(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = random_sources(40, 30)
    settings = DecodingConfig(beam_size=4, min_length=20, max_length=60)
    answers, taken = [], []
    for most in (1 << 30, 1_200_000, 1):
        monkeypatch.setattr(engine_module, "MOST_BYTES", most)
        engine = packed(random_model(spread=6.0), tmp_path)
        found = engine.search(sources, sentences(sources, settings), settings, RULES, SearchStats(), workers)
        answers.append(found)
        taken.append(engine.most_bytes)
    assert answers[1:] == answers[:1] * 2
    assert taken[0] > 5_000_000 and 300_000 < taken[1] <= 1_200_000 and 100_000 < taken[2] < 300_000


@pytest.mark.parametrize("way", ["search", "step"])
def test_ctrl_c_ends_the_reading_of_a_long_source(tmp_path: Path, way: str) -> None:
    engine = packed(random_model(positions="none"), tmp_path)
    source = [[5] * 150_000]  # a minute and more: the work of attention grows with the square of the length

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.start(source, 3) if way == "step" else search(engine, source)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 20
