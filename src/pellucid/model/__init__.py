"""The Transformer: positions, attention, cache, layers, stacks, and its weights on disk.

Knows nothing about text, training or search.
"""

__all__: list[str] = []
