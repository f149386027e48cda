"""Forced scoring: log p of given targets, from one teacher-forced pass or token by token through a step function.

Knows nothing of models or text. Shapes: N positions, M hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from pellucid.decoding.step import StepFunction

__all__ = ["force", "forced_logprobs"]

MOST_LOGITS = 1 << 25


def forced_logprobs(
    output: Callable[[Tensor], Tensor], states: Float[Tensor, "N M"], targets: Int64[Tensor, " N"]
) -> Float32[Tensor, " N"]:
    """Log p of a token after each state, in float32; never more logits at once than :data:`MOST_LOGITS`.

    Args:
        output: states [n, M] to logits [n, V]; any offset per state is normalised away.
        states: of the decoder, for a teacher-forced pass those of real tokens only.
        targets: the token after each.
    """
    if not len(states):
        return states.new_zeros(0, dtype=torch.float32)
    rows = max(1, MOST_LOGITS // output(states[:1]).shape[1])
    logprobs = []
    for part, wanted in zip(states.split(rows), targets.split(rows), strict=True):
        logits = output(part).float()
        logprobs.append(logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(1))
    return torch.cat(logprobs)


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
