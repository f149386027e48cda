"""The K best continuations, against a stable sort of everything."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from pellucid.decoding.candidates import best_continuations


@example(shape=(2, 3, 65), count=12, steps=0, impossible=0.99, seed=1)  # what fills up a row's last chunk is nothing
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 2, 63, 64, 65, 128, 200, 321])),
    count=st.integers(1, 12),
    steps=st.sampled_from([1, 3, 1000, 0]),
    impossible=st.sampled_from([0.0, 0.5, 0.99]),
    seed=st.integers(0, 1000),
)
def test_same_as_a_stable_sort(
    shape: tuple[int, int, int], count: int, steps: int, impossible: float, seed: int
) -> None:
    B, k, V = shape
    random = torch.Generator().manual_seed(seed)
    logprobs, offsets = -torch.rand(shape, generator=random) * 9, -torch.rand(B, k, generator=random) * 5
    if steps:  # ties, some across rows
        logprobs, offsets = (logprobs * steps / 9).round() / steps, offsets.round()
    logprobs[torch.rand(shape, generator=random) < impossible] = -torch.inf
    offsets[:, 1:][torch.rand(B, k - 1, generator=random) < impossible] = -torch.inf
    rows, tokens, chosen, largest = best_continuations(logprobs, offsets, count)
    sums = (logprobs + offsets[:, :, None]).flatten(1)
    values, places = sums.sort(dim=1, descending=True, stable=True)
    values, places = values[:, :count], places[:, :count]
    assert rows.shape == tokens.shape == chosen.shape == (B, min(count, k * V))
    possible = values > -torch.inf  # which impossible ones fill up does not matter
    assert torch.equal((rows * V + tokens)[possible], places[possible])
    assert torch.equal(chosen + offsets.gather(1, rows), values)
    assert largest == logprobs.max()


def test_lower_row_then_lower_token_wins() -> None:
    rows, tokens, _, _ = best_continuations(torch.full((1, 3, 200), -2.0), torch.zeros(1, 3), 5)
    assert rows.tolist() == [[0] * 5] and tokens.tolist() == [[0, 1, 2, 3, 4]]
    logprobs = torch.full((1, 3, 200), -2.0)
    logprobs[0, 1:, 150] = logprobs[0, 2, 7] = 0.0
    rows, tokens, _, _ = best_continuations(logprobs, torch.zeros(1, 3), 4)
    assert list(zip(rows[0].tolist(), tokens[0].tolist(), strict=True)) == [(1, 150), (2, 7), (2, 150), (0, 0)]


def test_minus_zero_is_zero() -> None:
    rows, _, _, _ = best_continuations(torch.tensor([[[-0.0], [0.0]]]), torch.tensor([[-0.0, 0.0]]), 2)
    assert rows.tolist() == [[0, 1]]


@pytest.mark.parametrize("place", [0, 70, 199])
@pytest.mark.parametrize("bits", [0x7FC00000, -0x400000])  # quiet NaN of either sign
def test_any_nan_shows_in_the_largest(place: int, bits: int) -> None:
    logprobs = -torch.rand(2, 3, 200)
    logprobs.view(torch.int32)[1, 2, place] = bits
    assert logprobs[1, 2, place].isnan()
    assert best_continuations(logprobs, torch.zeros(2, 3), 4)[3].isnan()
