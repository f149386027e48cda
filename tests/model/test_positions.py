"""Position schemes: the formulas, their limits, and tables that grow."""

from __future__ import annotations

import math

import pytest
import torch
from model_cases import assert_close, make_config
from torch import Tensor

from pellucid.errors import LengthError
from pellucid.model.positions import (
    LearnedPositions,
    NoPositions,
    RelativePositions,
    RotaryPositions,
    SinusoidalPositions,
    make_positions,
    sinusoidal_table,
)


@pytest.mark.parametrize("position", [0, 1, 7, 255, 256, 5000])
@pytest.mark.parametrize("size", [2, 16, 512])
def test_sinusoidal_values_are_those_of_the_paper(position: int, size: int) -> None:
    found = SinusoidalPositions(size).add(torch.zeros(1, 1, size), position)[0, 0]
    for i in range(size // 2):
        angle = position / 10000 ** (2 * i / size)
        assert found[2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
        assert found[2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_a_table_that_starts_later_is_a_part_of_the_whole() -> None:
    assert torch.equal(sinusoidal_table(3, 4, 8), sinusoidal_table(0, 7, 8)[3:])


@pytest.mark.parametrize("scheme", [SinusoidalPositions(8), LearnedPositions(20, 8)])
@torch.inference_mode()
def test_added_vectors_do_not_depend_on_how_the_sequence_is_cut(scheme: NoPositions) -> None:
    x = torch.randn(2, 12, 8)
    whole = scheme.add(x)
    assert torch.equal(torch.cat((scheme.add(x[:, :5]), scheme.add(x[:, 5:], 5)), 1), whole)
    assert_close(whole[0] - x[0], whole[1] - x[1])  # the same for every row
    assert not torch.equal(whole[0, 0] - x[0, 0], whole[0, 1] - x[0, 1])
    assert torch.equal(scheme.rotate(whole[None]), whole[None])  # it acts in one place only


def test_learned_vectors_are_the_rows_of_the_table() -> None:
    scheme = LearnedPositions(6, 4)
    assert torch.equal(scheme.add(torch.zeros(1, 3, 4), 2)[0], scheme.table[2:5])
    assert scheme.table.requires_grad


def test_a_learned_table_names_length_and_limit() -> None:
    scheme = LearnedPositions(6, 4)
    scheme.check(6)
    scheme.add(torch.zeros(1, 2, 4), 4)
    with pytest.raises(LengthError, match="7 tokens does not fit the 6 learned positions"):
        scheme.check(7)
    with pytest.raises(LengthError, match="8 tokens does not fit the 6 learned positions"):
        scheme.add(torch.zeros(1, 2, 4), 6)


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary", "none"])
def test_the_other_schemes_have_no_limit(positions: str) -> None:
    make_positions(make_config(positions=positions, max_positions=4)).check(10**9)


@pytest.mark.parametrize("scheme", [NoPositions(), RotaryPositions(8)])
def test_these_schemes_leave_embeddings_alone(scheme: NoPositions) -> None:
    x = torch.randn(2, 3, 8)
    assert torch.equal(scheme.add(x, 5), x)


@pytest.mark.parametrize("position", [0, 1, 100, 1000])
def test_rotary_turns_each_pair_by_its_own_speed(position: int) -> None:
    x = torch.randn(1, 1, 1, 6)
    found = RotaryPositions(6).rotate(x, position)[0, 0, 0].double()
    for i in range(3):
        angle = position * 10000.0 ** (-2 * i / 6)
        first, second = x[0, 0, 0, i].item(), x[0, 0, 0, i + 3].item()
        assert found[i].item() == pytest.approx(first * math.cos(angle) - second * math.sin(angle), abs=1e-5)
        assert found[i + 3].item() == pytest.approx(second * math.cos(angle) + first * math.sin(angle), abs=1e-5)


def test_rotary_is_the_identity_at_position_0_and_keeps_norms() -> None:
    scheme, x = RotaryPositions(8), torch.randn(2, 3, 50, 8)
    turned = scheme.rotate(x)
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    assert (turned[:, :, 1:] - x[:, :, 1:]).abs().amax(-1).min() > 1e-2
    assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    scheme, query, key = RotaryPositions(8), torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(at: int, other: int) -> Tensor:
        return (scheme.rotate(query, at) * scheme.rotate(key, other)).sum()

    for distance in (0, 1, 5):
        near, far = score(distance, 0), score(distance + 200, 200)
        torch.testing.assert_close(near, far, rtol=0, atol=2e-5)
    assert (score(0, 0) - score(5, 0)).abs() > 1e-2
    assert (score(5, 0) - score(0, 5)).abs() > 1e-2  # the sign of the distance counts


@pytest.mark.parametrize("scheme", ["sinusoidal", "rotary"])
def test_a_table_that_grew_during_inference_serves_training_too(scheme: str) -> None:
    positions = make_positions(make_config(positions=scheme))
    with torch.inference_mode():
        positions.add(torch.zeros(1, 1, 16), 1000)
        positions.rotate(torch.zeros(1, 1, 1, 4), 1000)
    x, y = torch.randn(1, 3, 16, requires_grad=True), torch.randn(1, 4, 3, 4, requires_grad=True)
    (positions.add(x, 900).square().sum() + positions.rotate(y, 900).square().sum()).backward()
    assert x.grad is not None
    assert y.grad is not None
    assert all(not table.is_inference() for table in positions.buffers())
    fresh = make_positions(make_config(positions=scheme))
    assert torch.equal(positions.add(x, 900), fresh.add(x, 900))
    assert torch.equal(positions.rotate(y, 900), fresh.rotate(y, 900))


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary"])
def test_fixed_tables_are_no_parameters_and_not_saved(positions: str) -> None:
    scheme = make_positions(make_config(positions=positions))
    assert list(scheme.buffers())
    assert not list(scheme.parameters())
    assert not scheme.state_dict()


@pytest.mark.parametrize("two_sided", [True, False])
def test_relative_buckets_are_near_exact_then_shared_then_one(two_sided: bool) -> None:
    scheme = RelativePositions(2, 32, 128, two_sided=two_sided)
    distance = torch.arange(300)
    past = scheme.bucket(-distance[:, None])[:, 0]
    exact, last = (8, 15) if two_sided else (16, 31)
    assert past[:exact].tolist() == list(range(exact))
    assert (past.diff() >= 0).all()
    assert past[127] == past[128] == past[299] == last
    assert past[127 // 2] < last
    later = scheme.bucket(distance[:, None])[:, 0]
    if two_sided:
        assert (later[1:] == past[1:] + 16).all()
    else:
        assert (later == 0).all()


def test_relative_bias_of_a_step_is_the_last_row_of_the_whole() -> None:
    scheme = RelativePositions(3, 8, 10, two_sided=False)
    whole = scheme.bias(14)
    assert whole.shape == (1, 3, 14, 14)
    for t in range(14):
        assert torch.equal(scheme.bias(1, t), whole[:, :, t : t + 1, : t + 1])
    assert torch.equal(scheme.bias(4, 10), whole[:, :, 10:])
    whole.sum().backward()
    assert scheme.table.grad is not None
    assert (scheme.table.grad[:7] != 0).all()


@pytest.mark.parametrize("layout", ["halves", "fairseq"])
def test_other_layouts_have_all_sines_first(layout: str) -> None:
    config = make_config(sinusoidal_layout=layout, first_position=2)
    found = make_positions(config).add(torch.zeros(1, 3, 16))[0]
    for position in range(3):
        for i in range(8):
            angle = (position + 2) / 10000 ** (2 * i / 16 if layout == "halves" else i / 7)
            assert found[position, i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert found[position, 8 + i].item() == pytest.approx(math.cos(angle), abs=1e-6)
    grown = make_positions(config).add(torch.zeros(1, 2, 16), 1000)
    assert torch.equal(grown[0, 0], sinusoidal_table(1002, 1, 16, layout)[0])
