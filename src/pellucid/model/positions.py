"""How order enters the model: sinusoidal, learned, rotary, relative, or not at all.

A scheme may act in three places: on the embeddings, once (``add``), on queries and keys, in every layer (``rotate``),
or on the scores of self-attention, in every layer (``bias``). The stacks call all of them and never ask which scheme
they have. ``start`` is the position of the first element: 0 for a whole sequence, the cache's length for a step.

Shapes: B rows, T positions, S key positions, M model size, H heads, D head size.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.config import ModelConfig
from pellucid.errors import LengthError

__all__ = [
    "LearnedPositions",
    "NoPositions",
    "RelativePositions",
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
            raise LengthError.beyond_positions(length, self.max_length)

    def vectors(self, length: int, start: int = 0) -> Float[Tensor, "T M"] | None:
        """What :meth:`add` adds to positions ``start`` …; ``None`` = nothing.

        Raises:
            LengthError: they go past a learned table.
        """
        return None

    def add(self, embedded: Float[Tensor, "B T M"], start: int = 0) -> Float[Tensor, "B T M"]:
        """Add the positions' vectors to token embeddings, element by element.

        Raises:
            LengthError: the sequence goes past a learned table.
        """
        vectors = self.vectors(embedded.shape[1], start)
        return embedded if vectors is None else embedded + vectors.to(embedded.dtype)

    def rotate(self, vectors: Float[Tensor, "B H T D"], start: int = 0) -> Float[Tensor, "B H T D"]:
        """Turn queries or keys by angles that depend on their positions."""
        return vectors

    def bias(self, length: int, start: int = 0) -> Float[Tensor, "1 H T S"] | None:
        """What is added to self-attention's scores of positions ``start`` … over all up to themselves' last."""
        return None


SinusoidalLayout = Literal["interleaved", "halves", "fairseq"]


def sinusoidal_table(
    start: int, length: int, hidden_size: int, layout: SinusoidalLayout = "interleaved"
) -> Float[Tensor, "T M"]:
    """PE(pos, 2i) = sin(pos / 10000^(2i/M)), PE(pos, 2i+1) = cos(same) (Vaswani et al. 2017, section 3.5).

    Computed in float64, so that far positions keep their phase, and rounded to float32 once.

    Args:
        start, length: the positions.
        hidden_size: M.
        layout: ``interleaved`` as above; ``halves``: PE(pos, i) = sin(…), PE(pos, M/2 + i) = cos(…);
            ``fairseq``: halves with pos / 10000^(i/(M/2 − 1)), in float32 throughout, as it was trained with.
    """
    if layout == "fairseq":
        frequency = torch.exp(torch.arange(hidden_size // 2).float() * -(math.log(10000.0) / (hidden_size // 2 - 1)))
        angle = torch.arange(start, start + length).float()[:, None] * frequency
        return torch.cat((angle.sin(), angle.cos()), 1)
    position = torch.arange(start, start + length, dtype=torch.float64)[:, None]
    frequency = torch.exp(torch.arange(0, hidden_size, 2, dtype=torch.float64) * (-math.log(10000.0) / hidden_size))
    if layout == "halves":
        return torch.cat((torch.sin(position * frequency), torch.cos(position * frequency)), 1).float()
    return torch.stack((torch.sin(position * frequency), torch.cos(position * frequency)), 2).flatten(1).float()


class SinusoidalPositions(NoPositions):
    """Fixed sines and cosines; a formula, so they go on past any length seen in training.

    Args:
        hidden_size: M.
        layout: where sines and cosines stand.
        first: number of the first position.
        initial_length: positions computed ahead.
    """

    table: Tensor

    def __init__(
        self,
        hidden_size: int,
        layout: SinusoidalLayout = "interleaved",
        first: int = 0,
        initial_length: int = 256,
    ) -> None:
        super().__init__()
        self.layout: SinusoidalLayout = layout
        self.first = first
        self.register_buffer("table", self._rows(initial_length, hidden_size), persistent=False)

    def _rows(self, length: int, hidden_size: int) -> Tensor:
        return sinusoidal_table(self.first, length, hidden_size, self.layout)

    def vectors(self, length: int, start: int = 0) -> Float[Tensor, "T M"]:
        """Rows ``start`` … of the table, which grows where it is too short."""
        end = start + length
        if end > self.table.shape[0]:
            with torch.inference_mode(False):  # the table outlives this call: training may follow
                self.table = self._rows(2 * end, self.table.shape[1]).to(self.table)
        return self.table[start:end]


class LearnedPositions(NoPositions):
    """A trained vector for each position (Gehring et al. 2017); there is none after the last."""

    def __init__(self, max_length: int, hidden_size: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.table = nn.Parameter(torch.empty(max_length, hidden_size))
        nn.init.normal_(self.table, std=hidden_size**-0.5)

    def vectors(self, length: int, start: int = 0) -> Float[Tensor, "T M"]:
        """Rows ``start`` … of the table.

        Raises:
            LengthError: they go past it.
        """
        end = start + length
        self.check(end)
        return self.table[start:end]


class RotaryPositions(NoPositions):
    """Rotary embedding (Su et al. 2021, eq. 34): the pair (x_i, x_{i+D/2}) turns by pos · base^(−2i/D)."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, head_size: int, base: float = 10000.0, initial_length: int = 256) -> None:
        super().__init__()
        self.head_size, self.base = head_size, base
        cosine, sine = self._tables(initial_length)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)

    def _tables(self, length: int) -> tuple[Tensor, Tensor]:
        frequency = self.base ** (-torch.arange(0, self.head_size, 2, dtype=torch.float64) / self.head_size)
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


