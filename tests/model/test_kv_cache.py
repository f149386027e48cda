"""The cache as a value: appending, growing, reordering, leaving, and its bytes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pellucid.model.cache import FIRST_CAPACITY, KVCache

LAYERS, HEADS, SIZE = 2, 3, 4


def make_cache(sentences: int = 2, source_length: int = 5, cross_heads: int = 1) -> KVCache:
    shape = (sentences, cross_heads, source_length, SIZE)
    cross = [(torch.randn(shape), torch.randn(shape)) for _ in range(LAYERS)]
    return KVCache(cross, torch.rand(sentences, 1, 1, source_length) < 0.7)


def append(cache: KVCache, rows: int, new: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Append random keys and values to each layer, advance, and return what each layer was given to attend to."""
    shape = (rows, HEADS, new, SIZE)
    seen = [cache.append(layer, torch.randn(shape), torch.randn(shape)) for layer in range(LAYERS)]
    cache.advance(new)
    return seen


def contents(cache: KVCache) -> Tensor:
    """All keys and values held, [layers, 2, R, G, T, D]."""
    nothing = torch.empty(cache.rows, HEADS, 0, SIZE)  # to append nothing is to read
    return torch.stack([torch.stack(cache.append(layer, nothing, nothing)) for layer in range(LAYERS)])


def test_each_layer_sees_all_positions_in_order() -> None:
    cache = make_cache()
    parts = [torch.randn(LAYERS, 2, 2, HEADS, new, SIZE) for new in (1, 3, 14, 1, 20)]
    for end in range(1, len(parts) + 1):
        new = parts[end - 1]
        expected = torch.cat(parts[:end], 4)
        for layer in range(LAYERS):
            key, value = cache.append(layer, new[layer, 0], new[layer, 1])
            assert torch.equal(key, expected[layer, 0])
            assert torch.equal(value, expected[layer, 1])
        assert cache.length == expected.shape[4] - new.shape[4]  # until every layer has written
        cache.advance(new.shape[4])
        assert cache.length == expected.shape[4]


def test_capacity_doubles_and_a_step_within_it_allocates_nothing() -> None:
    cache = make_cache()
    places, capacities = set(), set()
    for length in range(1, 4 * FIRST_CAPACITY + 1):
        places |= {(key.data_ptr(), value.data_ptr()) for key, value in append(cache, 2)}
        per_position = 2 * LAYERS * 2 * HEADS * SIZE * 4
        capacity = cache.allocated_bytes().self_attention // per_position
        assert capacity == max(FIRST_CAPACITY, 1 << (length - 1).bit_length())
        capacities.add(capacity)
    assert capacities == {FIRST_CAPACITY, 2 * FIRST_CAPACITY, 4 * FIRST_CAPACITY}
    assert len(places) <= LAYERS * len(capacities)


def test_a_long_prefill_gets_its_capacity_at_once() -> None:
    cache = make_cache()
    append(cache, 2, 5 * FIRST_CAPACITY)
    assert cache.allocated_bytes().self_attention == 2 * LAYERS * HEADS * SIZE * 8 * FIRST_CAPACITY * 2 * 4


@pytest.mark.parametrize("parents", [[1, 0, 3, 2], [0, 0, 3, 3], [0, 2], [1, 1, 0, 2, 3, 3]])
@pytest.mark.parametrize("length", [3, FIRST_CAPACITY])
def test_reorder_lets_rows_go_on_from_their_parents(parents: list[int], length: int) -> None:
    cache = make_cache()
    append(cache, 4, length)
    before = contents(cache).clone()
    cache.reorder(torch.tensor(parents))
    assert cache.rows == len(parents)
    assert cache.sentences == 2
    assert cache.length == length
    assert torch.equal(contents(cache), before[:, :, parents])
    after = append(cache, len(parents))
    assert torch.equal(after[1][0][:, :, :-1], before[1, 0][parents])


def test_rows_that_share_a_parent_do_not_share_memory() -> None:
    cache = make_cache()
    append(cache, 2)
    cache.reorder(torch.tensor([0, 0, 1, 1]))
    new = torch.arange(4.0)[:, None, None, None].expand(4, HEADS, 1, SIZE)
    key, _ = cache.append(0, new, new)
    assert torch.equal(key[:, :, -1:], new)


