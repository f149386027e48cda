"""The checks of the contract can fail: each planted fault is found by the items that are about it, and by no others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_ways import TableWay, Wrapped

import pellucid
from pellucid.config import DecodingConfig
from pellucid.contract.model_way import ModelWay
from pellucid.contract.reference import beam_search, exhaustive, forced
from pellucid.contract.results import CheckResult, Worst, deviation
from pellucid.contract.run import ITEMS, check, checks_of
from pellucid.contract.ways import Inside, Output, Way
from pellucid.model import transformer
from pellucid.model.attention import Attention
from pellucid.model.cache import CacheBytes, KVCache
from pellucid.model.positions import LearnedPositions
from pellucid.model.transformer import EncoderDecoder
from pellucid.translator import Translator

Patch = pytest.MonkeyPatch


def make_translator(trained: Translator, seed: int = 12, **settings: Any) -> Translator:
    """An untrained model, which is undecided everywhere: two layers, beams that fork, outputs of all lengths."""
    sizes = dict(hidden_size=16, num_heads=2, ff_size=24, encoder_layers=2, decoder_layers=2)
    config = trained.model.config.model_copy(update={**sizes, **settings})
    torch.manual_seed(seed)
    model = EncoderDecoder(config, trained.model.source_vocab_size, trained.model.target_vocab_size).eval()
    with torch.no_grad():
        model.output.weight.mul_(3)
        model.output.weight[3] *= 1.7  # </s>: some outputs end
    return Translator(model, trained.source_tokenizer, trained.target_tokenizer, trained.decoding)


@pytest.fixture(scope="module")
def trained(tiny_run: Path) -> Translator:
    return pellucid.load(tiny_run, device="cpu")


@pytest.fixture
def translator(trained: Translator) -> Translator:
    return make_translator(trained)


SOURCES = ["ba", "da ga", "ka la ma", "na", "pa ra"]
ALL = range(1, 13)


class OneThread(ModelWay):
    """Threads are asked for in one test alone: where the machine is busy, they wait for each other."""

    @contextmanager
    def threads(self, count: int) -> Iterator[None]:
        yield


def broken(way: Way, items: Collection[int] = ALL, sources: Sequence[str] = SOURCES) -> set[int]:
    """Which of these items do not hold; every check must have come to an end."""
    results = list(check(way, sources, items=items))
    assert {result.item for result in results} == set(items)
    return {result.item for result in results if result.holds is False}


# -- faults in the model and its cache


def forgets_a_layer(patch: Patch) -> None:
    reorder = KVCache.reorder

    def fault(cache: KVCache, parents: torch.Tensor) -> None:
        kept = cache._self[1]
        reorder(cache, parents)
        if kept is not None and kept[0].shape[0] == parents.shape[0]:
            cache._self[1] = kept

    patch.setattr(KVCache, "reorder", fault)


def attends_to_padding(patch: Patch) -> None:
    encode, start = EncoderDecoder.encode, EncoderDecoder.start_cache
    patch.setattr(EncoderDecoder, "encode", lambda s, x, m, o=None: encode(s, x, torch.ones_like(m), o))
    patch.setattr(EncoderDecoder, "start_cache", lambda s, memory, m: start(s, memory, torch.ones_like(m)))


def sees_one_ahead(patch: Patch) -> None:
    def fault(new: int, past: int, device: torch.device | None = None) -> torch.Tensor:
        return torch.ones(new, past + new, dtype=torch.bool, device=device).tril(past + 1)[None, None]

    patch.setattr(transformer, "causal_mask", fault)


def leaks_a_little(patch: Patch) -> None:
    plain = Attention._plain

    def fault(self: Attention, q: Any, k: Any, v: Any, mask: Any, observer: Any, *rest: Any) -> Any:
        return plain(self, q, k, v, mask, observer, *rest) * (1.0 if observer is None else 1.001)

    patch.setattr(Attention, "_plain", fault)


def counts_cross_per_beam(patch: Patch) -> None:
    used = KVCache.used_bytes

    def fault(cache: KVCache) -> CacheBytes:
        real = used(cache)
        return CacheBytes(real.self_attention, real.cross_attention * cache.rows // cache.sentences)

    patch.setattr(KVCache, "used_bytes", fault)


def one_position_too_many(patch: Patch) -> None:
    patch.setattr(KVCache, "used_bytes", KVCache.allocated_bytes)


@pytest.mark.parametrize(
    ("plant", "breaks", "keeps"),
    [
        (forgets_a_layer, {2}, {1, 8, 9}),
        (attends_to_padding, {3, 9}, {8}),
        (sees_one_ahead, {1, 9}, {8}),
        (leaks_a_little, {11}, {1, 8, 9}),
        (counts_cross_per_beam, {8}, {9}),
        (one_position_too_many, {8}, {9}),
    ],
)
def test_a_fault_in_the_model_is_found(
    translator: Translator, monkeypatch: Patch, plant: Callable[[Patch], None], breaks: set[int], keeps: set[int]
) -> None:
    plant(monkeypatch)
    assert broken(OneThread(translator), breaks | keeps, SOURCES[:3]) == breaks


def test_a_learned_table_is_tried_at_its_end(trained: Translator, monkeypatch: Patch) -> None:
    way = OneThread(make_translator(trained, positions="learned", max_positions=40))
    results = {result.name: result for result in check(way, SOURCES, items={10})}
    assert [result for result in results.values() if result.holds is False] == []
    assert results["a learned table ends in an error"].holds is True
    assert results["positions go on"].holds is None
    monkeypatch.setattr(LearnedPositions, "check", lambda self, length: None)
    assert broken(way, {10}) == {10}


def test_a_table_that_ends_after_computing_is_found(trained: Translator, monkeypatch: Patch) -> None:
    way = OneThread(make_translator(trained, positions="learned", max_positions=40))
    decode = EncoderDecoder.decode

    def late(model: EncoderDecoder, source: Any, mask: Any, target: Any, observer: Any = None) -> Any:
        model.encode(source, mask)
        return decode(model, source, mask, target, observer)

    monkeypatch.setattr(EncoderDecoder, "decode", late)
    (found, _) = check(way, SOURCES, items={10})
    assert (found.holds, "computed before the error" in found.detail) == (False, True)


def test_a_model_of_nan_is_refused_in_a_sentence(translator: Translator) -> None:
    with torch.no_grad():
        translator.model.output.weight.fill_(torch.nan)
    with pytest.raises(pellucid.errors.PellucidError, match="NaN"):
        broken(OneThread(translator), {1, 2})


# -- faults in how something is generated


class WrongScores(Wrapped):
    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        found = self.way.generate(sources, **settings)
        return [[dataclasses.replace(o, score=1.01 * o.score) for o in outputs] for outputs in found]


class WrongLogprobs(Wrapped):
    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        found = self.way.generate(sources, **settings)
        return [
            [dataclasses.replace(o, token_logprobs=tuple(p - 0.01 for p in o.token_logprobs)) for o in outputs]
            for outputs in found
        ]


class StopsEarly(Wrapped):
    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        assert isinstance(self.way, TableWay)
        return self.way.stopping_early(sources, **settings)


class LosesTheLast(Wrapped):
    """The list is cut before it is sorted."""

    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        found = self.way.generate(sources, **settings)
        return [outputs[::-1] if len(outputs) == 4 else outputs for outputs in found]


class Repeats(Wrapped):
    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        found = self.way.generate(sources, **settings)
        return [[outputs[0], *outputs[:-1]] if len(outputs) == 4 else outputs for outputs in found]


class Batched(Wrapped):
    """The last of every full batch of 8 gets its neighbour's."""

    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        found = self.way.generate(sources, **settings)
        return [*found[:-1], found[0]] if settings["batch_size"] == 8 and len(found) > 1 else found


