"""Forced scoring: log p of given targets, from one teacher-forced pass or token by token through a step function.

Knows nothing of models or text. Shapes: B sentences, T target positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from pellucid.decoding.step import StepFunction

__all__ = ["force", "token_logprobs"]


def token_logprobs(
    logits: Float[Tensor, "B T V"], targets: Int64[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float32[Tensor, "B T"]:
    """Log p of each target token, in float32; 0 where the mask is False, so that sums over T are those of the targets.

    Args:
        logits: of a teacher-forced pass; any offset per position is normalised away.
        targets: what each position should give (``y… </s>``).
        mask: True = a real token.
    """
    logprobs = logits.float().log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    return logprobs.masked_fill(~mask, 0.0)


def force(step: StepFunction, targets: Sequence[Sequence[int]], *, bos_id: int) -> list[list[float]]:
    """Log p of each token of the given targets, fed one by one through a step function.

    Args:
        step: ready for its first call, with one row per target.
        targets: every token to score, so with ``</s>`` at the end where it is to be scored; may be empty.
        bos_id: the first token fed.
    """
    results: list[list[float]] = [[] for _ in targets]
    active = list(range(len(targets)))
    for position in range(max(map(len, targets), default=0)):
        kept = [place for place, index in enumerate(active) if len(targets[index]) > position]
        if len(kept) < len(active):
            step.select(np.array(kept))
            active = [active[place] for place in kept]
        before = np.array([targets[index][position - 1] if position else bos_id for index in active])
        wanted = np.array([[targets[index][position]] for index in active])
        logprobs, _ = step(before).take(wanted)
        for index, logprob in zip(active, logprobs[:, 0].tolist(), strict=True):
            results[index].append(logprob)
    return results
