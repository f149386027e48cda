"""The encoder, the decoder, and the two together.

Knows nothing about text, losses or search. Shapes: B sentences, k beams, R = B·k rows (sentence-major), S source,
T target, M model size, V vocabulary. Masks are boolean, True = a real token.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pellucid.config import ModelConfig
from pellucid.model.attention import are_plain, causal_mask, linear_side_by_side, split_heads
from pellucid.model.cache import KVCache
from pellucid.model.layers import DecoderLayer, Dropout, EncoderLayer, make_norm
from pellucid.model.positions import make_positions
from pellucid.model.randomness import dropout
from pellucid.trace import EmbeddingEvent, Observer

__all__ = ["Decoder", "Encoder", "EncoderDecoder"]


class Embedder(nn.Module):
    """Token embedding · scale + position (element by element), a norm if there is one, then dropout."""

    def __init__(self, config: ModelConfig, embedding: nn.Embedding, *, two_sided: bool) -> None:
        super().__init__()
        self.use: Literal["encoder", "decoder"] = "encoder" if two_sided else "decoder"
        self.embedding = embedding
        self.positions = make_positions(config, two_sided=two_sided)
        self.scale = math.sqrt(config.hidden_size) if config.scale_embeddings else 1.0
        self.norm = make_norm(config) if config.embedding_norm else nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.word_dropout = config.word_dropout
        self.narrow = config.norm == "layernorm"  # PyTorch's RMSNorm takes no input that is narrower than its weight

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        start: int = 0,
        observer: Observer | None = None,
        more: Float[Tensor, "B T M"] | None = None,
    ) -> Float[Tensor, "B T M"]:
        """Embed tokens that stand at positions ``start`` and after; ``more`` is added to the sum, before the norm.

        Raises:
            LengthError: they go past a learned table; raised before anything is computed.
        """
        self.positions.check(start + tokens.shape[1])
        embedded = self.embedding(tokens)
        if self.training and self.word_dropout:
            embedded = embedded * dropout(embedded.new_ones(*tokens.shape, 1), self.word_dropout)
        summed = self.positions.add(embedded * self.scale, start)
        if more is not None:
            summed = summed + more
        if self.training and self.narrow and torch.is_autocast_enabled("cpu") and summed.device.type == "cpu":
            # The whole residual stream: on a CPU a pass over it costs by its bytes (benchmarks/NOTES.md).
            summed = summed.to(torch.get_autocast_dtype("cpu"))
        dropped: Tensor = self.dropout(self.norm(summed))
        if observer is not None:
            vectors = self.positions.vectors(tokens.shape[1], start)
            observer.embedding(
                EmbeddingEvent(
                    self.use,
                    start,
                    tokens,
                    embedded.detach(),
                    self.scale,
                    None if vectors is None else vectors.detach(),
                    summed.detach(),
                    dropped.detach(),
                )
            )
        return dropped


class Encoder(nn.Module):
    """Reads the source with two-sided attention."""

    def __init__(self, config: ModelConfig, embedding: nn.Embedding) -> None:
        super().__init__()
        self.embedder = Embedder(config, embedding, two_sided=True)
        self.layers = nn.ModuleList(EncoderLayer(config, layer) for layer in range(config.encoder_layers))
        self.norm = make_norm(config) if config.norm_placement == "pre" else nn.Identity()

    def forward(
        self,
        source: Int[Tensor, "B S"],
        source_mask: Bool[Tensor, "B S"],
        observer: Observer | None = None,
        more: Float[Tensor, "B S M"] | None = None,
    ) -> Float[Tensor, "B S M"]:
        """States of the source; what stands at padding is meaningless and attended by nobody.

        ``more`` is added to embeddings and positions (BERT's token types).
        """
        x = self.embedder(source, 0, observer, more)
        mask = source_mask[:, None, None, :]
        positions = self.embedder.positions
        bias = positions.bias(source.shape[1])
        for layer in self.layers:
            x = layer(x, mask, positions, bias, observer)
        states: Tensor = self.norm(x)
        return states


class Decoder(nn.Module):
    """Writes the target: causal self-attention, and cross-attention to the encoder's states, where there is an encoder.

    Attributes:
        causal: whether a position sees only itself and what stands before it. False is for showing what the mask is
            for; steps through a cache are not affected, there is nothing behind them.
    """

    def __init__(self, config: ModelConfig, embedding: nn.Embedding, *, has_source: bool = True) -> None:
        super().__init__()
        self.causal = True
        self.embedder = Embedder(config, embedding, two_sided=False)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer, has_source=has_source) for layer in range(config.decoder_layers)
        )
        self.norm = make_norm(config) if config.norm_placement == "pre" else nn.Identity()
        self.divisor = math.sqrt(config.hidden_size) if config.scale_output else 1.0

    def source_keys_values(self, memory: Float[Tensor, "B S M"]) -> list[tuple[Tensor, Tensor]]:
        """Each layer's cross-attention keys and values [B, G, S, D] of the encoder's states."""
        attentions = [cast(DecoderLayer, layer).cross_attention for layer in self.layers]
        projections = [layer for attention in attentions for layer in (attention.key, attention.value)]
        if not (self.training and are_plain(projections)):
            return [attention.keys_values(memory) for attention in attentions]
        heads = attentions[0].num_kv_heads
        parts = [split_heads(part, heads) for part in linear_side_by_side(memory, projections)]
        return list(zip(parts[::2], parts[1::2], strict=True))

    def forward(
        self,
        tokens: Int[Tensor, "R T"],
        cross: list[tuple[Tensor, Tensor]],
        cross_mask: Bool[Tensor, "B 1 1 S"],
        cache: KVCache | None = None,
        observer: Observer | None = None,
    ) -> Float[Tensor, "R T M"]:
        """States of T new positions, behind those that ``cache`` holds; the cache is advanced by T."""
        start = 0 if cache is None else cache.length
        x = self.embedder(tokens, start, observer)
        new = tokens.shape[1]
        mask = None if new == 1 or not self.causal else causal_mask(new, start, tokens.device)
        positions = self.embedder.positions
        bias = positions.bias(new, start)
        for layer, keys_values in zip(self.layers, cross, strict=True):
            x = layer(x, mask, keys_values, cross_mask, positions, bias, cache, observer)
        if cache is not None:
            cache.advance(new)
        states: Tensor = self.norm(x)
        return states if self.divisor == 1.0 else states / self.divisor


class EncoderDecoder(nn.Module):
    """The encoder-decoder Transformer.

    Args:
        config: the architecture.
        source_vocab_size: V of the source side.
        target_vocab_size: V of the target side; must equal the source's where the two sides share a matrix.
    """

    def __init__(self, config: ModelConfig, source_vocab_size: int, target_vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.source_vocab_size, self.target_vocab_size = source_vocab_size, target_vocab_size
        tied = config.tied_embeddings
        assert not config.one_vocabulary or source_vocab_size == target_vocab_size
        source = nn.Embedding(source_vocab_size, config.hidden_size)
        target = source if config.one_vocabulary else nn.Embedding(target_vocab_size, config.hidden_size)
        self.encoder = Encoder(config, source)
        self.decoder = Decoder(config, target)
        self.output = nn.Linear(config.hidden_size, target_vocab_size, bias=config.output_bias)
        self._initialise()
        if tied in ("three", "two"):
            self.output.weight = target.weight

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                # With the √M scale of the embedder, inputs start with unit variance, like the positions.
                nn.init.normal_(module.weight, std=self.config.hidden_size**-0.5)

    def encode(
        self, source: Int[Tensor, "B S"], source_mask: Bool[Tensor, "B S"], observer: Observer | None = None
    ) -> Float[Tensor, "B S M"]:
        """Read the source, once per sentence.

        Raises:
            LengthError: the source is longer than a learned position table; nothing has been computed then.
        """
        memory: Tensor = self.encoder(source, source_mask, observer)
        return memory

    def decode(
        self,
        source: Int[Tensor, "B S"],
        source_mask: Bool[Tensor, "B S"],
        target_in: Int[Tensor, "B T"],
        observer: Observer | None = None,
    ) -> Float[Tensor, "B T M"]:
        """Decoder states of a whole target in one parallel pass (teacher forcing), before the output matrix.

        Raises:
            LengthError: a side is longer than a learned position table; nothing has been computed then.
        """
        self.decoder.embedder.positions.check(target_in.shape[1])  # here, because the encoder comes first
        memory = self.encode(source, source_mask, observer)
        cross = self.decoder.source_keys_values(memory)
        states: Tensor = self.decoder(target_in, cross, source_mask[:, None, None, :], None, observer)
        return states

    def forward(
        self,
        source: Int[Tensor, "B S"],
        source_mask: Bool[Tensor, "B S"],
        target_in: Int[Tensor, "B T"],
        observer: Observer | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Logits of every next token, teacher-forced: row t has seen target_in[≤ t] and the whole source."""
        logits: Tensor = self.output(self.decode(source, source_mask, target_in, observer))
        return logits

    def start_cache(self, memory: Float[Tensor, "B S M"], source_mask: Bool[Tensor, "B S"]) -> KVCache:
        """An empty cache for generation, with the cross-attention keys and values of these sentences."""
        return KVCache(self.decoder.source_keys_values(memory), source_mask[:, None, None, :])

    def step(self, tokens: Int[Tensor, " R"], cache: KVCache, observer: Observer | None = None) -> Float[Tensor, "R V"]:
        """Logits after one more token per row; computes this token only and advances the cache by one.

        Raises:
            LengthError: the cache holds as many positions as a learned table has; it stays as it is.
        """
        states: Tensor = self.decoder(tokens[:, None], cache.cross, cache.source_mask, cache, observer)
        logits: Tensor = self.output(states[:, 0])
        return logits

    @torch.no_grad()
    def parameter_counts(self) -> dict[str, int]:
        """Parameters by part; what is tied is counted once, under embeddings, the logits' bias under decoder."""
        embeddings = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)} | {id(self.output.weight)}
        counts = {"embeddings": 0, "encoder": 0, "decoder": 0}
        for name, parameter in self.named_parameters():
            part = "embeddings" if id(parameter) in embeddings else name.split(".")[0]
            counts["decoder" if part == "output" else part] += parameter.numel()
        return counts
