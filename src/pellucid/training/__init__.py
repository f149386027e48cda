"""Training: loss, optimiser, run log, checkpoints, and the loop.

Knows nothing about text or search: batches come in as tensors, validation arrives as a callback.
"""

__all__: list[str] = []