def test_reorder_before_the_first_step_sets_the_rows() -> None:
    cache = make_cache()
    cache.reorder(torch.tensor([0, 0, 0, 1, 1, 1]))
    assert (cache.rows, cache.sentences, cache.length) == (6, 2, 0)
    assert cache.allocated_bytes().self_attention == 0


def test_reorder_never_touches_what_belongs_to_the_source() -> None:
    cache = make_cache()
    append(cache, 2)
    places = [tensor.data_ptr() for pair in cache.cross for tensor in pair] + [cache.source_mask.data_ptr()]
    for parents in ([1, 0], [0, 0, 0, 1, 1, 1], [5, 4, 3, 2, 1, 0], [0, 3]):
        cache.reorder(torch.tensor(parents))
        now = [tensor.data_ptr() for pair in cache.cross for tensor in pair] + [cache.source_mask.data_ptr()]
        assert now == places


@pytest.mark.parametrize("kept", [[0], [2], [2, 0], [1, 2, 0], []])
def test_select_keeps_these_sentences_in_this_order(kept: list[int]) -> None:
    cache = make_cache(sentences=3)
    append(cache, 6, 4)  # 2 beams a sentence
    before, cross, mask = contents(cache).clone(), cache.cross, cache.source_mask
    cache.select(torch.tensor(kept, dtype=torch.int64))
    assert (cache.sentences, cache.rows, cache.length) == (len(kept), 2 * len(kept), 4)
    assert torch.equal(cache.source_mask, mask[kept])
    for old, new in zip(cross, cache.cross, strict=True):
        assert torch.equal(new[0], old[0][kept])
        assert torch.equal(new[1], old[1][kept])
    rows = [row for sentence in kept for row in (2 * sentence, 2 * sentence + 1)]
    assert torch.equal(contents(cache), before[:, :, rows])


def test_select_frees_what_the_others_held() -> None:
    cache = make_cache(sentences=4)
    append(cache, 8, 3)
    used, allocated = cache.used_bytes(), cache.allocated_bytes()
    cache.select(torch.tensor([3]))
    assert cache.used_bytes().total == used.total // 4
    assert cache.allocated_bytes().total == allocated.total // 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "length"), [(2, 1), (10, 7), (4, 17)])
def test_bytes_are_those_of_the_formula(dtype: torch.dtype, rows: int, length: int) -> None:
    element = torch.empty(0, dtype=dtype).element_size()
    shape = (2, 2, 5, SIZE)
    cross = [(torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)) for _ in range(LAYERS)]
    cache = KVCache(cross, torch.ones(2, 1, 1, 5, dtype=torch.bool))
    assert cache.used_bytes().self_attention == cache.allocated_bytes().self_attention == 0
    new = torch.zeros(rows, HEADS, length, SIZE, dtype=dtype)
    held = [cache.append(layer, new, new) for layer in range(LAYERS)]
    cache.advance(length)
    used, allocated = cache.used_bytes(), cache.allocated_bytes()
    assert used.self_attention == 2 * LAYERS * HEADS * SIZE * length * rows * element
    assert used.cross_attention == allocated.cross_attention == 2 * LAYERS * 2 * SIZE * 5 * 2 * element
    assert used.total == used.self_attention + used.cross_attention
    assert allocated.self_attention == sum(tensor.untyped_storage().nbytes() for pair in held for tensor in pair)
    assert allocated.total == allocated.self_attention + allocated.cross_attention


def test_cross_bytes_are_flat_in_the_beam_size() -> None:
    cache = make_cache()
    sizes = set()
    append(cache, 2)
    for beams in (1, 2, 5, 20):
        per_sentence = cache.rows // 2
        cache.reorder(torch.tensor([s * per_sentence for s in range(2) for _ in range(beams)]))
        sizes.add(cache.used_bytes().cross_attention)
        assert cache.used_bytes().self_attention == 2 * LAYERS * HEADS * SIZE * 1 * 2 * beams * 4
    assert sizes == {2 * LAYERS * 2 * 1 * 5 * SIZE * 4}
