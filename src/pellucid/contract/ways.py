"""What the checks ask of a way of generating: protocols only.

A cached search, an uncached one, an engine in another language or a server is checked by the same code once it can
answer these questions. Numbers come as NumPy arrays; nothing here knows torch.
Shapes: T target tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pellucid.config import DecodingConfig
from pellucid.trace import AttentionEvent

__all__ = ["CacheReading", "Inside", "Output", "Way"]

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Output:
    """One hypothesis.

    Attributes:
        tokens: what was generated; ``</s>`` is the last where ``finish_reason`` is ``eos``.
        token_logprobs: log p of each.
        score: their sum, divided as the length penalty says.
        finish_reason: ``eos`` or ``length``.
    """

    tokens: tuple[int, ...]
    token_logprobs: tuple[float, ...]
    score: float
    finish_reason: str


@dataclass(frozen=True, slots=True)
class CacheReading:
    """What a cache held after one step of a real run, and how many bytes it says that this takes.

    ``per_target_token`` and ``per_source_token`` are bytes for one token of one row, or of one sentence, by the
    formula: 2 · layers · key/value heads · head size · bytes per number.
    """

    sentences: int
    rows: int
    length: int
    source_length: int
    per_target_token: int
    per_source_token: int
    self_used: int
    self_allocated: int
    cross_used: int


@runtime_checkable
class Way(Protocol):
    """A way of generating, under the settings of :class:`~pellucid.config.DecodingConfig`.

    Attributes:
        name: for the report.
        bos_id: what the decoder reads first.
        eos_id: number of ``</s>``; in many models ``bos_id``, too.
        suppressed: tokens that are never generated, by its tokenizer or ``own.forbidden_tokens``; never ``eos_id``.
        own: the settings that it generates with where nothing else is asked.
    """

    name: str
    bos_id: int
    eos_id: int
    suppressed: tuple[int, ...]
    own: DecodingConfig

    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        """The n best of every source, in order, decoded together in batches of ``batch_size``."""
        ...

    def prefix(self, settings: Mapping[str, Any]) -> tuple[int, ...]:
        """The tokens that every output begins with under these settings."""
        ...

    def parallel(self, sources: Sequence[str], targets: Sequence[Sequence[int]], last: bool = False) -> list[Logits]:
        """For each pair the logits [T, V] of one teacher-forced pass; row t has seen ``target[:t]``.

        All pairs make one batch, in this order. With ``last`` only the last row is wanted, [1, V]. Log-probabilities
        will do where there are no logits.
        """
        ...

    def serial(self, sources: Sequence[str], targets: Sequence[Sequence[int]]) -> list[Logits]:
        """The same numbers, token by token, as generation computes them."""
        ...

    def restricted(self, tokens: Sequence[int]) -> AbstractContextManager[None]:
        """Inside, every other token is impossible: logits of -inf, in all of the methods above."""
        ...

    def threads(self, count: int) -> AbstractContextManager[None]:
        """Inside, this many CPU threads compute."""
        ...


@runtime_checkable
class Inside(Protocol):
    """A way of generating that can be looked into, beside being a :class:`Way`.

    Attributes:
        max_positions: the most tokens (``</s>`` or ``<s>`` included) of a source and of a target; None: no limit.
    """

    max_positions: tuple[int | None, int | None]

    def source_length(self, source: str) -> int:
        """Tokens of a source, ``</s>`` included."""
        ...

    def observed(self, attention: Callable[[AttentionEvent], None]) -> AbstractContextManager[None]:
        """Inside, every attention that is computed is told to ``attention``."""
        ...

    def cache_readings(self, sources: Sequence[str], **settings: Any) -> list[CacheReading]:
        """Generate, and read the cache after every step."""
        ...

    def operators(self, call: Callable[[], object]) -> list[str]:
        """The names of the operators that run during ``call``, in order."""
        ...

    def layers_run(self, call: Callable[[], object]) -> tuple[int, Exception | None]:
        """How many layers computed something during ``call``, and what it raised."""
        ...
