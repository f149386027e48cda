"""The KV cache of a trace, step by step: what it held, what it cost, and what the same step costs without it.

Shapes: T target tokens, S source tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pellucid.config import ModelConfig
from pellucid.tracer.counting import cache_bytes, cached_macs, prefill_macs, uncached_macs
from pellucid.tracer.subject import Subject
from pellucid.tracing.document import (
    Bytes,
    Cache,
    CacheBytes,
    CacheMath,
    CacheStep,
    GroupedQueries,
    Pair,
    QueryMap,
    Serial,
    WhatIf,
)

__all__ = ["Uncached", "describe_cache", "describe_groups"]


@dataclass(frozen=True, slots=True)
class Uncached:
    """A run without a cache: the most probable tokens, log p of the target's, and each step's time."""

    argmax_ids: list[int]
    logp: list[float]
    step_ms: list[float]


def describe_cache(
    subject: Subject,
    readings: Sequence[CacheBytes],
    self_shape: list[int],
    serial: Serial,
    uncached: Uncached | None,
) -> Cache:
    """The panel's numbers.

    Args:
        subject: the source.
        readings: the cache after each step.
        self_shape: of one layer's keys at the end.
        serial: the run with the cache.
        uncached: the one without, where it was made.
    """
    config, size = subject.model.config, subject.memory.element_size()
    sources, vocab_size = subject.source.shape[1], subject.model.target_vocab_size
    layers, head_size = config.decoder_layers, config.head_size
    cross = cache_bytes(layers, config.cross_kv_heads, head_size, sources, size)
    steps = [
        CacheStep(
            new_rows=1,
            reused_rows=t,
            self_len=t + 1,
            cross_len=sources,
            bytes=reading,
            formula=Bytes(self=cache_bytes(layers, config.self_kv_heads, head_size, t + 1, size), cross=cross),
            macs=CacheMath(
                cached=cached_macs(config, vocab_size, t, sources),
                uncached=uncached_macs(config, vocab_size, t, sources),
            ),
            ms=Pair(cached=serial.step_ms[t], uncached=None if uncached is None else uncached.step_ms[t]),
        )
        for t, reading in enumerate(readings)
    ]
    return Cache(
        layers=layers,
        self_kv_heads=config.self_kv_heads,
        cross_kv_heads=config.cross_kv_heads,
        head_size=head_size,
        bytes_per_number=size,
        self_shape=self_shape,
        cross_shape=list(subject.cross[0][0].shape),
        prefill_macs=prefill_macs(config, sources),
        steps=steps,
        same_ids=None if uncached is None else uncached.argmax_ids == serial.argmax_ids,
        logp_maxdiff=None
        if uncached is None
        else max(abs(a - b) for a, b in zip(uncached.logp, serial.logp, strict=True)),
    )


def describe_groups(config: ModelConfig, cache: Cache) -> GroupedQueries:
    """Which query heads share a key/value head, and what that saves at the end of a writing."""
    heads, end = config.num_heads, cache.steps[-1]

    def wired(kv_heads: int) -> list[int]:
        return [head // (heads // kv_heads) for head in range(heads)]

    def formula(kv_heads: int) -> dict[str, int]:
        sizes = cache.layers, kv_heads, cache.head_size
        return {
            "self": cache_bytes(*sizes, end.self_len, cache.bytes_per_number),
            "cross": cache_bytes(*sizes, end.cross_len, cache.bytes_per_number),
        }

    kv_heads = config.self_kv_heads
    return GroupedQueries(
        kind="multi-head" if kv_heads == heads else "multi-query" if kv_heads == 1 else "grouped",
        q_to_kv=QueryMap(encoder=wired(kv_heads), self=wired(kv_heads), cross=wired(config.cross_kv_heads)),
        bytes_actual=Bytes(self=end.bytes.self, cross=end.bytes.cross),
        bytes_mha=Bytes(**formula(heads)),
        what_if=[WhatIf(kv_heads=g, **formula(g)) for g in range(1, heads + 1) if heads % g == 0],
    )