class LuckOfThePlace(Wrapped):
    """Random numbers belong to the place in the batch."""

    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        size = settings["batch_size"]
        parts = [sources[start : start + size] for start in range(0, len(sources), size)]
        return [outputs for part in parts for outputs in self.way.generate(part, **settings)]


class NeverTheSame(Wrapped):
    def __init__(self, way: Way) -> None:
        super().__init__(way)
        self.calls = 0

    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        self.calls += 1
        found = self.way.generate(sources, **settings)
        return [[dataclasses.replace(o, score=o.score + 1e-9 * self.calls) for o in outputs] for outputs in found]


class HidesTheLimit(Wrapped):
    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        found = self.way.generate(sources, **settings)
        return [[dataclasses.replace(o, finish_reason="eos") for o in outputs] for outputs in found]


class Crashes(Wrapped):
    def serial(self, sources: Sequence[str], targets: Sequence[Sequence[int]]) -> list[Any]:
        raise IndexError("off the table")


@pytest.mark.parametrize(
    ("fault", "items"),
    [
        (WrongScores, {2, 4, 5, 6}),
        (WrongLogprobs, {2, 3, 4, 5, 6}),
        (StopsEarly, {2, 5, 6}),
        (LosesTheLast, {2, 4, 6}),
        (Repeats, {2, 4, 6}),
        (Batched, {3}),
        (LuckOfThePlace, {3}),
        (NeverTheSame, {12}),
        (HidesTheLimit, {5, 7}),
        (Crashes, {1}),
    ],
)
def test_a_fault_in_generating_is_found(fault: type[Wrapped], items: set[int]) -> None:
    assert broken(fault(TableWay())) == items


