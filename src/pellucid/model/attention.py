"""Attention with grouped key/value heads: one module for all three uses (encoder, decoder, cross).

Knows nothing about positions, caches or beams: whoever calls it decides where keys and values come from, what the mask
lets through, and which rows share a source.

Shapes: B rows, H query heads, G key/value heads (G divides H), T query positions, S key positions, D head size, M model
size.
Masks are boolean, True = may attend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pellucid.model.randomness import dropout
from pellucid.trace import AttentionEvent, AttentionUse, Observer

__all__ = ["Attention", "are_plain", "causal_mask", "linear_side_by_side", "split_heads"]


def causal_mask(new: int, past: int, device: torch.device | None = None) -> Bool[Tensor, "1 1 T S"]:
    """Position ``past + t`` may attend to positions ≤ ``past + t`` of ``past + new``: nothing sees the future."""
    return torch.ones(new, past + new, dtype=torch.bool, device=device).tril(past)[None, None]


class Attention(nn.Module):
    """softmax(QKᵀ/√D + mask)·V in H heads (Vaswani et al. 2017, section 3.2).

    H/G query heads share one key/value head: grouped-query attention (Ainslie et al. 2023); G = H is multi-head, G = 1
    multi-query (Shazeer 2019).

    Args:
        hidden_size: M.
        num_heads: H.
        num_kv_heads: G.
        head_size: D; M/H where it is not given.
        scaled: whether scores are divided by √D.
        bias: whether the four projections have biases.
        dropout: on the weights, in training.
        use: which of the three uses this one serves; only named in what an observer is told.
        layer: 0-based number of its layer, likewise.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        *,
        head_size: int | None = None,
        scaled: bool = True,
        bias: bool = True,
        dropout: float = 0.0,
        use: AttentionUse,
        layer: int,
    ) -> None:
        super().__init__()
        assert (head_size is not None or hidden_size % num_heads == 0) and num_heads % num_kv_heads == 0
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_size = head_size or hidden_size // num_heads
        self.scaled = scaled
        self.dropout = dropout
        self.use: AttentionUse = use
        self.layer = layer
        self.query = nn.Linear(hidden_size, num_heads * self.head_size, bias=bias)
        self.key = nn.Linear(hidden_size, num_kv_heads * self.head_size, bias=bias)
        self.value = nn.Linear(hidden_size, num_kv_heads * self.head_size, bias=bias)
        self.output = nn.Linear(num_heads * self.head_size, hidden_size, bias=bias)

    def queries(self, x: Float[Tensor, "B T M"]) -> Float[Tensor, "B H T D"]:
        """Project to H query heads."""
        return split_heads(self.query(x), self.num_heads)

    def keys_values(self, x: Float[Tensor, "B S M"]) -> tuple[Float[Tensor, "B G S D"], Float[Tensor, "B G S D"]]:
        """Project to G key heads and G value heads."""
        return split_heads(self.key(x), self.num_kv_heads), split_heads(self.value(x), self.num_kv_heads)

    def project(
        self, x: Float[Tensor, "B T M"]
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B G T D"], Float[Tensor, "B G T D"]]:
        """Queries, keys and values of the same states; in training in one product where that gives the same."""
        layers = (self.query, self.key, self.value)
        if not (self.training and are_plain(layers)):
            return self.queries(x), *self.keys_values(x)
        query, key, value = linear_side_by_side(x, layers)
        return (
            split_heads(query, self.num_heads),
            split_heads(key, self.num_kv_heads),
            split_heads(value, self.num_kv_heads),
        )

    def forward(
        self,
        query: Float[Tensor, "B H T D"],
        key: Float[Tensor, "B G S D"],
        value: Float[Tensor, "B G S D"],
        mask: Bool[Tensor, "#B 1 #T #S"] | None,
        observer: Observer | None = None,
        bias: Float[Tensor, "1 H T S"] | None = None,
    ) -> Float[Tensor, "B T M"]:
        """Attend, join the heads and project; ``bias`` is added to the scaled scores.

        The fused kernel of PyTorch and the plain path give the same numbers (tested). The plain path runs when an
        observer looks inside, and in training on a CPU where there is anything that the fused kernel leaves to a
        slower one (benchmarks/NOTES.md): a bias that learns, dropout, shared heads.
        """
        if observer is not None:
            heads = self._plain(query, key, value, mask, observer, bias)
        elif self.training and query.device.type == "cpu":
            # In float32 also where the rest is bfloat16: bfloat16 products are compiled for every new shape of a batch,
            # and took about as long.
            with torch.autocast("cpu", enabled=False):
                query, key, value = query.float(), key.float(), value.float()
                if self.dropout or bias is not None or self.num_kv_heads != self.num_heads:
                    heads = self._plain(query, key, value, mask, None, bias)
                else:
                    scale = None if self.scaled else 1.0
                    heads = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        else:
            heads = F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask if bias is None else _biased_mask(bias.to(query.dtype), mask),
                dropout_p=self.dropout if self.training else 0.0,
                scale=None if self.scaled else 1.0,
                enable_gqa=self.num_kv_heads != self.num_heads,
            )
        joined: Tensor = self.output(heads.transpose(1, 2).flatten(-2))
        return joined

    def _plain(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        observer: Observer | None,
        bias: Tensor | None,
    ) -> Tensor:
        rows, _, length, _ = query.shape
        # Query heads of one group are laid one after the other along the positions, so that they meet their shared
        # key/value head in one product and nothing is repeated.
        grouped = query.reshape(rows, self.num_kv_heads, -1, self.head_size)
        scores = grouped @ key.transpose(-1, -2)
        scores = scores.view(rows, self.num_heads, length, -1)
        if self.scaled:
            scores = scores / math.sqrt(self.head_size)
        if bias is not None:
            scores = scores + bias
        allowed = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
        weights = allowed.softmax(-1)
        if observer is not None:
            observer.attention(
                AttentionEvent(
                    self.use,
                    self.layer,
                    query.detach(),
                    key.detach(),
                    value.detach(),
                    scores.detach(),
                    mask,
                    weights.detach(),
                )
            )
        if self.training and self.dropout:
            weights = dropout(weights, self.dropout)
        grouped = weights.to(value.dtype).view(rows, self.num_kv_heads, -1, key.shape[2]) @ value
        return grouped.view(rows, self.num_heads, length, self.head_size)


