"""Length penalties: what Σ log p of a hypothesis is divided by to give its score.

A length counts generated tokens, ``</s>`` included. Pure numbers; knows nothing about search.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["LengthPenaltyName", "largest_penalty", "length_penalty"]

LengthPenaltyName = Literal["average", "power", "gnmt", "none"]


def length_penalty(name: LengthPenaltyName, alpha: float, length: int) -> float:
    """The divisor for a hypothesis of ``length`` ≥ 1 tokens.

    ``average``: length; ``power``: length^alpha; ``gnmt``: ((5 + length) / 6)^alpha (Wu et al. 2016, eq. 14, without
    the coverage term); ``none``: 1. All are positive. For alpha ≥ 0 none falls as the length grows; for
    alpha < 0 (which some checkpoints of other toolkits have, to favour short outputs) ``power`` does.
    """
    if name == "average":
        return float(length)
    if name == "power":
        return float(length**alpha)
    if name == "gnmt":
        return float(((5 + length) / 6) ** alpha)
    return 1.0


def largest_penalty(name: LengthPenaltyName, alpha: float, limit: int) -> float:
    """The largest divisor of any length up to ``limit``: Σ log p of a prefix over it bounds every continuation's score.

    A prefix of sum s ≤ 0 can only go on to sums ≤ s, since log p ≤ 0. A negative sum is the better the larger its
    divisor, and for alpha ≥ 0 divisors do not fall with the length. So no continuation that ends within the limit
    scores above s / largest_penalty, and one that goes on for free up to the limit reaches it: the bound is tight. For
    alpha < 0 the first length has the largest divisor: a bound as well, but not a tight one.
    """
    return length_penalty(name, alpha, limit if alpha >= 0 else 1)