def test_what_is_wrong_is_said() -> None:
    (result,) = check(StopsEarly(TableWay()), SOURCES, items={6})
    assert "source " in result.detail and "instead of [" in result.detail
    (crashed,) = check(Crashes(TableWay()), SOURCES, items={1})
    assert crashed.detail == "broke down: IndexError: off the table"


class StaysTraced(ModelWay):
    """Who has looked inside once is never rid of it."""

    @contextmanager
    def observed(self, attention: Any) -> Iterator[None]:
        self.left = super().observed(attention)
        self.left.__enter__()
        yield


def test_tracing_that_stays_is_found(translator: Translator) -> None:
    found = {result.name: result.holds for result in check(StaysTraced(translator), SOURCES, items={11})}
    assert found == {"traced = untraced": True, "off: the same operators": False}


# -- a way without a model, and near-ties


def test_a_way_without_a_model_is_checked_by_the_same_code() -> None:
    way = TableWay()
    assert isinstance(way, Way) and not isinstance(way, Inside)
    results = list(check(way, SOURCES))
    assert len(results) == len(checks_of(ITEMS))
    assert [result for result in results if result.holds is False] == []
    assert {result.item for result in results if result.holds is None} == {8, 9, 10, 11}
    assert "cannot be looked into" in next(result.detail for result in results if result.item == 8)


class Other(Wrapped):
    """Takes the other of two tokens that are as good as equal, where the batch is large."""

    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        found = self.way.generate(sources, **settings)
        if settings["batch_size"] == 1 or settings["sampling"]:
            return found
        swap = {5: 6, 6: 5}
        return [
            [dataclasses.replace(o, tokens=tuple(swap.get(t, t) for t in o.tokens)) for o in each] for each in found
        ]


@pytest.mark.parametrize(("apart", "holds"), [(1e-7, True), (1e-2, False)])
def test_a_near_tie_is_listed_and_a_real_difference_is_not_excused(apart: float, holds: bool) -> None:
    results = {result.name: result for result in check(Other(TableWay(ties=apart)), SOURCES, items={3})}
    found = results["batch size"]
    assert (found.holds, bool(found.near_ties)) == (holds, holds)
    if holds:
        assert found.near_ties[0].startswith("source ") and "gap" in found.near_ties[0]
    else:
        assert "no near-tie" in found.detail


# -- the slow searches and the measure


@pytest.mark.parametrize("penalty", ["average", "power", "gnmt", "none"])
@pytest.mark.parametrize("tokens", [(2, 3, 4, 1), (2, 3, 4)])
def test_the_two_slow_searches_agree(penalty: str, tokens: tuple[int, ...]) -> None:
    way = TableWay()
    chosen: dict[str, Any] = dict(max_length=4, n_best=6, penalty=penalty, alpha=0.7)
    with way.restricted(tokens):
        (wide,) = beam_search(way, ["x"], beam_size=200, **chosen)
        whole = exhaustive(way, "x", tokens, **chosen)
        (narrow,) = beam_search(way, ["x"], beam_size=1, **{**chosen, "n_best": 1})
    assert [o.tokens for o in wide.outputs] == [o.tokens for o in whole.outputs]
    assert [o.score for o in wide.outputs] == pytest.approx([o.score for o in whole.outputs], rel=1e-12)
    assert wide.gap == pytest.approx(whole.gap)
    assert {o.finish_reason for o in wide.outputs} == {"eos" if 1 in tokens else "length"}
    assert narrow.outputs[0].score <= wide.outputs[0].score