def _biased_mask(bias: Tensor, mask: Tensor | None) -> Tensor:
    """What PyTorch's kernel adds to scores: the bias, and -inf where the mask forbids."""
    return bias if mask is None else bias.masked_fill(~mask, float("-inf"))


def are_plain(layers: Sequence[nn.Module]) -> bool:
    """Whether these are linear layers and nothing else (no adapter beside them, no hook), all with biases or none."""
    plain = all(type(layer) is nn.Linear and not layer._forward_hooks for layer in layers)
    return plain and len({layer.bias is None for layer in layers}) == 1


def linear_side_by_side(x: Float[Tensor, "B T M"], layers: Sequence[nn.Linear]) -> tuple[Tensor, ...]:
    """What each of the layers makes of ``x``, in one matrix product: on a CPU wide ones are the faster."""
    biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    weights: list[Tensor] = [layer.weight for layer in layers]
    joined = F.linear(x, torch.cat(weights), torch.cat(biases) if biases else None)
    parts: tuple[Tensor, ...] = joined.split([layer.out_features for layer in layers], -1)
    return parts


def split_heads(projected: Float[Tensor, "B T HD"], heads: int) -> Float[Tensor, "B H T D"]:
    """Take the heads apart that stand side by side."""
    split: Tensor = projected.unflatten(-1, (heads, -1)).transpose(1, 2)
    return split
