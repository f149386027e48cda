"""Dropout on the CPU: the share, the scale, the gradient, the random stream."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from pellucid.config import ModelConfig
from pellucid.model.layers import Dropout
from pellucid.model.transformer import Embedder


@pytest.mark.parametrize("probability", [0.01, 0.1, 0.3, 0.5, 0.99])
def test_the_share_that_is_dropped_and_the_scale_of_the_rest(probability: float) -> None:
    count = 400_003  # not divisible by 4
    y = Dropout(probability)(torch.ones(count))
    spread = math.sqrt(probability * (1 - probability) / count)
    assert (y == 0).float().mean().item() == pytest.approx(probability, abs=5 * spread)
    assert y[y != 0].unique().tolist() == pytest.approx([1 / (1 - probability)], rel=1e-3)
    assert y.mean().item() == pytest.approx(1, abs=5 * spread / (1 - probability) + 1e-3)


def test_each_of_the_four_decisions_of_a_draw_is_fair_and_independent() -> None:
    dropped = (Dropout(0.3)(torch.ones(400_000)) == 0).view(-1, 4).float()
    assert dropped.mean(0).tolist() == pytest.approx([0.3] * 4, abs=5 * math.sqrt(0.21 / 100_000))
    together = dropped.T @ dropped / 100_000
    for first in range(4):
        for second in range(first):
            assert together[first, second].item() == pytest.approx(0.09, abs=5 * math.sqrt(0.09 / 100_000))
    following = (dropped[:-1] * dropped[1:]).mean().item()
    assert following == pytest.approx(0.09, abs=5 * math.sqrt(0.09 / 400_000))


@pytest.mark.parametrize("shape", [(), (1,), (2,), (3,), (5,), (2, 3, 7), (0, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_shape_and_type_stays_what_it_is(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.ones(shape, dtype=dtype)
    y = Dropout(0.5)(x)
    assert (y.shape, y.dtype) == (x.shape, dtype)
    assert ((y == 0) | (y == 2)).all()


def test_the_gradient_is_the_mask_times_the_scale() -> None:
    x = torch.randn(101, requires_grad=True)
    y = Dropout(0.25)(x)
    upstream = torch.randn(101)
    y.backward(upstream)
    assert x.grad is not None
    expected = torch.where(y == 0, torch.zeros(()), upstream * 4 / 3)
    assert torch.allclose(x.grad, expected)
    assert (x.grad == 0).any()
    assert torch.allclose(y, torch.where(y == 0, torch.zeros(()), x * 4 / 3))


@pytest.mark.parametrize("dtypes", list(itertools.product([torch.float32, torch.bfloat16], repeat=2)))
def test_to_add_what_is_left_is_dropout_and_a_sum(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    dropout, upstream = Dropout(0.3), torch.randn(7, 5)
    x, y = (torch.randn(7, 5, dtype=dtype, requires_grad=True) for dtype in dtypes)
    results = []
    for add in (lambda: dropout.add_to(x, y), lambda: x + dropout(y)):
        torch.manual_seed(4)
        total = add()
        results.append([total, *torch.autograd.grad(total, (x, y), upstream.to(total.dtype))])
    for found, expected in zip(*results, strict=True):
        assert found.dtype == expected.dtype
        assert torch.allclose(found, expected, rtol=1e-2 if torch.bfloat16 in dtypes else 1e-6, atol=1e-2)
    assert (results[0][2] == 0).any()
    assert torch.equal(results[0][2] == 0, results[1][2] == 0)


def test_what_is_dropped_is_dropped_whatever_it_was() -> None:
    x = torch.full((100,), float("inf"), dtype=torch.bfloat16)
    assert set(Dropout(0.5)(x).tolist()) == {0.0, float("inf")}


def test_nothing_happens_in_evaluation_or_at_zero() -> None:
    x = torch.randn(10)
    state = torch.get_rng_state()
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_the_mask_comes_from_the_default_generator() -> None:
    dropout, x = Dropout(0.5), torch.ones(1001)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)
    state = torch.get_rng_state()
    assert torch.equal(dropout(x), second)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x), second)


def test_a_probability_next_to_0_drops_nothing() -> None:
    assert (Dropout(1e-9)(torch.ones(1_000_000)) == 1).all()


def test_a_probability_next_to_1_keeps_the_smallest_share_there_is() -> None:
    y = Dropout(1 - 1e-9)(torch.ones(1_000_000))
    assert y.unique().tolist() == [0, 65536]
    assert (y != 0).sum().item() == pytest.approx(1_000_000 / 65536, abs=5 * math.sqrt(1_000_000 / 65536))


def test_word_dropout_takes_whole_tokens_and_leaves_their_positions() -> None:
    config = ModelConfig(preset="tiny", word_dropout=0.25, dropout=0.0)
    embedder = Embedder(config, torch.nn.Embedding(11, config.hidden_size), two_sided=True)
    tokens = torch.randint(11, (40, 50))
    everything, positions = embedder.eval()(tokens), embedder.positions.vectors(50, 0)
    left = embedder.train()(tokens) - positions
    gone = (left == 0).all(-1)
    assert gone.float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert torch.allclose(left[~gone], (everything - positions)[~gone] / 0.75, atol=1e-5)
