"""Drawing a token from a distribution that was cut and sharpened first. Pure numbers.

The random numbers are handed in: who draws decides what they belong to (``draws`` gives those of one input).
Shapes: N rows, V vocabulary, C candidates.
"""

from __future__ import annotations

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
    """One token for each row, by inversion: tokens laid side by side from the most probable one, each as wide as it is.

    The order of the cuts: ``temperature``, then ``top_k``, ``top_p`` (Holtzman et al. 2020), ``min_p`` (Nguyen et al.
    2024), ``typical_p`` (Meister et al. 2023), each on what the one before left, made to sum to 1 again.

    Args:
        logprobs: [N, V]; -inf where impossible. A row without a possible token gives any.
        uniform: [N], in [0, 1).
        settings: the five settings above are used.
    """
    tokens = np.zeros(len(logprobs), np.int64)
    pending = np.arange(len(logprobs))
    V = logprobs.shape[1]
    count = min(V, settings.top_k or FIRST_CANDIDATES)
    while pending.size:
        chosen, settled = _sample_among(logprobs[pending], uniform[pending], settings, count)
        tokens[pending[settled]] = chosen[settled]
        pending = pending[~settled]
        count = min(V, 8 * count)
    return tokens


def _sample_among(
    logprobs: NDArray[np.float32], uniform: Floats, settings: DecodingConfig, count: int
) -> tuple[Ints, NDArray[np.bool_]]:
    """As :func:`sample` with the ``count`` most probable tokens; and for which rows the others could not matter."""
    N, V = logprobs.shape
    rows = np.arange(N)[:, None]
    scaled = logprobs.astype(np.float64) / settings.temperature
    scaled -= np.maximum(scaled.max(1, keepdims=True), -1e300)  # a row of -inf stays one
    order = _most_probable(logprobs, count)
    weights = np.exp(scaled[rows, order])  # [N, C], falling
    is_whole = count == V or settings.top_k is not None
    total = weights.sum(1) if is_whole else np.exp(scaled).sum(1)
    p = weights / np.maximum(total, 1e-300)[:, None]
    settled = np.full(N, is_whole)

    kept = np.ones(p.shape, np.bool_)
    if settings.top_p < 1.0:
        before = np.cumsum(p, 1) - p
        kept &= before < settings.top_p
        settled |= p.sum(1) >= settings.top_p
    if settings.min_p > 0.0:
        kept &= p >= settings.min_p * p[:, :1]
        settled |= p[:, -1] < settings.min_p * p[:, 0]
    if settings.typical_p < 1.0:
        kept &= _typical(np.where(kept, p, 0.0), settings.typical_p)
    mass = np.where(kept, p, 0.0)
    reached = np.cumsum(mass, 1)
    if not is_whole and settings.top_p == 1.0 and settings.min_p == 0.0 and settings.typical_p == 1.0:
        wanted = uniform  # of all tokens, not only of these
        settled |= reached[:, -1] > wanted
    else:
        wanted = uniform * reached[:, -1]
    place = np.minimum((reached <= wanted[:, None]).sum(1), count - 1)
    # Rounding may leave the last sum at or below what is wanted: then the last token that was kept.
    last = count - 1 - np.argmax(mass[:, ::-1] > 0, axis=1)
    return order[np.arange(N), np.minimum(place, last)], settled


def _most_probable(logprobs: NDArray[np.float32], count: int) -> Ints:
    """[N, count] tokens from the most probable one, equal ones by number."""
    N, V = logprobs.shape
    if count == V:
        return np.argsort(-logprobs, axis=1, kind="stable")
    # argpartition leaves open which of equal tokens it takes; stepping back below the threshold decides by number.
    lowest = np.partition(logprobs, V - count, axis=1)[:, V - count]
    order = np.empty((N, count), np.int64)
    for row in range(N):
        places = np.flatnonzero(logprobs[row] >= lowest[row])
        order[row] = places[np.argsort(-logprobs[row, places], kind="stable")[:count]]
    return order


def _typical(p: Floats, share: float) -> NDArray[np.bool_]:
    """The tokens whose information is nearest to the entropy, until they hold ``share`` of the probability."""
    p = p / np.maximum(p.sum(1, keepdims=True), 1e-300)
    with np.errstate(divide="ignore"):
        information = -np.log(p)
    entropy = np.where(p > 0, p * np.where(p > 0, information, 0.0), 0.0).sum(1, keepdims=True)
    distance = np.where(p > 0, np.abs(information - entropy), np.inf)
    order = np.argsort(distance, axis=1, kind="stable")
    rows = np.arange(len(p))[:, None]
    sorted_p = p[rows, order]
    kept = np.zeros(p.shape, np.bool_)
    kept[rows, order] = (np.cumsum(sorted_p, 1) - sorted_p < share) & (sorted_p > 0)
    return kept
