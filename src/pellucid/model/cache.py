"""The KV cache: what a decoder keeps so that a step computes only the new token.

A value passed in and advanced once per step by the decoder, never by a layer. Two parts of different nature:

- self-attention: one key and value per row and position, growing by one per step, reordered with the beams;
- cross-attention: one set per source *sentence*, computed once, shared by all its beams, never copied or reordered.

Rows are sentence-major: row = sentence · k + beam, with the same k for every sentence.
Shapes: B sentences, R rows, G key/value heads, T target positions, S source positions, D head size.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.model.cache_bytes import CacheBytes

__all__ = ["CacheBytes", "KVCache"]

FIRST_CAPACITY = 16
"""Positions allocated at the first append; doubled whenever they are full."""


class KVCache:
    """Keys and values of every decoder layer.

    Args:
        cross: for each layer, keys and values [B, G, S, D] of the encoder's states.
        source_mask: [B, 1, 1, S], True = a real source token.

    Attributes:
        length: target positions held; the position of the next token.
        rows: rows held, R.
    """

    def __init__(
        self,
        cross: list[tuple[Float[Tensor, "B G S D"], Float[Tensor, "B G S D"]]],
        source_mask: Bool[Tensor, "B 1 1 S"],
    ) -> None:
        self.cross = cross
        self.source_mask = source_mask
        self.length = 0
        self.rows = source_mask.shape[0]
        self._self: list[tuple[Tensor, Tensor] | None] = [None] * len(cross)

    @property
    def sentences(self) -> int:
        """Source sentences held, B."""
        return self.source_mask.shape[0]

    def append(
        self, layer: int, key: Float[Tensor, "R G T D"], value: Float[Tensor, "R G T D"]
    ) -> tuple[Float[Tensor, "R G S D"], Float[Tensor, "R G S D"]]:
        """Write the new positions of ``layer`` behind the ones held and return all of them (views).

        The length does not change: the decoder calls :meth:`advance` when every layer has written.
        """
        end = self.length + key.shape[2]
        if self.length == 0:
            assert key.shape[0] % self.sentences == 0
            self.rows = key.shape[0]
        assert key.shape[0] == self.rows  # one row would be written into all of them without a complaint
        pair = self._self[layer]
        if pair is None or pair[0].shape[2] < end:
            held_key, held_value = pair or (None, None)
            pair = self._self[layer] = (self._grown(held_key, key, end), self._grown(held_value, value, end))
        for held, new in zip(pair, (key, value), strict=True):
            held[:, :, self.length : end] = new
        return pair[0][:, :, :end], pair[1][:, :, :end]

    def _grown(self, held: Tensor | None, new: Tensor, end: int) -> Tensor:
        capacity = FIRST_CAPACITY
        while capacity < end:
            capacity *= 2
        rows, heads, _, size = new.shape
        grown = new.new_empty(rows, heads, capacity, size)
        if held is not None:
            grown[:, :, : self.length] = held[:, :, : self.length]
        return grown

    def advance(self, positions: int) -> None:
        """Count positions that every layer has appended."""
        self.length += positions

    def reorder(self, parents: Int[Tensor, " R2"]) -> None:
        """Let row r go on from what was row ``parents[r]``; the number of rows may change, the sentences stay.

        Parents must be of the same sentence. Cross keys and values belong to sentences and are not touched.
        """
        for layer, pair in enumerate(self._self):
            if pair is not None:
                self._self[layer] = (self._taken(pair[0], parents), self._taken(pair[1], parents))
        self.rows = parents.shape[0]

    def select(self, sentences: Int[Tensor, " B2"]) -> None:
        """Keep only these sentences, in this order: the others have finished and leave."""
        beams = self.rows // self.sentences
        rows = (sentences[:, None] * beams + torch.arange(beams, device=sentences.device)).flatten()
        self.cross = [(key.index_select(0, sentences), value.index_select(0, sentences)) for key, value in self.cross]
        self.source_mask = self.source_mask.index_select(0, sentences)
        self.reorder(rows)

    def _taken(self, held: Tensor, rows: Tensor) -> Tensor:
        # Only the used positions are read and written, once; the capacity stays.
        taken = held.new_empty(rows.shape[0], *held.shape[1:])
        torch.index_select(held[:, :, : self.length].detach(), 0, rows, out=taken[:, :, : self.length])
        return taken

    def self_shape(self) -> list[int]:
        """Of one layer's keys for self-attention, as reserved: rows, heads, positions, size; empty before a step."""
        pair = self._self[0]
        return [] if pair is None else list(pair[0].shape)

    def used_bytes(self) -> CacheBytes:
        """Bytes that hold keys and values: for self-attention 2 · layers · G · D · length · R · bytes per element."""
        used = sum(_nbytes(tensor[:, :, : self.length]) for pair in self._self if pair for tensor in pair)
        return CacheBytes(used, self._cross_bytes())

    def allocated_bytes(self) -> CacheBytes:
        """Bytes reserved, capacity that is not used yet included."""
        return CacheBytes(sum(_nbytes(tensor) for pair in self._self if pair for tensor in pair), self._cross_bytes())

    def _cross_bytes(self) -> int:
        return sum(_nbytes(tensor) for pair in self.cross for tensor in pair)


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
