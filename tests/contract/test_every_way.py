"""The contract in the test suite, for every way of generating that there is; a new one is a new entry of ``WAYS``.

Greedy search, beams, n-best lists and samples are settings that the checks themselves go through.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import pellucid
from pellucid.contract.model_way import ModelWay
from pellucid.contract.run import check
from pellucid.contract.ways import Inside, Way
from pellucid.decoding.model_step import UncachedStep
from pellucid.translator import Translator

SOURCES = ["ba da", "ga ka la", "ma", "na pa ra ta"]


def cached(model: Path, _patch: pytest.MonkeyPatch) -> Way:
    """What ``pellucid.load`` gives. All its items are in tests/cli/test_check.py."""
    return ModelWay(pellucid.load(model, "cpu"))


def uncached(model: Path, patch: pytest.MonkeyPatch) -> Way:
    """The same, computing every prefix from its beginning."""

    def start(translator: Translator, sources: list[list[int]], _: object = ()) -> UncachedStep:
        batch = translator.batch(sources, sources)
        return UncachedStep(translator.model, batch.source, batch.source_mask)

    patch.setattr(Translator, "_start", start)
    return ModelWay(pellucid.load(model, "cpu"), "without a cache")


WAYS: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], Way], set[int]]] = {
    "cached": (cached, {3, 8, 11}),
    "uncached": (uncached, {2, 3, 4, 5, 6, 7, 12}),  # no cache: nothing of 8, and nothing that 1 has not said
}
"""How to make each way, and the items that it is asked here."""


@pytest.mark.parametrize("name", WAYS)
def test_the_contract_holds(name: str, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, items = WAYS[name]
    way = make(tiny_run, monkeypatch)
    assert isinstance(way, Way) and isinstance(way, Inside)
    results = list(check(way, SOURCES, items=items))
    assert [result for result in results if result.holds is False] == []
    assert {result.item for result in results if result.holds} == items
