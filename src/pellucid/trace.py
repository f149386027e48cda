"""What the model may tell an observer while it computes: the event types and the observer protocol.

This file knows nothing about who listens or what is done with the events. An observer is passed down explicitly as an
argument; where it is ``None`` (always, unless someone looks inside) no event is built and the fused attention may run.

Shapes: B rows, H query heads, G key/value heads, T query positions, S key positions, D head size, M model size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

__all__ = ["AttentionEvent", "AttentionUse", "EmbeddingEvent", "Observer"]

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
        scores: [B, H, T, S], query·key/√D (undivided where the model does not scale) and the position scheme's bias,
            before the mask.
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


@dataclass(frozen=True, slots=True)
class EmbeddingEvent:
    """What goes into a stack: tokens, looked up, scaled, with their positions; the very tensors, detached.

    Attributes:
        use: which stack.
        start: position of the first token.
        tokens: [B, T].
        embedded: [B, T, M], rows of the embedding matrix, before the scale.
        scale: what they are multiplied by.
        positions: [T, M], what is added to that; ``None`` where nothing is.
        summed: [B, T, M], embedded · scale + positions.
        output: [B, T, M], what the first layer gets: after the norm, where there is one.
    """

    use: Literal["encoder", "decoder"]
    start: int
    tokens: torch.Tensor
    embedded: torch.Tensor
    scale: float
    positions: torch.Tensor | None
    summed: torch.Tensor
    output: torch.Tensor


@runtime_checkable
class Observer(Protocol):
    """Receives events; must not change the tensors it is handed. Who inherits from it need not care for all of them."""

    def attention(self, event: AttentionEvent) -> None:
        """Called once for every attention computed, in order of computation."""
        return

    def embedding(self, event: EmbeddingEvent) -> None:
        """Called before a stack's first layer."""
        return
