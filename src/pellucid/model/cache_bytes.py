"""How large a KV cache is: two numbers. Knows nothing of tensors, nor PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CacheBytes"]


@dataclass(frozen=True, slots=True)
class CacheBytes:
    """Bytes of a cache by part."""

    self_attention: int
    cross_attention: int

    @property
    def total(self) -> int:
        """Both parts."""
        return self.self_attention + self.cross_attention
