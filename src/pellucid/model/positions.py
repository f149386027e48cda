"""How order enters the model: sinusoidal, learned, rotary, or not at all.

A scheme may act in two places: on the embeddings, once (``add``), or on queries and keys, in every layer (``rotate``).
The stacks call both and never ask which scheme they have. ``start`` is the position of the first element: 0 for a whole
sequence, the cache's length for a step.

Shapes: B rows, T positions, M model size, H heads, D head size.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.config import ModelConfig
from pellucid.errors import LengthError

__all__ = [
    "LearnedPositions",
    "NoPositions",
    "RotaryPositions",
    "SinusoidalPositions",
    "make_positions",
    "sinusoidal_table",
]


class NoPositions(nn.Module):
    """No information about order; the base of the other schemes."""

    max_length: int | None = None
    """Number of positions there are; ``None`` = no limit."""

    def check(self, length: int) -> None:
        """Refuse a sequence that is longer than the scheme can number.

        Raises:
            LengthError: naming the length and the limit.
        """
        if self.max_length is not None and length > self.max_length:
            raise LengthError(
                f"a sequence of {length} tokens does not fit the {self.max_length} learned positions of this model: "
                "shorten or split it, or train with more model.max_positions or with positions: sinusoidal"
            )

    def add(self, embedded: Float[Tensor, "B T M"], start: int = 0) -> Float[Tensor, "B T M"]:
        """Add the positions' vectors to token embeddings, element by element."""
        return embedded

    def rotate(self, vectors: Float[Tensor, "B H T D"], start: int = 0) -> Float[Tensor, "B H T D"]:
        """Turn queries or keys by angles that depend on their positions."""
        return vectors


def sinusoidal_table(start: int, length: int, hidden_size: int) -> Float[Tensor, "T M"]:
    """PE(pos, 2i) = sin(pos / 10000^(2i/M)), PE(pos, 2i+1) = cos(same) (Vaswani et al. 2017, section 3.5).

    Computed in float64, so that far positions keep their phase, and rounded to float32 once.
    """
    position = torch.arange(start, start + length, dtype=torch.float64)[:, None]
    frequency = torch.exp(torch.arange(0, hidden_size, 2, dtype=torch.float64) * (-math.log(10000.0) / hidden_size))
    table = torch.empty(length, hidden_size, dtype=torch.float64)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)
    return table.float()


class SinusoidalPositions(NoPositions):
    """Fixed sines and cosines; a formula, so they go on past any length seen in training."""

    table: Tensor

    def __init__(self, hidden_size: int, initial_length: int = 256) -> None:
        super().__init__()
        self.register_buffer("table", sinusoidal_table(0, initial_length, hidden_size), persistent=False)

    def add(self, embedded: Float[Tensor, "B T M"], start: int = 0) -> Float[Tensor, "B T M"]:
        """Add rows ``start`` … of the table, growing it where it is too short."""
        end = start + embedded.shape[1]
        if end > self.table.shape[0]:
            with torch.inference_mode(False):  # the table outlives this call: training may follow
                self.table = sinusoidal_table(0, 2 * end, self.table.shape[1]).to(self.table)
        return embedded + self.table[start:end].to(embedded.dtype)


class LearnedPositions(NoPositions):
    """A trained vector for each position (Gehring et al. 2017); there is none after the last."""

    def __init__(self, max_length: int, hidden_size: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.table = nn.Parameter(torch.empty(max_length, hidden_size))
        nn.init.normal_(self.table, std=hidden_size**-0.5)

    def add(self, embedded: Float[Tensor, "B T M"], start: int = 0) -> Float[Tensor, "B T M"]:
        """Add rows ``start`` … of the table.

        Raises:
            LengthError: the sequence goes past the table.
        """
        end = start + embedded.shape[1]
        self.check(end)
        return embedded + self.table[start:end].to(embedded.dtype)


class RotaryPositions(NoPositions):
    """Rotary embedding (Su et al. 2021, eq. 34): the pair (x_i, x_{i+D/2}) turns by pos · 10000^(−2i/D)."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, head_size: int, initial_length: int = 256) -> None:
        super().__init__()
        self.head_size = head_size
        cosine, sine = self._tables(initial_length)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)

    def _tables(self, length: int) -> tuple[Tensor, Tensor]:
        frequency = 10000.0 ** (-torch.arange(0, self.head_size, 2, dtype=torch.float64) / self.head_size)
        angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
        return angle.cos().float(), angle.sin().float()

    def rotate(self, vectors: Float[Tensor, "B H T D"], start: int = 0) -> Float[Tensor, "B H T D"]:
        """Turn each vector by its position's angles; the norm stays the same."""
        end = start + vectors.shape[2]
        if end > self.cosine.shape[0]:
            with torch.inference_mode(False):  # as above
                cosine, sine = self._tables(2 * end)
                self.cosine, self.sine = cosine.to(self.cosine), sine.to(self.sine)
        cosine, sine = self.cosine[start:end].to(vectors.dtype), self.sine[start:end].to(vectors.dtype)
        first, second = vectors.chunk(2, dim=-1)
        return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


def make_positions(config: ModelConfig) -> NoPositions:
    """The scheme that ``config.positions`` names."""
    match config.positions:
        case "sinusoidal":
            return SinusoidalPositions(config.hidden_size)
        case "learned":
            return LearnedPositions(config.max_positions, config.hidden_size)
        case "rotary":
            return RotaryPositions(config.head_size)
        case "none":
            return NoPositions()
