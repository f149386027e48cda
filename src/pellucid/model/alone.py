"""The decoder alone (a language model) and the encoder alone (a reader of text), from the parts of the encoder-decoder.

Knows nothing about text or search. Shapes: B rows, T and S positions, M model size, G key/value heads, D head size,
V vocabulary. Masks are boolean, True = a real token.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pellucid.config import ModelConfig
from pellucid.model.cache import KVCache
from pellucid.model.transformer import Decoder, Encoder
from pellucid.trace import Observer

__all__ = ["DecoderOnly", "EncoderOnly"]


class DecoderOnly(nn.Module):
    """A causal language model: each position sees itself and what stands before it, and there is no source.

    Args:
        config: the architecture; what it says of the encoder and of cross-attention has no meaning here.
            ``tied_embeddings``: ``none``: an output matrix of its own; everything else: the embeddings.
        vocab_size: V.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.source_vocab_size = self.target_vocab_size = vocab_size
        self.decoder = Decoder(config, nn.Embedding(vocab_size, config.hidden_size), has_source=False)
        self.output = nn.Linear(config.hidden_size, vocab_size, bias=config.output_bias)
        if config.tied_embeddings != "none":
            self.output.weight = self.decoder.embedder.embedding.weight

    def start_cache(self, rows: int) -> KVCache:
        """An empty cache; keys and values of a source have no positions in it."""
        weight = self.output.weight
        nothing = weight.new_empty(rows, self.config.cross_kv_heads, 0, self.config.head_size)
        mask = torch.ones(rows, 1, 1, 0, dtype=torch.bool, device=weight.device)
        return KVCache([(nothing, nothing)] * self.config.decoder_layers, mask)

    def forward(
        self, tokens: Int[Tensor, "B T"], cache: KVCache | None = None, observer: Observer | None = None
    ) -> Float[Tensor, "B T V"]:
        """Logits of every next token, behind those that ``cache`` holds, which is advanced by T.

        Raises:
            LengthError: the positions go past a learned table; nothing has been computed then.
        """
        held = self.start_cache(tokens.shape[0]) if cache is None else cache
        states = self.decoder(tokens, held.cross, held.source_mask, cache, observer)
        logits: Tensor = self.output(states)
        return logits

    @torch.no_grad()
    def parameter_counts(self) -> dict[str, int]:
        """Parameters by part, as :meth:`~pellucid.model.transformer.EncoderDecoder.parameter_counts`."""
        embeddings = {id(self.decoder.embedder.embedding.weight), id(self.output.weight)}
        counts = {"embeddings": 0, "encoder": 0, "decoder": 0}
        for parameter in self.parameters():
            counts["embeddings" if id(parameter) in embeddings else "decoder"] += parameter.numel()
        return counts


class EncoderOnly(nn.Module):
    """An encoder with a vector for each type of token, which says what part of a pair a token belongs to (BERT).

    Args:
        config: the architecture; what it says of the decoder has no meaning here.
        vocab_size: V.
        token_types: number of types.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, token_types: int) -> None:
        super().__init__()
        self.config, self.source_vocab_size = config, vocab_size
        self.encoder = Encoder(config, nn.Embedding(vocab_size, config.hidden_size))
        self.token_types = nn.Embedding(token_types, config.hidden_size)

    def forward(
        self,
        source: Int[Tensor, "B S"],
        source_mask: Bool[Tensor, "B S"],
        token_types: Int[Tensor, "B S"] | None = None,
        observer: Observer | None = None,
    ) -> Float[Tensor, "B S M"]:
        """States of the last layer; without ``token_types`` all tokens are of type 0.

        Raises:
            LengthError: the source is longer than a learned table; nothing has been computed then.
        """
        types = torch.zeros_like(source) if token_types is None else token_types
        states: Tensor = self.encoder(source, source_mask, observer, self.token_types(types))
        return states
