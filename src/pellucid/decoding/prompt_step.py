"""The step function of a decoder alone: prompts go through the cache in one parallel pass, then token by token.

Prompts of one length stand in one cache, without padding; a batch of several lengths is several caches, side by side.
So nothing that a row attends to depends on the other rows. Knows nothing about how tokens are chosen.
Shapes: B sentences, R rows (sentence-major), P prompt tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from pellucid.decoding.candidates import TensorNextTokens
from pellucid.decoding.step import Ints
from pellucid.model.alone import DecoderOnly
from pellucid.model.cache import KVCache

__all__ = ["PromptStep"]


@dataclass
class _Group:
    """Sentences whose prompts are of one length, with the logits [rows, V] behind what the cache holds."""

    cache: KVCache
    logits: Tensor

    @property
    def sentences(self) -> int:
        return self.cache.sentences


class PromptStep:
    """Continues prompts.

    Args:
        model: in evaluation mode.
        prompts: token numbers, none of them empty.
    """

    @torch.inference_mode()
    def __init__(self, model: DecoderOnly, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self._device = model.output.weight.device
        self._groups: list[_Group] = []
        for _, same in groupby(prompts, len):
            tokens = torch.tensor([list(prompt) for prompt in same], device=self._device)
            cache = model.start_cache(tokens.shape[0])
            self._groups.append(_Group(cache, model(tokens, cache)[:, -1]))
        self._is_first = True

    @torch.inference_mode()
    def __call__(self, tokens: Ints) -> TensorNextTokens:
        """log p of every next token; the first call's tokens stand for the prompts, which are in the cache already."""
        if not self._is_first:
            given = torch.from_numpy(tokens).to(self._device)
            for group, part in zip(self._groups, given.split([g.cache.rows for g in self._groups]), strict=True):
                group.logits = self.model(part[:, None], group.cache)[:, -1]
        self._is_first = False
        return TensorNextTokens(torch.cat([group.logits for group in self._groups]).float().log_softmax(-1))

    @torch.inference_mode()
    def reorder(self, parents: Ints) -> None:
        """Row r goes on from what was row ``parents[r]``."""
        beams = len(parents) // sum(group.sentences for group in self._groups)
        given = torch.from_numpy(parents).to(self._device)
        before = 0
        for group, part in zip(self._groups, given.split([g.sentences * beams for g in self._groups]), strict=True):
            rows = group.cache.rows
            group.cache.reorder(part - before)
            group.logits = group.logits.index_select(0, part - before)
            before += rows

    @torch.inference_mode()
    def select(self, sentences: Ints) -> None:
        """Keep only these sentences."""
        kept, first = [], 0
        for group in self._groups:
            count = group.sentences
            chosen = sentences[(sentences >= first) & (sentences < first + count)] - first
            first += count
            if len(chosen):
                beams = group.cache.rows // count
                places = torch.from_numpy(chosen).to(self._device)
                group.cache.select(places)
                rows = (places[:, None] * beams + torch.arange(beams, device=self._device)).flatten()
                group.logits = group.logits.index_select(0, rows)
                kept.append(group)
        self._groups = kept
