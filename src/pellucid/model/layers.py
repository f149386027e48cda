"""The building blocks of both stacks: dropout, residual sublayers, feed-forward, encoder layer, decoder layer.

Knows nothing about embeddings or vocabularies.
Shapes: B rows, T target, S source, M model size, G key/value heads, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pellucid.config import ModelConfig
from pellucid.model.attention import Attention
from pellucid.model.cache import KVCache
from pellucid.model.positions import NoPositions
from pellucid.model.randomness import drawn
from pellucid.trace import AttentionUse, Observer

__all__ = ["DecoderLayer", "Dropout", "EncoderLayer", "FeedForward", "make_norm"]


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) with cheap random bits on the CPU.

    PyTorch's CPU dropout draws a 53-bit uniform number for each element; here each 64-bit draw decides four, so that a
    probability is a multiple of 1/65536 (at most 65535/65536), and what is 16 bits wide is dropped by an integer
    product with 0 or 1 (benchmarks/NOTES.md).
    The bits come from SFC64, whose seed is drawn anew for each call from PyTorch's default generator, so that saving
    the state of that one makes a run resume exactly.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Zero elements and scale the rest in training; the identity otherwise."""
        if not self.training or self.probability == 0.0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.probability)
        apply: Callable[..., Tensor] = _Dropped.apply
        dropped: Tensor = apply(x, *self._draw(x))
        return dropped

    def add_to(self, x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """x + dropout(y), in fewer passes over memory."""
        if not self.training or self.probability == 0.0 or y.device.type != "cpu":
            total: Tensor = x + self(y)
            return total
        apply: Callable[..., Tensor] = _AddedDropped.apply
        return apply(x, y, *self._draw(y))

    def _draw(self, x: Tensor) -> tuple[Tensor, float]:
        """What stays (1, else 0; integers where ``x`` is 16 bits wide), and the factor of the rest."""
        lanes = drawn(_lanes, x.shape, x.device)
        dropped = min(round(self.probability * 65536), 65535)
        keep = torch.empty(x.shape, dtype=torch.int16 if x.itemsize == 2 else x.dtype)
        return torch.ge(lanes, dropped - 32768, out=keep), 65536 / (65536 - dropped)


def _lanes(shape: tuple[int, ...]) -> Tensor:
    """16 random bits for each element."""
    count = math.prod(shape)
    seed = int(torch.randint(2**63 - 1, ()))
    draws = np.random.Generator(np.random.SFC64(seed)).integers(0, 2**64, (count + 3) // 4, dtype=np.uint64)
    return torch.from_numpy(draws.view(np.int16))[:count].view(shape)


def _masked(x: Tensor, keep: Tensor) -> Tensor:
    """x·keep; NaN and infinity that are dropped become 0 where ``keep`` holds integers."""
    return x * keep if keep.dtype == x.dtype else (x.contiguous().view(torch.int16) * keep).view(x.dtype)


class _Dropped(torch.autograd.Function):
    """x·keep·scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return _masked(x, keep).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return _masked(grad_outputs[0], *ctx.saved_tensors).mul_(ctx.scale), None, None


class _AddedDropped(torch.autograd.Function):
    """x + y·keep·scale, in the wider of both types."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale, ctx.dtypes = scale, (x.dtype, y.dtype)
        wide = torch.promote_types(x.dtype, y.dtype)
        return torch.add(x.to(wide), _masked(y, keep).to(wide), alpha=scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        of_x, of_y = (grad_outputs[0].to(dtype) for dtype in ctx.dtypes)
        return of_x, _masked(of_y, *ctx.saved_tensors).mul_(ctx.scale), None, None


def make_norm(config: ModelConfig) -> nn.Module:
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019) over M."""
    if config.norm == "layernorm":
        return nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon or 1e-5)
    return nn.RMSNorm(config.hidden_size, eps=config.norm_epsilon or 1e-6)


class Sublayer(nn.Module):
    """Residual connection, dropout and norm around one block.

    Post: norm(x + dropout(f(x))) (Vaswani et al. 2017). Pre: x + dropout(f(norm(x))) (Xiong et al. 2020).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = make_norm(config)
        self.dropout = Dropout(config.dropout)
        self.pre = config.norm_placement == "pre"

    def forward(
        self, x: Float[Tensor, "B T M"], block: Callable[[Float[Tensor, "B T M"]], Float[Tensor, "B T M"]]
    ) -> Float[Tensor, "B T M"]:
        """Apply ``block`` inside the residual connection."""
        if self.pre:
            return self.dropout.add_to(x, block(self.norm(x)))
        y: Tensor = self.norm(self.dropout.add_to(x, block(x)))
        return y


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


# Gated ones by the function of their gate.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": F.silu,
    "reglu": F.relu,
    "geglu": F.gelu,
    "geglu_tanh": _gelu_tanh,
    "swiglu": F.silu,
}


class FeedForward(nn.Module):
    """Position-wise feed-forward block: W₂·act(W₁x), or gated, W₂·(act(W₃x) ⊙ W₁x) (Shazeer 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.up = nn.Linear(config.hidden_size, config.ff_size, bias=config.bias)
        self.gate = nn.Linear(config.hidden_size, config.ff_size, bias=config.bias) if config.gated else None
        self.down = nn.Linear(config.ff_size, config.hidden_size, bias=config.bias)
        self.dropout = Dropout(config.ff_dropout)

    def forward(self, x: Float[Tensor, "B T M"]) -> Float[Tensor, "B T M"]:
        """Each position by itself."""
        inner = self.up(x)
        inner = self.activation(inner) if self.gate is None else self.activation(self.gate(x)) * inner
        outer: Tensor = self.down(self.dropout(inner))
        return outer


def _attention(config: ModelConfig, use: AttentionUse, layer: int) -> Attention:
    return Attention(
        config.hidden_size,
        config.num_heads,
        config.cross_kv_heads if use == "cross" else config.self_kv_heads,
        head_size=config.head_size,
        scaled=config.scale_attention,
        bias=config.bias,
        dropout=config.attention_dropout,
        use=use,
        layer=layer,
    )


class EncoderLayer(nn.Module):
    """Two-sided self-attention, then feed-forward."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention = _attention(config, "encoder", layer)
        self.feed_forward = FeedForward(config)
        self.attention_sublayer = Sublayer(config)
        self.feed_forward_sublayer = Sublayer(config)

    def forward(
        self,
        x: Float[Tensor, "B S M"],
        mask: Bool[Tensor, "B 1 1 S"],
        positions: NoPositions,
        bias: Float[Tensor, "1 H S S"] | None,
        observer: Observer | None,
    ) -> Float[Tensor, "B S M"]:
        """``mask`` is False on padding, which nothing attends to; ``bias`` is the position scheme's."""

        def attend(y: Tensor) -> Tensor:
            query, key, value = self.attention.project(y)
            query, key = positions.rotate(query), positions.rotate(key)
            attended: Tensor = self.attention(query, key, value, mask, observer, bias)
            return attended

        x = self.attention_sublayer(x, attend)
        output: Tensor = self.feed_forward_sublayer(x, self.feed_forward)
        return output


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention to the source (where there is one), then feed-forward."""

    def __init__(self, config: ModelConfig, layer: int, *, has_source: bool = True) -> None:
        super().__init__()
        self.layer = layer
        self.has_source = has_source
        # In this order, because a seed's random numbers go to the parts in theirs.
        self.attention = _attention(config, "decoder", layer)
        if has_source:
            self.cross_attention = _attention(config, "cross", layer)
        self.feed_forward = FeedForward(config)
        self.attention_sublayer = Sublayer(config)
        if has_source:
            self.cross_attention_sublayer = Sublayer(config)
        self.feed_forward_sublayer = Sublayer(config)

    def forward(
        self,
        x: Float[Tensor, "R T M"],
        mask: Bool[Tensor, "1 1 T _"] | None,
        cross: tuple[Float[Tensor, "B G S D"], Float[Tensor, "B G S D"]],
        cross_mask: Bool[Tensor, "B 1 1 S"],
        positions: NoPositions,
        bias: Float[Tensor, "1 H T _"] | None,
        cache: KVCache | None,
        observer: Observer | None,
    ) -> Float[Tensor, "R T M"]:
        """One layer over T new positions of R rows.

        Args:
            x: the new positions.
            mask: causal mask over past and new positions; ``None`` where all of them may be seen (one new position).
            cross: this layer's keys and values of the source, one set per sentence; not looked at without a source.
            cross_mask: False on source padding.
            positions: the scheme, for rotation.
            bias: what it adds to the scores of self-attention, over past and new positions.
            cache: holds the past positions; ``None`` = there are none (teacher forcing).
            observer: told about both attentions.
        """
        start = 0 if cache is None else cache.length

        def attend(y: Tensor) -> Tensor:
            query, key, value = self.attention.project(y)
            query, key = positions.rotate(query, start), positions.rotate(key, start)
            if cache is not None:
                key, value = cache.append(self.layer, key, value)
            attended: Tensor = self.attention(query, key, value, mask, observer, bias)
            return attended

        def attend_source(y: Tensor) -> Tensor:
            # A sentence's beams stand side by side as query positions of one row: they share its keys and values
            # without a copy, because cross-attention has no order among queries.
            by_sentence = y.reshape(cross_mask.shape[0], -1, y.shape[-1])
            query = self.cross_attention.queries(by_sentence)
            attended: Tensor = self.cross_attention(query, *cross, cross_mask, observer)
            return attended.view(y.shape)

        x = self.attention_sublayer(x, attend)
        if self.has_source:
            x = self.cross_attention_sublayer(x, attend_source)
        output: Tensor = self.feed_forward_sublayer(x, self.feed_forward)
        return output
