"""The step functions that search is given for an :class:`EncoderDecoder`: with the KV cache, and without.

Knows the model and its cache; knows nothing about how tokens are chosen. Here NumPy meets tensors.
Shapes: B sentences, R rows (sentence-major), S source, T target so far, V vocabulary.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pellucid.decoding.candidates import TensorNextTokens
from pellucid.decoding.step import Ints
from pellucid.model.transformer import EncoderDecoder
from pellucid.trace import Observer

__all__ = ["CachedStep", "UncachedStep"]


class CachedStep:
    """Computes only the new token of each row; everything before it is in the cache.

    Args:
        model: in evaluation mode.
        source: [B, S].
        source_mask: [B, S], True = real.
        observer: told about the encoder's attention and every step's.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: EncoderDecoder,
        source: Int64[Tensor, "B S"],
        source_mask: Bool[Tensor, "B S"],
        observer: Observer | None = None,
    ) -> None:
        self.model = model
        self.observer = observer
        self.cache = model.start_cache(model.encode(source, source_mask, observer), source_mask)

    @torch.inference_mode()
    def __call__(self, tokens: Ints) -> TensorNextTokens:
        """log p of every next token, after one more token per row."""
        logits = self.model.step(_on(self.cache.source_mask, tokens), self.cache, self.observer)
        return TensorNextTokens(logits.float().log_softmax(-1))

    @torch.inference_mode()
    def reorder(self, parents: Ints) -> None:
        """Row r goes on from what was row ``parents[r]``."""
        self.cache.reorder(_on(self.cache.source_mask, parents))

    @torch.inference_mode()
    def select(self, sentences: Ints) -> None:
        """Keep only these sentences."""
        self.cache.select(_on(self.cache.source_mask, sentences))


class UncachedStep:
    """Computes the whole prefix again at every step, as a model without a cache must; checks the cache."""

    @torch.inference_mode()
    def __init__(self, model: EncoderDecoder, source: Int64[Tensor, "B S"], source_mask: Bool[Tensor, "B S"]) -> None:
        self.model = model
        self._memory, self._mask = model.encode(source, source_mask), source_mask
        self._prefix = torch.empty(source.shape[0], 0, dtype=torch.int64, device=source.device)

    @torch.inference_mode()
    def __call__(self, tokens: Ints) -> TensorNextTokens:
        """log p of every next token, after one more token per row."""
        self._prefix = torch.cat((self._prefix, _on(self._prefix, tokens)[:, None]), 1)
        beams = self._prefix.shape[0] // self._memory.shape[0]
        memory, mask = self._memory.repeat_interleave(beams, 0), self._mask.repeat_interleave(beams, 0)
        decoder = self.model.decoder
        states = decoder(self._prefix, decoder.source_keys_values(memory), mask[:, None, None, :])
        return TensorNextTokens(self.model.output(states[:, -1]).float().log_softmax(-1))

    @torch.inference_mode()
    def reorder(self, parents: Ints) -> None:
        """Row r goes on from what was row ``parents[r]``."""
        self._prefix = self._prefix.index_select(0, _on(self._prefix, parents))

    @torch.inference_mode()
    def select(self, sentences: Ints) -> None:
        """Keep only these sentences."""
        kept = _on(self._prefix, sentences)
        beams = self._prefix.shape[0] // self._memory.shape[0]
        rows = (kept[:, None] * beams + torch.arange(beams, device=kept.device)).flatten()
        self._prefix = self._prefix.index_select(0, rows)
        self._memory, self._mask = self._memory.index_select(0, kept), self._mask.index_select(0, kept)


def _on(tensor: Tensor, array: Ints) -> Tensor:
    """``array`` as a tensor where ``tensor`` is."""
    return torch.from_numpy(array).to(tensor.device)
