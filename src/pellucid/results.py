"""What a trained model gives: generated texts, scores, a look inside. Plain values; knows nothing of how they are made.

Shapes: L decoder layers, H query heads, S source tokens, T target tokens (both with </s>).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pellucid.decoding.hypothesis import FinishReason
from pellucid.model.cache_bytes import CacheBytes

__all__ = ["GeneratedText", "Generation", "Inspection", "Score"]


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """One hypothesis.

    Attributes:
        text: the detokenised text.
        tokens: its pieces; the last is ``</s>`` where ``finish_reason`` is ``eos``.
        token_ids: their numbers.
        token_logprobs: log p of each, natural logarithm.
        score: their sum, divided as the length penalty says; higher is better.
        finish_reason: ``eos``: the model ended it; ``length``: the limit cut it.
    """

    text: str
    tokens: list[str]
    token_ids: list[int]
    token_logprobs: list[float]
    score: float
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Generation:
    """What was generated for one source text; no hypotheses where the source is blank."""

    source: str
    hypotheses: list[GeneratedText]

    @property
    def text(self) -> str:
        """The best hypothesis' text; empty for a blank source."""
        return self.hypotheses[0].text if self.hypotheses else ""


@dataclass(frozen=True, slots=True)
class Score:
    """A given target under the model (forced scoring).

    Attributes:
        tokens: the target's pieces and ``</s>``.
        token_logprobs: log p of each given the source and the pieces before it.
        score: as for a generated text of these tokens.
    """

    tokens: list[str]
    token_logprobs: list[float]
    score: float


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the model did while it wrote one target, step by step through the KV cache.

    Attributes:
        source_tokens: S pieces, ``</s>`` last.
        target_tokens: T pieces, ``</s>`` last.
        token_logprobs: log p of each target piece.
        cross_attention: [L, H, T, S]; row t is the query that wrote target piece t; rows sum to 1.
        cache_used: bytes of keys and values after the last step.
        cache_allocated: bytes reserved for them.
    """

    source_tokens: list[str]
    target_tokens: list[str]
    token_logprobs: list[float]
    cross_attention: np.ndarray
    cache_used: CacheBytes
    cache_allocated: CacheBytes
