"""An observer that keeps everything of one pass, and gives it as arrays with named axes.

Knows nothing of models or text. Shapes: B rows, L layers, H query heads, G key/value heads, T query positions, S key
positions, D head size.
"""

from __future__ import annotations

from typing import Any

from pellucid.trace import AttentionEvent, AttentionUse, EmbeddingEvent, Observer
from pellucid.tracing.arrays import Array

__all__ = ["Recorder"]


class Recorder(Observer):
    """Keeps the events of one pass over one stack or both."""

    def __init__(self) -> None:
        self.attentions: dict[AttentionUse, list[AttentionEvent]] = {"encoder": [], "decoder": [], "cross": []}
        self.embeddings: dict[str, EmbeddingEvent] = {}

    def attention(self, event: AttentionEvent) -> None:
        self.attentions[event.use].append(event)

    def embedding(self, event: EmbeddingEvent) -> None:
        self.embeddings[event.use] = event

    def arrays(self, use: AttentionUse, rows: str, columns: str) -> dict[str, Any]:
        """The fields ``attn``, ``scores``, ``q``, ``k`` and ``v`` of that use, of the first row of the batch.

        Args:
            use: which attention.
            rows, columns: names of the axes of queries and keys.
        """
        events = self.attentions[use]
        return {
            "attn": [Array.of(event.weights[0], "head", rows, columns) for event in events],
            "scores": [Array.of(event.scores[0], "head", rows, columns) for event in events],
            "q": [Array.of(event.query[0], "head", rows, "head_size") for event in events],
            "k": [Array.of(event.key[0], "kv_head", columns, "head_size") for event in events],
            "v": [Array.of(event.value[0], "kv_head", columns, "head_size") for event in events],
        }