class RelativePositions(NoPositions):
    """A learned number for each head and distance, added to scores (Raffel et al. 2020, section 2.1).

    Near distances have a bucket each; from half of the buckets on, ever more distances share one, and all from
    ``max_distance`` on the last. All layers of a stack share the table.

    Args:
        num_heads: H.
        buckets: distances told apart.
        max_distance: see above.
        two_sided: positions also attend to later ones (the encoder): half of the buckets is for these.
    """

    def __init__(self, num_heads: int, buckets: int, max_distance: int, *, two_sided: bool) -> None:
        super().__init__()
        self.buckets, self.max_distance, self.two_sided = buckets, max_distance, two_sided
        self.table = nn.Parameter(torch.empty(buckets, num_heads))
        nn.init.normal_(self.table, std=0.1)

    def bias(self, length: int, start: int = 0) -> Float[Tensor, "1 H T S"]:
        """The table's numbers for each query of ``start`` … and each key from 0 to the last query."""
        device = self.table.device
        query = torch.arange(start, start + length, device=device)[:, None]
        key = torch.arange(start + length, device=device)[None]
        return self.table[self.bucket(key - query)].permute(2, 0, 1)[None]

    def bucket(self, offset: Int[Tensor, "T S"]) -> Int[Tensor, "T S"]:
        """The bucket of each key position − query position."""
        buckets, first = self.buckets, torch.zeros_like(offset)
        if self.two_sided:
            buckets //= 2
            first = (offset > 0) * buckets
            distance = offset.abs()
        else:
            distance = (-offset).clamp(min=0)
        exact = buckets // 2
        # In float32 and in this order: another rounding would put the distances at a bucket's edge into the next one.
        far = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact) * (buckets - exact)
        shared = (exact + far.long()).clamp(max=buckets - 1)
        return first + torch.where(distance < exact, distance, shared)


def make_positions(config: ModelConfig, *, two_sided: bool = True) -> NoPositions:
    """The scheme that ``config.positions`` names, for a stack that sees both sides (the encoder) or only the past."""
    match config.positions:
        case "sinusoidal":
            return SinusoidalPositions(config.hidden_size, config.sinusoidal_layout, config.first_position)
        case "learned":
            return LearnedPositions(config.max_positions, config.hidden_size)
        case "rotary":
            return RotaryPositions(config.head_size, config.rotary_base)
        case "relative":
            return RelativePositions(
                config.num_heads, config.relative_buckets, config.relative_max_distance, two_sided=two_sided
            )
        case "none":
            return NoPositions()
