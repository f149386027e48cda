"""One generated sequence with its scores, still as token numbers; knows nothing about text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["FinishReason", "Hypothesis"]

FinishReason = Literal["eos", "length"]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A hypothesis of search.

    Attributes:
        tokens: what was generated, without ``<s>`` and ``</s>``.
        token_logprobs: log p of each token and, where ``finish_reason`` is ``eos``, of ``</s>`` at the end.
        score: Σ log p divided by the length penalty of ``len(token_logprobs)``; higher is better.
        finish_reason: ``eos``: the model ended it; ``length``: the length limit cut it.
    """

    tokens: list[int]
    token_logprobs: list[float]
    score: float
    finish_reason: FinishReason

    @property
    def sum_logprob(self) -> float:
        """Log p of the whole sequence."""
        return math.fsum(self.token_logprobs)
