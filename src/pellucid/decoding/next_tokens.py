"""Log-probabilities of next tokens in a NumPy array: for step functions that compute without PyTorch.

Knows nothing of where they come from. Shapes: B beams, k rows each, R = B · k rows, V vocabulary, C choices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pellucid.decoding.step import Choices, Floats, Ints, check_largest

__all__ = ["ArrayNextTokens"]


class ArrayNextTokens:
    """A :class:`~pellucid.decoding.step.NextTokens` over an array.

    Args:
        logprobs: [R, V] float32, at most 0; is written to.
    """

    def __init__(self, logprobs: NDArray[np.float32]) -> None:
        self._logprobs = logprobs
        self._of_model: NDArray[np.float32] | None = None  # kept once they differ from what is ranked

    @property
    def vocab_size(self) -> int:
        return int(self._logprobs.shape[1])

    def remember(self) -> None:
        if self._of_model is None:
            self._of_model = self._logprobs.copy()

    def forbid_everywhere(self, tokens: Ints) -> None:
        self._logprobs[:, tokens] = -np.inf

    def forbid(self, rows: Ints, tokens: Ints) -> None:
        self._logprobs[rows, tokens] = -np.inf

    def allow_only(self, rows: Ints, tokens: Ints, *, free: bool = False) -> None:
        assert self._of_model is not None, "remember first"
        values = np.float32(0.0) if free else self._of_model[rows, tokens]
        self._logprobs[rows] = -np.inf
        self._logprobs[rows, tokens] = values

    def scale(self, rows: Ints, tokens: Ints, factor: float) -> None:
        self.remember()
        self._logprobs[rows, tokens] *= np.float32(factor)

    def renormalize(self) -> None:
        self.remember()
        largest = np.maximum(self._logprobs.max(1, keepdims=True), np.float32(-1e30))
        self._logprobs -= largest
        with np.errstate(divide="ignore"):
            sums = np.log(np.exp(self._logprobs).sum(1, keepdims=True))
        self._logprobs -= np.where(np.isfinite(sums), sums, 0)

    def best(self, offsets: Floats, count: int) -> Choices:
        check_largest(float(self._logprobs.max()))
        B, k = offsets.shape
        V = self.vocab_size
        sums = (self._logprobs.reshape(B, k, V) + offsets.astype(np.float32)[:, :, None]).reshape(B, k * V)
        count = min(count, k * V)
        lowest = np.partition(sums, k * V - count, axis=1)[:, k * V - count]
        chosen = np.empty((B, count), np.int64)
        for beam in range(B):
            places = np.flatnonzero(sums[beam] >= lowest[beam])  # more than `count` where the last ones are equal
            chosen[beam] = places[np.argsort(-sums[beam, places], kind="stable")[:count]]
        rows, tokens = np.divmod(chosen, V)
        return Choices(rows, tokens, *self._at(np.arange(B)[:, None] * k + rows, tokens))

    def take(self, tokens: Ints) -> tuple[Floats, Floats]:
        return self._at(np.arange(len(tokens))[:, None], tokens)

    def read(self) -> NDArray[np.float32]:
        check_largest(float(self._logprobs.max()))
        return self._logprobs

    def _at(self, rows: Ints, tokens: Ints) -> tuple[Floats, Floats]:
        ranked = np.minimum(self._logprobs[rows, tokens].astype(np.float64), 0.0)
        if self._of_model is None:
            return ranked, ranked
        return ranked, np.minimum(self._of_model[rows, tokens].astype(np.float64), 0.0)
