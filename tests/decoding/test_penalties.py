"""Length penalties: their values, and the bound that exact stopping relies on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.decoding.penalties import largest_penalty, length_penalty

NAMES = ["average", "power", "gnmt", "none"]


@pytest.mark.parametrize(
    ("name", "alpha", "length", "expected"),
    [
        ("average", 1.0, 7, 7.0),
        ("average", 0.3, 7, 7.0),  # alpha is for power and gnmt
        ("power", 0.5, 9, 3.0),
        ("power", 1.0, 7, 7.0),
        ("power", 0.0, 7, 1.0),
        ("gnmt", 1.0, 1, 1.0),
        ("gnmt", 1.0, 7, 2.0),
        ("gnmt", 0.6, 31, 6.0**0.6),
        ("none", 3.0, 7, 1.0),
    ],
)
def test_values(name: str, alpha: float, length: int, expected: float) -> None:
    assert length_penalty(name, alpha, length) == pytest.approx(expected, rel=1e-15)


@given(
    name=st.sampled_from(NAMES),
    alpha=st.one_of(st.sampled_from([0.0, 1e-17, 1e-9, 1.0, 10.0]), st.floats(0, 10)),
    limit=st.integers(1, 300),
    total=st.floats(-500, 0),
)
def test_no_continuation_beats_the_bound_and_one_reaches_it(name: str, alpha: float, limit: int, total: float) -> None:
    bound = total / largest_penalty(name, alpha, limit)
    scores = [total / length_penalty(name, alpha, length) for length in range(1, limit + 1)]
    assert max(scores) <= bound
    assert scores[-1] == bound
