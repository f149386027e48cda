"""Both kinds of next-token tables give the same answers to everything that search asks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pellucid.decoding.candidates import TensorNextTokens
from pellucid.decoding.next_tokens import ArrayNextTokens
from pellucid.decoding.step import NextTokens
from pellucid.errors import PellucidError


def tables(rows: int = 12, vocab_size: int = 150, seed: int = 0) -> list[NextTokens]:
    """The same numbers in both; many are equal, some are impossible."""
    values = -np.random.default_rng(seed).integers(0, 9, (rows, vocab_size)).astype(np.float32) / 4
    values[values < -1.9] = -np.inf
    return [ArrayNextTokens(values.copy()), TensorNextTokens(torch.from_numpy(values.copy()))]


def expected_best(values: np.ndarray, offsets: np.ndarray, count: int) -> list[list[tuple[int, int]]]:
    """(row, token) of the best possible sums by full sorting, equal ones by place."""
    k = offsets.shape[1]
    ranked = []
    for beam, offset in enumerate(offsets):
        sums = values[beam * k : (beam + 1) * k] + offset[:, None].astype(np.float32)
        order = np.argsort(-sums.ravel(), kind="stable")[:count]
        ranked.append([divmod(int(place), values.shape[1]) for place in order if sums.ravel()[place] > -np.inf])
    return ranked


@pytest.mark.parametrize("k", [1, 3, 4])
@pytest.mark.parametrize("count", [1, 5, 100, 10_000])
def test_best(k: int, count: int) -> None:
    for table in tables():
        offsets = -np.arange(12.0).reshape(-1, k) / 4
        offsets[0, -1] = -np.inf
        values = table.read().copy()
        choices = table.best(offsets, count)
        assert choices.rows.shape == (12 // k, min(count, k * 150))
        possible = np.take_along_axis(offsets, choices.rows, 1) + choices.logprobs > -np.inf
        found = [
            list(zip(rows[kept].tolist(), tokens[kept].tolist(), strict=True))
            for rows, tokens, kept in zip(choices.rows, choices.tokens, possible, strict=True)
        ]
        assert found == expected_best(values, offsets, count)
        rows = np.arange(12 // k)[:, None] * k + choices.rows
        assert np.array_equal(choices.logprobs[possible], values[rows, choices.tokens][possible])
        assert np.array_equal(choices.model_logprobs, choices.logprobs)


def test_changes() -> None:
    for table in tables():
        before = table.read().copy()
        wanted = before.copy()
        table.remember()
        table.forbid_everywhere(np.array([3, 149]))
        wanted[:, [3, 149]] = -np.inf
        table.forbid(np.array([0, 0, 5]), np.array([1, 2, 7]))
        wanted[[0, 0, 5], [1, 2, 7]] = -np.inf
        table.scale(np.array([1, 2]), np.array([10, 11]), 1.5)
        wanted[[1, 2], [10, 11]] *= np.float32(1.5)
        table.forbid(np.array([4]), np.array([20]))  # what is forced comes, forbidden or not
        table.allow_only(np.array([4, 6]), np.array([20, 21]))
        wanted[[4, 6]] = -np.inf
        wanted[[4, 6], [20, 21]] = before[[4, 6], [20, 21]]
        assert np.array_equal(table.read(), wanted)
        assert table.vocab_size == 150
        tokens = np.tile(np.array([10, 11, 20]), (12, 1))
        ranked, of_model = table.take(tokens)
        assert np.array_equal(ranked, np.take_along_axis(wanted, tokens, 1))
        assert np.array_equal(of_model, np.take_along_axis(before, tokens, 1))


def test_a_free_token_counts_nothing_and_keeps_its_log_p() -> None:
    for table in tables():
        before = table.read().copy()
        table.remember()
        table.allow_only(np.array([2]), np.array([9]), free=True)
        choices = table.best(np.zeros((12, 1)), 1)
        assert (choices.tokens[2, 0], choices.logprobs[2, 0]) == (9, 0.0)
        assert choices.model_logprobs[2, 0] == before[2, 9]


def test_what_is_left_can_be_made_to_sum_to_one() -> None:
    for table in tables():
        before = table.read().copy()
        table.forbid_everywhere(np.arange(100))
        table.forbid(np.full(50, 3), np.arange(100, 150))  # row 3 has nothing left
        table.renormalize()
        p = np.exp(table.read().astype(np.float64))
        assert p[3].sum() == 0 and np.allclose(np.delete(p, 3, 0).sum(1), 1)
        possible = np.isfinite(before[5]) & (np.arange(150) >= 100)
        assert np.ptp(before[5, possible] - table.read()[5, possible]) < 1e-5  # all by the same factor
        tokens = np.full((12, 1), 120)
        assert np.array_equal(table.take(tokens)[1][5], before[5, [120]])


def test_nan_is_refused() -> None:
    values = np.full((2, 70), -1.0, np.float32)
    values[1, 66] = np.nan
    for table in (ArrayNextTokens(values.copy()), TensorNextTokens(torch.from_numpy(values.copy()))):
        with pytest.raises(PellucidError, match="NaN"):
            table.best(np.zeros((2, 1)), 3)
        with pytest.raises(PellucidError, match="NaN"):
            table.read()
