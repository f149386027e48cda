"""Diverse beam search: groups of beams that choose one after another and avoid what the others chose.

Knows numbers of choices only. Shapes: B sentences, G groups, K beams of a group, C candidates of a group.
"""

from __future__ import annotations

import numpy as np

from pellucid.decoding.step import Choices, Floats

__all__ = ["candidates_needed", "diverse"]


def candidates_needed(groups: int, width: int) -> int:
    """How many of a group's best candidates hold its ``width`` best after any penalty.

    The groups before it chose at most (groups - 1) · width tokens, each of which may follow all of its ``width`` rows.
    """
    return width + (groups - 1) * width * width


def diverse(choices: Choices, offsets: Floats, groups: int, width: int, wanted: int, strength: float) -> Choices:
    """Each group's choice of the step under the Hamming diversity of Vijayakumar et al. 2018 (section 4).

    A candidate is ranked by its sum less ``strength`` for every hypothesis of an earlier group of its sentence that
    goes on with the same token at this step. Only the choice is changed: what the scores are made of is not.

    Args:
        choices: [B · G, C], candidates of each group, best first.
        offsets: [B · G, k], of the groups' rows.
        groups: G.
        width: K; the best so many of a group's choices are what later groups avoid.
        wanted: how many each group chooses, K or more where ended hypotheses are replaced.
        strength: the penalty.

    Returns:
        [B · G, ≤ wanted], best first.
    """
    books, C = choices.tokens.shape
    sums = np.take_along_axis(offsets, choices.rows, 1) + choices.logprobs
    count = min(wanted, C)
    chosen = np.empty((books, count), np.int64)
    for first in range(0, books, groups):
        taken: list[int] = []
        for book in range(first, first + groups):
            tokens = choices.tokens[book]
            penalty = strength * (tokens[:, None] == np.array(taken, np.int64)).sum(1)
            chosen[book] = np.argsort(-(sums[book] - penalty), kind="stable")[:count]
            first_ones = chosen[book, :width]
            possible = first_ones[sums[book, first_ones] > -np.inf]
            taken.extend(tokens[possible].tolist())
    return Choices(
        np.take_along_axis(choices.rows, chosen, 1),
        np.take_along_axis(choices.tokens, chosen, 1),
        np.take_along_axis(choices.logprobs, chosen, 1),
        np.take_along_axis(choices.model_logprobs, chosen, 1),
    )