def test_forced_scores_are_those_of_the_search() -> None:
    way = TableWay()
    (found,) = beam_search(way, ["x"], max_length=6, beam_size=3, n_best=3, penalty="none", alpha=1.0)
    for output, logprobs in zip(found.outputs, forced(way, ["x"] * 3, [o.tokens for o in found.outputs]), strict=True):
        assert logprobs.tolist() == pytest.approx(output.token_logprobs, rel=1e-12)
        assert logprobs.sum() == pytest.approx(output.score, rel=1e-12)


def test_the_measure() -> None:
    inf, nan = np.inf, np.nan
    array = np.array
    assert deviation(array([1.0, 2.0]), array([1.0, 4.0])) == 0.5
    assert deviation(array([1.0, -inf]), array([1.0, -inf])) == 0.0
    assert deviation(array([1.0]), array([1.0]), 0.0) == 0.0
    assert deviation(array([1.0, 3.0]), array([1.0, 2.0]), 10.0) == 0.1
    for found, expected in (([1.0, 2.0], [1.0, -inf]), ([1.0, inf], [1.0, -inf]), ([nan], [nan]), ([1.0], [1.0, 2.0])):
        assert deviation(array(found), array(expected)) == inf
    worst = Worst()
    worst.measure(nan)
    assert worst.result(1, "x", "y").holds is False
    assert CheckResult(1, "x", None).worst is None


# -- its own settings, items, and what is refused on the way


class FullBeams(TableWay):
    """Generates with settings that no other check chooses."""

    own = DecodingConfig(beam_size=2, n_best=2, beam="full")


class WrongUnderItsOwn(Wrapped):
    """Right whatever a check chooses; its own settings bring what the place in the batch says."""

    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        found = self.way.generate(sources, **settings)
        if settings["beam"] == "narrowing":
            return found
        return [[dataclasses.replace(o, score=o.score + i / 100) for o in each] for i, each in enumerate(found)]


def test_the_settings_of_its_own_are_checked_too() -> None:
    for way, broken_items in ((FullBeams(), set()), (WrongUnderItsOwn(FullBeams()), {3})):
        results = [one for one in check(way, SOURCES[:2], items={3, 12}) if one.name.startswith("own settings")]
        assert {one.item for one in results} == {3, 12}
        assert {one.item for one in results if one.holds is False} == broken_items


class Refuses(Wrapped):
    def serial(self, sources: Sequence[str], targets: Sequence[Sequence[int]]) -> list[Any]:
        raise pellucid.errors.LengthError("too long")


def test_what_is_refused_on_the_way_is_a_row_that_fails_and_the_others_follow() -> None:
    results = list(check(Refuses(TableWay()), SOURCES[:2], items={1, 7}))
    assert [(one.item, one.holds) for one in results] == [(1, False), (7, True)]
    assert results[0].detail == "broke down: LengthError: too long"


def test_a_larger_tolerance_makes_near_ties_of_larger_gaps() -> None:
    results = {one.name: one for one in check(Other(TableWay(ties=1e-2)), SOURCES[:2], 0.05, {3})}
    assert results["batch size"].holds and results["batch size"].near_ties


def test_forced_scores_are_taken_in_parts(monkeypatch: Patch) -> None:
    way, targets = TableWay(), [[2, 3, 1], [4, 1], [2, 2, 5, 1]]
    whole = forced(way, ["x"] * 3, targets)
    sizes: list[int] = []
    parallel = way.parallel

    def counted(sources: Sequence[str], targets: Sequence[Sequence[int]]) -> Any:
        sizes.append(len(sources))
        return parallel(sources, targets)

    monkeypatch.setattr(way, "parallel", counted)
    monkeypatch.setattr("pellucid.contract.reference.NUMBERS", 20)
    for one, other in zip(forced(way, ["x"] * 3, targets), whole, strict=True):
        np.testing.assert_array_equal(one, other)
    assert sizes == [1, 1, 1]


def test_a_forced_beginning_counts_or_is_free() -> None:
    way = TableWay()
    chosen: dict[str, Any] = dict(max_length=4, beam_size=2, n_best=1, penalty="none", alpha=1.0, prefix=(5, 6))
    (counted,), (free,) = (beam_search(way, ["x"], **chosen, free=is_free) for is_free in (False, True))
    assert counted.outputs[0].tokens == free.outputs[0].tokens and free.outputs[0].tokens[:2] == (5, 6)
    assert counted.outputs[0].token_logprobs == free.outputs[0].token_logprobs
    assert free.outputs[0].score == pytest.approx(sum(free.outputs[0].token_logprobs[2:]))
