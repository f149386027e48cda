"""Drawing a token from a distribution that was cut and sharpened first. Pure numbers.

The random numbers are handed in: who draws decides what they belong to (``draws`` gives those of one input).
Shapes: N rows, V vocabulary, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.config import DecodingConfig
from pellucid.decoding.step import Floats, Ints

__all__ = ["draws", "sample"]

FIRST_CANDIDATES = 256
"""How many of a row's tokens are put in order at first; more only where these do not hold enough probability."""


def draws(seed: int, index: int, number: int, count: int) -> Floats:
    """``count`` uniform numbers in [0, 1) for the ``number``-th sample of input ``index``.

    A stream of their own for every (seed, index, number): nothing else that is generated changes them.
    """
    uniform: Floats = np.random.default_rng((seed, index, number)).random(count)
    return uniform


def sample(logprobs: NDArray[np.float32], uniform: Floats, settings: DecodingConfig) -> Ints:
    """One token for each row, by inversion: the tokens that are left laid side by side, each as wide as it is probable.

    The order of the cuts: ``temperature``, then ``top_k``, ``top_p`` (Holtzman et al. 2020), ``min_p`` (Nguyen et al.
    2024), ``typical_p`` (Meister et al. 2023), each on what the one before left, made to sum to 1 again.

    Args:
        logprobs: [N, V]; -inf where impossible. A row without a possible token gives any.
        uniform: [N], in [0, 1).
        settings: the five settings above are used.
    """
    # Float32 for all of [N, V], which is what the time goes into; float64 for what is summed.
    peak = np.maximum(logprobs.max(1, keepdims=True), np.float32(-1e30))
    weights = np.exp((logprobs - peak) / np.float32(settings.temperature))
    is_cut = settings.top_k is not None or settings.top_p < 1.0 or settings.min_p > 0.0
    if is_cut:
        return _in_growing_parts(weights, uniform, settings, _sample_cut)
    if settings.typical_p < 1.0:
        return _in_growing_parts(weights, uniform, settings, _sample_typical)
    return _inverted(weights.astype(np.float64), uniform)


Part = Callable[[NDArray[np.float32], Floats, DecodingConfig, int], tuple[Ints, NDArray[np.bool_]]]


def _in_growing_parts(
    weights: NDArray[np.float32], uniform: Floats, settings: DecodingConfig, sample_part: Part
) -> Ints:
    """Put a few tokens of each row in order first, and more only in rows where the others could matter."""
    tokens = np.zeros(len(weights), np.int64)
    pending = np.arange(len(weights))
    count = min(weights.shape[1], settings.top_k or FIRST_CANDIDATES)
    while pending.size:
        chosen, settled = sample_part(weights[pending], uniform[pending], settings, count)
        tokens[pending[settled]] = chosen[settled]
        pending = pending[~settled]
        count = min(weights.shape[1], 8 * count)
    return tokens


def _sample_cut(
    weights: NDArray[np.float32], uniform: Floats, settings: DecodingConfig, count: int
) -> tuple[Ints, NDArray[np.bool_]]:
    """Sample among the ``count`` most probable tokens; and in which rows nothing else is left by the cuts."""
    N, V = weights.shape
    order = _smallest(-weights, count)
    p = np.take_along_axis(weights, order, 1).astype(np.float64)  # [N, C], falling
    is_whole = count == V or settings.top_k is not None
    total = p.sum(1) if is_whole else weights.sum(1, dtype=np.float64)
    p /= np.maximum(total, 1e-300)[:, None]
    settled = np.full(N, is_whole)
    kept = np.ones(p.shape, np.bool_)
    if settings.top_p < 1.0:
        kept &= np.cumsum(p, 1) - p < settings.top_p
        settled |= p.sum(1) >= settings.top_p
    if settings.min_p > 0.0:
        kept &= p >= settings.min_p * p[:, :1]
        settled |= p[:, -1] < settings.min_p * p[:, 0]
    p = np.where(kept, p, 0.0)
    if settings.typical_p < 1.0:
        p = np.where(_typical(p, settings.typical_p), p, 0.0)
    return np.take_along_axis(order, _inverted(p, uniform)[:, None], 1)[:, 0], settled


def _sample_typical(
    weights: NDArray[np.float32], uniform: Floats, settings: DecodingConfig, count: int
) -> tuple[Ints, NDArray[np.bool_]]:
    """Sample among the ``count`` most typical tokens; and in which rows they hold the share that is asked for."""
    p = weights.astype(np.float64)
    p /= np.maximum(p.sum(1, keepdims=True), 1e-300)
    order = _smallest(_distance(p), count)
    p = np.take_along_axis(p, order, 1)
    before = np.cumsum(p, 1) - p
    settled = (p.sum(1) >= settings.typical_p) | (count == weights.shape[1])
    p = np.where(before < settings.typical_p, p, 0.0)
    return np.take_along_axis(order, _inverted(p, uniform)[:, None], 1)[:, 0], settled


def _inverted(p: Floats, uniform: Floats) -> Ints:
    """The place in each row of ``p`` [N, C] that ``uniform`` falls on when the row is made to sum to 1."""
    reached = np.cumsum(p, 1)
    places = (reached <= (uniform * reached[:, -1])[:, None]).sum(1)
    # Rounding may leave the last sum at or below what is wanted: then the last place that has anything.
    last = p.shape[1] - 1 - np.argmax(p[:, ::-1] > 0, axis=1)
    inverted: Ints = np.minimum(places, last)
    return inverted


def _smallest(keys: NDArray[Any], count: int) -> Ints:
    """[N, count] places of the smallest keys of each row, smallest first, equal ones by place."""
    N, V = keys.shape
    if count == V:
        whole: Ints = np.argsort(keys, axis=1, kind="stable")
        return whole
    # argpartition leaves open which of equal ones it takes; all of those at the threshold are sorted by place.
    highest = np.partition(keys, count - 1, axis=1)[:, count - 1]
    order = np.empty((N, count), np.int64)
    for row in range(N):
        places = np.flatnonzero(keys[row] <= highest[row])
        order[row] = places[np.argsort(keys[row, places], kind="stable")[:count]]
    return order


def _distance(p: Floats) -> Floats:
    """How far each token's information is from the entropy of its row; infinite where p is 0."""
    with np.errstate(divide="ignore"):
        information = -np.log(p)
    entropy = (p * np.where(p > 0, information, 0.0)).sum(1, keepdims=True)
    distance: Floats = np.abs(information - entropy)
    return distance


def _typical(p: Floats, share: float) -> NDArray[np.bool_]:
    """Which of [N, C] are the most typical tokens that hold ``share`` of what is there."""
    p = p / np.maximum(p.sum(1, keepdims=True), 1e-300)
    order = np.argsort(_distance(p), axis=1, kind="stable")
    in_order = np.take_along_axis(p, order, 1)
    kept = np.zeros(p.shape, np.bool_)
    np.put_along_axis(kept, order, (np.cumsum(in_order, 1) - in_order < share) & (in_order > 0), 1)
    return kept
