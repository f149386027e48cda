"""Parallel = serial: a target fed token by token through the cache gives the logits of one teacher-forced pass."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from model_cases import CONFIGS, POSITIONS, VOCAB, assert_close, make_config, make_model, make_source
from torch import Tensor

from pellucid.config import ModelConfig
from pellucid.model.cache import KVCache
from pellucid.model.transformer import EncoderDecoder

pytestmark = pytest.mark.usefixtures("_no_gradients")


@pytest.fixture
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def prefill(model: EncoderDecoder, tokens: Tensor, cache: KVCache) -> Tensor:
    """Logits of several new tokens at once, behind what the cache holds."""
    logits: Tensor = model.output(model.decoder(tokens, cache.cross, cache.source_mask, cache))
    return logits


@pytest.mark.parametrize("config", CONFIGS)
def test_serial_equals_parallel(config: ModelConfig) -> None:
    model = make_model(config)
    source, mask = make_source(4, 7, 1)
    target = torch.randint(0, VOCAB, (3, 18))  # longer than the cache's first 16 positions
    expected = model(source, mask, target)
    cache = model.start_cache(model.encode(source, mask), mask)
    for t in range(18):
        assert cache.length == t
        assert_close(model.step(target[:, t], cache), expected[:, t])


@pytest.mark.parametrize("config", CONFIGS)
def test_prefilled_beams_equal_parallel_rows(config: ModelConfig) -> None:
    model = make_model(config)
    source, mask = make_source(4, 7, 1)
    target = torch.randint(0, VOCAB, (12, 9))  # 4 beams a sentence
    expected = model(source.repeat_interleave(4, 0), mask.repeat_interleave(4, 0), target)
    cache = model.start_cache(model.encode(source, mask), mask)
    found = [prefill(model, target[:, :4], cache), prefill(model, target[:, 4:7], cache)]
    found += [model.step(target[:, t], cache)[:, None] for t in (7, 8)]
    assert (cache.length, cache.rows, cache.sentences) == (9, 12, 3)
    assert_close(torch.cat(found, 1), expected)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("chunk", [1, 5, 16, 17])
def test_capacity_grows_past_every_doubling(positions: str, chunk: int) -> None:
    model = make_model(make_config(positions=positions, num_kv_heads=2))
    source, mask = make_source(6, 3)
    target = torch.randint(0, VOCAB, (2, 40))
    cache = model.start_cache(model.encode(source, mask), mask)
    found = torch.cat([prefill(model, part, cache) for part in target.split(chunk, 1)], 1)
    assert_close(found, model(source, mask, target))


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary"])
def test_parity_past_the_first_position_tables(positions: str) -> None:
    model = make_model(make_config(positions=positions))
    source, mask = make_source(300, 2)
    target = torch.randint(0, VOCAB, (2, 300))  # tables start with 256 rows
    cache = model.start_cache(model.encode(source, mask), mask)
    found = torch.cat((prefill(model, target[:, :250], cache), prefill(model, target[:, 250:], cache)), 1)
    fresh = make_model(make_config(positions=positions))
    assert_close(found, fresh(source, mask, target))


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(("heads", "cross_heads"), [(4, 4), (2, 1), (1, 2)])
def test_any_course_of_a_search_equals_parallel(positions: str, heads: int, cross_heads: int) -> None:
    """Beams fork, die and change places, sentences leave: each row's logits stay those of its own history."""
    rng = random.Random(heads)
    model = make_model(make_config(positions=positions, num_kv_heads=heads, cross_num_kv_heads=cross_heads))
    source, mask = make_source(5, 1, 6, 3)
    cache = model.start_cache(model.encode(source, mask), mask)
    sentences, beams = [0, 1, 2, 3], 1
    histories: list[list[int]] = [[] for _ in sentences]
    widths = set()
    for _ in range(20):
        tokens = [rng.randrange(VOCAB) for _ in histories]
        histories = [[*history, token] for history, token in zip(histories, tokens, strict=True)]
        found = model.step(torch.tensor(tokens), cache)
        rows = torch.tensor(sentences).repeat_interleave(beams)
        assert_close(found, model(source[rows], mask[rows], torch.tensor(histories))[:, -1])
        if rng.random() < 0.6:
            wanted = rng.choice((1, 2, 3, 5))
            parents = [s * beams + rng.randrange(beams) for s in range(len(sentences)) for _ in range(wanted)]
            cache.reorder(torch.tensor(parents))
            histories, beams = [histories[parent] for parent in parents], wanted
            widths.add(wanted)
        if rng.random() < 0.15 and len(sentences) > 1:
            kept = rng.sample(range(len(sentences)), len(sentences) - 1)
            cache.select(torch.tensor(kept))
            histories = [histories[s * beams + k] for s in kept for k in range(beams)]
            sentences = [sentences[s] for s in kept]
        assert (cache.rows, cache.sentences) == (len(histories), len(sentences))
    assert len(sentences) < 4
    assert len(widths) > 2


def test_a_cache_says_how_many_rows_it_has_from_its_first_step_on() -> None:
    model = make_model(make_config())
    source, mask = make_source(3, 2)
    cache = model.start_cache(model.encode(source, mask), mask)
    model.step(torch.full((6,), 2), cache)  # 3 beams from the start, without a reorder
    assert cache.rows == 6
    cache.select(torch.tensor([1]))
    assert cache.rows == 3
    expected = model(source[1:].expand(3, -1), mask[1:].expand(3, -1), torch.full((3, 2), 2))[:, 1]
    assert_close(model.step(torch.full((3,), 2), cache), expected)


@pytest.mark.parametrize(("first", "then"), [(4, 1), (4, 2), (2, 4), (3, None)])
def test_a_wrong_number_of_rows_is_refused(first: int, then: int | None) -> None:
    model = make_model(make_config())
    source, mask = make_source(3, 2)
    cache = model.start_cache(model.encode(source, mask), mask)
    if then is not None:
        model.step(torch.full((first,), 2), cache)
    with pytest.raises(AssertionError):
        model.step(torch.full((then or first,), 2), cache)
    assert cache.length == (0 if then is None else 1)
