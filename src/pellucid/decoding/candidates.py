"""Log-probabilities of next tokens in a tensor, and the K best continuations of each beam, ties decided by place.

Knows tensors of numbers; knows nothing about ``</s>``, lengths or finished hypotheses. The tensor stays on its device;
what search asks for comes back in NumPy, with log p in float64 (which not every device has).
Shapes: B beams, k rows each, R = B · k rows, V vocabulary, K continuations wanted, C chunks of a row.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import Tensor

from pellucid.decoding.step import Choices, Floats, Ints, check_largest

__all__ = ["TensorNextTokens", "best_continuations"]

# Sorting B · k · V numbers is what beam search spends its own time on. Reading them once is far cheaper: take the
# maximum of every chunk of a row, find the K best maxima, and sort only inside those K chunks. With B = 64, k = K = 5,
# V = 8000 on one core of a Xeon: 1.9 ms, most of it reading, against 4.5 ms for the K best of each row first and 6.7 ms
# for all at once. 64 numbers are four vectors of 16, which the reduction reads fastest.
CHUNK = 64


class TensorNextTokens:
    """A :class:`~pellucid.decoding.step.NextTokens` over a tensor on any device.

    Args:
        logprobs: [R, V], at most 0, contiguous; is written to, so it must not be a view of anything needed later.
    """

    # Tensors made in inference mode, as a step's are, may be written to in inference mode only.

    def __init__(self, logprobs: Float32[Tensor, "R V"]) -> None:
        self._logprobs = logprobs
        self._of_model: Tensor | None = None  # kept once they differ from what is ranked

    @property
    def vocab_size(self) -> int:
        return self._logprobs.shape[1]

    @torch.inference_mode()
    def remember(self) -> None:
        if self._of_model is None:
            self._of_model = self._logprobs.clone()

    @torch.inference_mode()
    def forbid_everywhere(self, tokens: Ints) -> None:
        self._logprobs.index_fill_(1, self._put(tokens), -torch.inf)

    @torch.inference_mode()
    def forbid(self, rows: Ints, tokens: Ints) -> None:
        self._logprobs[self._put(rows), self._put(tokens)] = -torch.inf

    @torch.inference_mode()
    def allow_only(self, rows: Ints, tokens: Ints, *, free: bool = False) -> None:
        assert self._of_model is not None, "remember first"
        on_rows, on_tokens = self._put(rows), self._put(tokens)
        values = 0.0 if free else self._of_model[on_rows, on_tokens]
        self._logprobs[on_rows] = -torch.inf
        self._logprobs[on_rows, on_tokens] = values

    @torch.inference_mode()
    def scale(self, rows: Ints, tokens: Ints, factor: float) -> None:
        self.remember()
        self._logprobs[self._put(rows), self._put(tokens)] *= factor

    @torch.inference_mode()
    def renormalize(self) -> None:
        self.remember()
        sums = self._logprobs.logsumexp(1, keepdim=True)
        self._logprobs -= torch.where(sums.isfinite(), sums, 0.0)

    @torch.inference_mode()
    def best(self, offsets: Floats, count: int) -> Choices:
        B, k = offsets.shape
        on_device = self._put(offsets.astype(np.float32))
        rows, tokens, ranked, largest = best_continuations(self._logprobs.view(B, k, -1), on_device, count)
        check_largest(largest.item())
        given = ranked
        if self._of_model is not None:
            given = self._of_model.view(B, -1).gather(1, rows * self.vocab_size + tokens)
        return Choices(rows.cpu().numpy(), tokens.cpu().numpy(), _floats(ranked), _floats(given))

    @torch.inference_mode()
    def take(self, tokens: Ints) -> tuple[Floats, Floats]:
        on_device = self._put(tokens)
        ranked = _floats(self._logprobs.gather(1, on_device))
        return ranked, ranked if self._of_model is None else _floats(self._of_model.gather(1, on_device))

    @torch.inference_mode()
    def read(self) -> NDArray[np.float32]:
        check_largest(self._logprobs.amax().item())
        array: NDArray[np.float32] = self._logprobs.cpu().numpy()
        return array

    def _put(self, array: Ints | NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(self._logprobs.device)


def _floats(logprobs: Tensor) -> Floats:
    return np.minimum(logprobs.cpu().numpy().astype(np.float64), 0.0)


def best_continuations(
    logprobs: Float32[Tensor, "B k V"], offsets: Float32[Tensor, "B k"], count: int
) -> tuple[Int64[Tensor, "B K"], Int64[Tensor, "B K"], Float32[Tensor, "B K"], Float32[Tensor, ""]]:
    """The ``count`` largest of ``logprobs + offsets`` for each sentence, largest first; K = min(count, k · V).

    Equal sums are ordered by lower row, then lower token, so the answer never depends on the algorithm or the batch:
    the K best chunks, ordered by (maximum, place), hold the K best numbers, ordered by (value, place).

    Args:
        logprobs: log p ≤ 0 of each token after each row; -inf where impossible. Contiguous.
        offsets: what each row has gathered so far, ≤ 0; -inf for dead rows.
        count: the most continuations wanted.

    Returns:
        Row within the sentence, token, and log p of that token alone; and the largest of all ``logprobs``, which is NaN
        if any of them is. Where fewer than K are possible, the last ones have a log p or a row's offset of -inf.
    """
    B, k, V = logprobs.shape
    maxima = _chunk_maxima(logprobs)
    C, largest = maxima.shape[2], maxima.amax()
    ranked = _first_largest(maxima.add_(offsets[:, :, None]).view(B, k * C), min(count, k * C))
    # In order of place, so that places within what is gathered are ordered as in the whole.
    chunks = ranked.sort(dim=1).values
    rows = torch.div(chunks, C, rounding_mode="floor")
    tokens = (chunks % C * CHUNK)[:, :, None] + torch.arange(CHUNK, device=logprobs.device)
    places = (rows[:, :, None] * V + tokens.clamp(max=V - 1)).view(B, -1)
    inner = logprobs.view(B, k * V).gather(1, places)
    if V % CHUNK:
        inner.masked_fill_((tokens >= V).view(B, -1), -torch.inf)
    sums = inner.view(B, -1, CHUNK) + offsets.gather(1, rows)[:, :, None]
    chosen = _first_largest(sums.view(B, -1), min(count, k * V))
    place = places.gather(1, chosen)
    row = torch.div(place, V, rounding_mode="floor")
    return row, place - row * V, inner.gather(1, chosen), largest


def _chunk_maxima(logprobs: Float32[Tensor, "B k V"]) -> Float32[Tensor, "B k C"]:
    B, k, V = logprobs.shape
    end = V // CHUNK * CHUNK
    maxima = logprobs[:, :, :end].view(B, k, -1, CHUNK).amax(3) if end else logprobs[:, :, :0]
    if end < V:
        maxima = torch.cat((maxima, logprobs[:, :, end:].amax(2, keepdim=True)), 2)
    return maxima


def _first_largest(values: Float32[Tensor, "B N"], count: int) -> Int64[Tensor, "B K"]:
    """Places of the largest values, largest first, equal ones by place (``topk`` leaves that open).

    All values are at most 0. The bits of their magnitudes, read as integers, are in the order of the magnitudes
    (IEEE 754); with the place below those bits no two keys are equal.
    """
    keys = values.abs().view(torch.int32).long()
    keys = keys.bitwise_left_shift_(32).bitwise_or_(torch.arange(values.shape[1], device=values.device))
    return keys.topk(count, dim=1, largest=False).indices
