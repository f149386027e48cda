"""Scheduled sampling: the decoder reads some of its own predictions in the place of gold tokens (Bengio et al. 2015).

For Transformers in two passes (Mihaylova & Martins 2019): a first pass over the gold prefix, in evaluation mode and
without gradient, says what the model would write at each position; the second, which learns, reads a mixture. The
tokens to be written stay gold. Knows nothing about losses, or about who takes the second pass.

Shapes: B sentences, T target tokens, N tokens to replace, M model size, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.config import TrainingConfig
from pellucid.data.batches import Batch
from pellucid.model.randomness import drawn
from pellucid.model.transformer import EncoderDecoder

__all__ = ["mixed_batch", "sampled_share"]

BLOCK_TOKENS = 512
"""Rows of logits held at once."""


def sampled_share(config: TrainingConfig, update: int, total_updates: int) -> float:
    """The probability that a target input is replaced, in a 1-based update.

    0 up to ``scheduled_sampling_start``; from there it rises to ``scheduled_sampling`` at the last update along a line,
    or along Bengio's inverse sigmoid 1 − k/(k + e^(i/k)), with the k that puts its middle in the middle.
    """
    done, length = update - config.scheduled_sampling_start, total_updates - config.scheduled_sampling_start
    if done <= 0 or not config.scheduled_sampling:
        return 0.0
    if config.scheduled_sampling_schedule == "constant":
        return config.scheduled_sampling
    if config.scheduled_sampling_schedule == "linear":
        return config.scheduled_sampling * min(1.0, done / length)
    k = _half_way(length / 2)
    return config.scheduled_sampling / (1 + math.exp(math.log(k) - done / k))


def _half_way(middle: float) -> float:
    """The k > 1 with k · ln k = ``middle``, by Newton's method on a convex function, from above."""
    k = middle + 2
    for _ in range(50):
        k = (k + middle) / (math.log(k) + 1)
    return k


@torch.no_grad()
def mixed_batch(
    model: EncoderDecoder, batch: Batch, share: float, choice: str, dtype: torch.dtype = torch.float32
) -> Batch:
    """The batch with a share of what the decoder reads replaced by what the model would have written there.

    Each token is drawn for itself, with the generator of the batch's device. ``<s>``, padding and the labels
    (``target_out``) stay; gold stays, too, where the model would have ended: nothing is written behind that.

    Args:
        model: in any mode, which it is in again afterwards; its predictions are those of evaluation mode.
        batch: on the model's device.
        share: the probability that a token is replaced.
        choice: ``argmax``: the most probable token; ``sample``: one drawn from the model's distribution.
        dtype: precision of the matrix products.
    """
    gold = batch.target_in
    # All that is random, before anything depends on what is in the batch: one number decides, another one draws.
    shape = *gold.shape, 2 if choice == "sample" else 1
    lots = drawn(lambda whole: torch.rand(whole, device=gold.device), shape, gold.device)
    chosen = (lots[..., 0] < share) & batch.target_mask
    chosen[:, 0] = False  # <s>
    if not chosen.any():
        return batch
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.autocast(gold.device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            states = model.decode(batch.source, batch.source_mask, gold)
            # What stands at t has been written at t − 1.
            behind = states[:, :-1][chosen[:, 1:]]
            written = _next_tokens(model, behind, lots[..., 1][chosen] if choice == "sample" else None)
    finally:
        for module, mode in modes:
            module.training = mode
    ends = batch.target_out.gather(1, batch.target_mask.sum(1, keepdim=True) - 1)
    never = (written == batch.target_pad) | (written == gold[0, 0]) | (written == ends[0, 0])
    mixed = gold.clone()
    mixed[chosen] = torch.where(never, gold[chosen], written)
    return replace(batch, target_in=mixed)


def _next_tokens(
    model: EncoderDecoder, states: Float[Tensor, "N M"], lots: Float[Tensor, " N"] | None
) -> Int[Tensor, " N"]:
    """The most probable token after each state; or that at which the sum of the probabilities reaches its lot."""
    found = []
    for start in range(0, len(states), BLOCK_TOKENS):
        rows = slice(start, start + BLOCK_TOKENS)
        logits = model.output(states[rows]).float()
        if lots is None:
            found.append(logits.argmax(-1))
            continue
        sums = logits.softmax(-1).cumsum(-1)
        reached = torch.searchsorted(sums, lots[rows, None] * sums[:, -1:], right=True)
        found.append(reached[:, 0].clamp(max=logits.shape[1] - 1))
    return torch.cat(found)
