"""What is traced: a model with its tokenizers, one source as the encoder gets it, and the settings of the search.

Here text meets tokens; the other files of this folder see numbers. Shapes: S source tokens, with padding.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pellucid.config import DecodingConfig
from pellucid.data.text import TextRules
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.data.units import segment_text, unit_spans
from pellucid.decoding.model_step import CachedStep
from pellucid.decoding.search import Search
from pellucid.model.positions import NoPositions
from pellucid.model.transformer import EncoderDecoder
from pellucid.trace import Observer
from pellucid.tracing.document import Token, Unit
from pellucid.tracing.request import TraceRequest

__all__ = ["Subject", "Traceable", "unmasked_copy", "unordered_copy"]


@runtime_checkable
class Traceable(Protocol):
    """What is needed of a :class:`~pellucid.translator.Translator`."""

    model: EncoderDecoder
    source_tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    rules: TextRules
    decoding: DecodingConfig
    folder: Path | None

    def settings(self, **overrides: Any) -> DecodingConfig:
        """Decoding settings with some replaced."""
        ...

    def source_ids(self, text: str, config: DecodingConfig) -> list[int]:
        """A source's tokens without ``</s>``."""
        ...

    def text_of(self, ids: Sequence[int], source: str, config: DecodingConfig) -> str:
        """The text of generated tokens."""
        ...

    def open_search(
        self,
        source: str,
        config: DecodingConfig,
        *,
        prefix_ids: Sequence[int] = (),
        padding: int = 0,
    ) -> tuple[Search, CachedStep]:
        """A search of one text, to be advanced step by step, and its step function."""
        ...


@dataclass(frozen=True, eq=False)
class Subject:
    """A source and everything that is known before anything is generated.

    Attributes:
        translator: the model's.
        request: what was asked.
        config: the settings of the search.
        source, mask: [1, S].
        unordered: the model without positions in its encoder.
        unmasked: the model without a causal mask.
    """

    translator: Traceable
    request: TraceRequest
    config: DecodingConfig
    source: Int64[Tensor, "1 S"]
    mask: Bool[Tensor, "1 S"]
    unordered: EncoderDecoder
    unmasked: EncoderDecoder

    @property
    def model(self) -> EncoderDecoder:
        """The model as it is."""
        return self.translator.model

    @cached_property
    def memory(self) -> Float[Tensor, "1 S M"]:
        """The encoder's states, by the path that translates."""
        return self.model.encode(self.source, self.mask)

    @cached_property
    def cross(self) -> list[tuple[Tensor, Tensor]]:
        """Each decoder layer's keys and values of the source."""
        return self.model.decoder.source_keys_values(self.memory)

    @property
    def cross_mask(self) -> Bool[Tensor, "1 1 1 S"]:
        """The source's mask as the decoder wants it."""
        return self.mask[:, None, None, :]

    def decode(self, target_in: Int64[Tensor, "1 T"], observer: Observer | None = None) -> Float[Tensor, "T V"]:
        """Logits of a whole target in one pass."""
        states = self.model.decoder(target_in, self.cross, self.cross_mask, None, observer)
        logits: Tensor = self.model.output(states)[0]
        return logits

    def target_in(self, ids: Sequence[int]) -> Int64[Tensor, "1 T"]:
        """What the decoder reads while it writes ``ids``."""
        fed = [self.translator.target_tokenizer.bos_id, *ids[:-1]]
        return torch.tensor([fed], device=self.source.device)

    def text_of(self, ids: Sequence[int], *, copies: bool = True) -> str:
        """A target as it is printed; ``copies`` is false where it was not written for the source's own order."""
        config = self.config
        if config.unknown == "copy" and not copies:
            config = config.model_copy(update={"unknown": "keep"})
        return self.translator.text_of(ids, self.request.text, config)

    def source_tokens(self, ids: Sequence[int]) -> list[Token]:
        """The tokens of a source."""
        return _tokens(self.translator.source_tokenizer, ids)

    def target_tokens(self, ids: Sequence[int]) -> list[Token]:
        """The tokens of a target, in one text."""
        return _tokens(self.translator.target_tokenizer, ids)

    def target_token(self, token: int) -> Token:
        """One token by itself."""
        return self.target_tokens([token])[0]

    def units(self) -> list[Unit]:
        """The source's words and the tokens of each; words that share a token are one."""
        translator, text = self.translator, self.request.text
        tokenizer = translator.source_tokenizer
        read = translator.rules.read_source(text)
        segments = segment_text(tokenizer, read, "words", lambda part: translator.rules.write(part, text).text)
        words = segments.units
        given = [text[start:end] for start, end in unit_spans(text)]
        if read != text and len(given) == len(words):
            words = given
        space = " " if any(character.isspace() for character in text) else ""
        members: dict[int, list[str]] = {}
        for word, group in zip(words, segments.groups(), strict=True):
            members.setdefault(group, []).append(word)
        before = len(tokenizer.prefix_ids)
        of_token = segments.token_groups()
        units = []
        for group, texts in members.items():
            tokens = [before + number for number, of in enumerate(of_token) if of == group]
            if tokens:
                joined = "".join(texts) if "".join(texts) in text else space.join(texts)
                units.append(Unit(text=joined, tokens=tokens))
        return units


def _tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> list[Token]:
    """Tokens with their texts; byte pieces that spell one character are a group, and the first has the text."""
    ids = list(ids)
    text, spans = tokenizer.decode_spans(ids)
    special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, *tokenizer.prefix_ids, *tokenizer.suffix_ids}
    pieces = tokenizer.pieces(ids)
    groups: list[list[int]] = []
    is_open = False  # the last group waits for the token that completes its character
    for number, (token, (start, end)) in enumerate(zip(ids, spans, strict=True)):
        if token in special:
            is_open = False
            groups.append([number])
            continue
        if is_open:
            groups[-1].append(number)
        else:
            groups.append([number])
        is_open = start == end and pieces[number].strip("▁ Ġ") != ""
    tokens: list[Token] = []
    for group, numbers in enumerate(groups):
        shown = "".join(text[slice(*spans[number])] for number in numbers)
        shown = shown.strip() or shown
        if ids[numbers[0]] in special or not shown or "\ufffd" in shown:
            shown = "".join(pieces[number] for number in numbers)
        for number in numbers:
            tokens.append(Token(id=ids[number], piece=pieces[number], text=shown, group=group))
            shown = ""
    return tokens


def _sharing_copy(model: EncoderDecoder) -> EncoderDecoder:
    """Another model with the very same weights: what is changed about its parts changes nothing of the first."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def unordered_copy(model: EncoderDecoder) -> EncoderDecoder:
    """The model with no positions in its encoder; it shares the weights."""
    other = _sharing_copy(model)
    other.encoder.embedder.positions = NoPositions()
    return other


def unmasked_copy(model: EncoderDecoder) -> EncoderDecoder:
    """The model with no causal mask; it shares the weights."""
    other = _sharing_copy(model)
    other.decoder.causal = False
    return other
