"""What a step of the decoder costs by formula: multiply-adds, and bytes of the cache.

Pure numbers; a test compares them with what PyTorch counts. Biases, norms, softmax and the like are not counted.
Names: G key/value heads, D head size, M model size, V vocabulary.
"""

from __future__ import annotations

from pellucid.config import ModelConfig

__all__ = ["cache_bytes", "cached_macs", "prefill_macs", "uncached_macs"]


def cached_macs(config: ModelConfig, vocab_size: int, position: int, source_length: int) -> int:
    """Multiply-adds of one row's step at that position, with the keys and values before it at hand."""
    return _decoder(config, 1, position + 1, source_length) + config.hidden_size * vocab_size


def uncached_macs(config: ModelConfig, vocab_size: int, position: int, source_length: int) -> int:
    """The same without a cache: the whole prefix again, and the source's keys and values too."""
    rows = position + 1
    again = _decoder(config, rows, rows, source_length) + prefill_macs(config, source_length)
    return again + config.hidden_size * vocab_size


def prefill_macs(config: ModelConfig, source_length: int) -> int:
    """Of the source's keys and values for cross-attention, in every layer; with a cache once a sentence."""
    width = config.cross_kv_heads * config.head_size
    return config.decoder_layers * source_length * 2 * config.hidden_size * width


def _decoder(config: ModelConfig, rows: int, keys: int, source_length: int) -> int:
    """All layers, for so many rows that attend to so many keys."""
    M, width = config.hidden_size, config.num_heads * config.head_size
    projections = 2 * M * width + 2 * M * config.self_kv_heads * config.head_size  # query and output; key and value
    attention = 2 * width * keys  # scores, and the weighted sum
    cross = 2 * M * width + 2 * width * source_length
    feed_forward = (3 if config.gated else 2) * M * config.ff_size
    return config.decoder_layers * rows * (projections + attention + cross + feed_forward)


def cache_bytes(layers: int, kv_heads: int, head_size: int, length: int, bytes_per_number: int) -> int:
    """Of one row's keys and values."""
    return 2 * layers * kv_heads * head_size * length * bytes_per_number
