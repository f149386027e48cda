"""What the model may tell an observer while it computes: the event types and the observer protocol.

This file knows nothing about who listens or what is done with the events. An observer is passed down explicitly as an
argument; where it is ``None`` (always, unless someone looks inside) no event is built and the fused attention may run.

Shapes: B rows, H query heads, G key/value heads, T query positions, S key positions, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

__all__ = ["AttentionEvent", "AttentionUse", "Observer"]

AttentionUse = Literal["encoder", "decoder", "cross"]


@dataclass(frozen=True, slots=True)
class AttentionEvent:
    """One attention computed by the plain path; the tensors are the very ones the layer used, detached.

    Attributes:
        use: which of the three uses of the attention module this is.
        layer: 0-based layer number inside its stack.
        query: [B, H, T, D] after projection (and rotation, where positions are rotary).
        key: [B, G, S, D] likewise.
        value: [B, G, S, D].
        scores: [B, H, T, S], query·key/√D before the mask.
        mask: boolean, broadcastable to [B, H, T, S], True = may attend; ``None`` = everything may.
        weights: [B, H, T, S], softmax of the masked scores; exactly 0 where the mask is False.
    """

    use: AttentionUse
    layer: int
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scores: torch.Tensor
    mask: torch.Tensor | None
    weights: torch.Tensor


@runtime_checkable
class Observer(Protocol):
    """Receives events; must not change the tensors it is handed."""

    def attention(self, event: AttentionEvent) -> None:
        """Called once for every attention computed, in order of computation."""
        ...
