"""The books of a search: what is live, what is finished, and what is the best that is still possible.

Plain counting in NumPy, with sums in float64. Knows nothing of models, of text, or of how continuations are chosen.
Shapes: B beams, k rows of each (the widest now), K beam size, C ≤ W choices of a step, N hypotheses kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pellucid.config import DecodingConfig
from pellucid.decoding.hypothesis import FinishReason, Hypothesis
from pellucid.decoding.penalties import largest_penalty, length_penalty
from pellucid.decoding.step import Choices, Floats, Ints

__all__ = ["Beams"]

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Step:
    """The choices of one step as back-pointers; [beams at the start, C]."""

    parents: Ints
    tokens: Ints
    logprobs: Floats


class _History:
    """Every choice of every step; a choice's address is step · W + slot."""

    def __init__(self, beams: int, width: int) -> None:
        self.beams, self.width = beams, width
        self.steps: list[_Step] = []

    def append(self, beams: Ints, parents: Ints, tokens: Ints, logprobs: Floats) -> None:
        """Add a step's choices [B, C]; ``parents`` are slots of the step before."""
        shape = (self.beams, tokens.shape[1])
        step = _Step(np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape))
        step.parents[beams], step.tokens[beams], step.logprobs[beams] = parents, tokens, logprobs
        self.steps.append(step)

    def path(self, beam: int, address: int) -> tuple[list[int], list[float]]:
        """Tokens and their log p from the first step to this choice."""
        last, slot = divmod(address, self.width)
        path: list[tuple[int, float]] = []
        for step in reversed(self.steps[: last + 1]):
            path.append((int(step.tokens[beam, slot]), float(step.logprobs[beam, slot])))
            slot = int(step.parents[beam, slot])
        return [token for token, _ in reversed(path)], [logprob for _, logprob in reversed(path)]


class Beams:
    """Beams side by side, each with its own live and finished hypotheses.

    Beams that leave are gone from every array; ``numbers`` says which of the first ones are left.

    Args:
        limits: for each beam the most tokens to generate, ``</s>`` included.
        width: K.
        kept: N, how many finished hypotheses of a beam are kept.
        settings: length penalty, ``stop`` and ``beam`` are used.
        eos_id: the token that finishes a hypothesis.
        cut_competes: whether hypotheses cut by the limit stand beside finished ones; they always do where there are
            none.

    Attributes:
        length: tokens generated so far.
        totals: [B, k] Σ log p of the live hypotheses; -inf in unused rows, which come last.
        best_scores: [B, N] scores of the best finished hypotheses, falling; -inf where there are fewer.
        best_addresses: [B, N] where the history has them.
        slots: [B, k] for each row its choice at the step before.
        live, finished: [B, C] the last step's choices that may go on; those that were entered among the finished.
        has_ended: [B] beams that are done and wait for others to leave with.
    """

    def __init__(
        self,
        limits: Sequence[int],
        width: int,
        kept: int,
        settings: DecodingConfig,
        eos_id: int,
        *,
        cut_competes: bool = False,
    ) -> None:
        B = len(limits)
        name, alpha = settings.length_penalty, settings.length_alpha
        self.settings, self.eos_id, self.width, self.cut_competes = settings, eos_id, width, cut_competes
        self.refilled = settings.beam == "full" and width > 1  # a beam of 1 is greedy: it ends with its </s>
        self.length = 0
        self.history = _History(B, 2 * width if self.refilled else width)
        self.numbers = np.arange(B)
        self.limits = np.array(limits, np.int64)
        self.largest_penalties = np.array([largest_penalty(name, alpha, limit) for limit in limits])
        self.totals: Floats = np.zeros((B, 1))
        self.slots: Ints = np.zeros((B, 1), np.int64)
        self.best_scores: Floats = np.full((B, kept), -np.inf)
        self.best_addresses: Ints = np.full((B, kept), -1, np.int64)
        self.has_ended: Bools = np.zeros(B, np.bool_)

    @property
    def choices_wanted(self) -> int:
        """W: choices of a step that :meth:`advance` can use.

        Where ended hypotheses are replaced, twice the width: at most one of each row's continuations ends.
        """
        return self.history.width

    def offsets(self) -> Floats:
        """[B, k]: the totals below each beam's best, which rank as the totals do.

        In float32 they keep the digits that decide; a lone hypothesis gets exactly 0, so that a beam of 1 compares the
        very numbers that greedy search compares.
        """
        best = self.totals.max(1, keepdims=True)
        offsets: Floats = self.totals - np.where(best > -np.inf, best, 0.0)
        return offsets

    def advance(self, choices: Choices) -> None:
        """Enter the choices [B, C] of a step, best first, into the history and, where they end, among the finished."""
        beam = np.arange(len(self.numbers))[:, None]
        rows, tokens = choices.rows, choices.tokens
        totals = self.totals[beam, rows] + choices.logprobs
        self.history.append(self.numbers, self.slots[beam, rows], tokens, choices.model_logprobs)
        self.length += 1
        possible = (totals > -np.inf) & ~self.has_ended[:, None]
        ends = possible & (tokens == self.eos_id)
        live: Bools = possible & ~ends
        if self.refilled:
            ends &= np.arange(tokens.shape[1]) < self.width
            live &= np.cumsum(live, 1) <= self.width
        self._finished_first: Bools = ends[:, 0]
        finished: Bools = ends
        if self.cut_competes:
            cut = live & (self.limits == self.length)[:, None]
            finished = ends | (cut & (np.arange(tokens.shape[1]) < self.width))
        if finished.any():
            self._keep_best(np.where(finished, totals, -np.inf))
        self._chosen_rows, self._chosen_tokens = rows, tokens
        self.finished = finished
        self.live = live
        self._totals: Floats = np.where(live, totals, -np.inf)

    def _keep_best(self, totals: Floats) -> None:
        """Merge newly finished hypotheses [B, C] (-inf: none) with the best so far; of equals the older is better."""
        (B, C), N = totals.shape, self.best_scores.shape[1]
        addresses = np.broadcast_to((self.length - 1) * self.history.width + np.arange(C), (B, C))
        scores = np.concatenate((self.best_scores, totals / self._penalty()), 1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :N]
        beam = np.arange(B)[:, None]
        self.best_scores = scores[beam, order]
        self.best_addresses = np.concatenate((self.best_addresses, addresses), 1)[beam, order]

    def _penalty(self) -> float:
        return length_penalty(self.settings.length_penalty, self.settings.length_alpha, self.length)

    def update_ended(self) -> Ints:
        """Places of the beams that have just ended: none of their hypotheses is live, may go on, or is waited for.

        What ``stop`` waits for: ``exact``, every live hypothesis that could still enter the best, by the bound of its
        length penalty and limit; ``first_k``, K finished hypotheses; ``top``, a step whose best choice is finished;
        ``heuristic``, K finished ones and no live one that would enter them if it ended now.
        """
        over: Bools = (self.limits == self.length) | ~self.live.any(1)
        live, worst, stop = self._totals.max(1), self.best_scores[:, -1], self.settings.stop
        if stop == "exact":
            over |= live / self.largest_penalties <= worst
        elif stop == "first_k":
            over |= worst > -np.inf
        elif stop == "top":
            over |= self._finished_first
        else:
            over |= (worst > -np.inf) & (live / self._penalty() <= worst)
        ended = np.flatnonzero(over & ~self.has_ended)
        self.has_ended |= over
        return ended

    def hypotheses(self, place: int) -> tuple[list[Hypothesis], int]:
        """What the beam at this place has found, best first, and the step at which it had all of it."""
        finished = self.best_scores[place] > -np.inf
        if finished.any():
            scores, addresses = self.best_scores[place][finished], self.best_addresses[place][finished]
            return self._written(place, scores, addresses), int(addresses.max()) // self.history.width + 1
        scores = self._totals[place] / self._penalty()
        slots = np.argsort(-scores, kind="stable")
        slots = slots[: min(self.best_scores.shape[1], int(self.live[place].sum()))]
        addresses = (self.length - 1) * self.history.width + slots
        return self._written(place, scores[slots], addresses), self.length

    def _written(self, place: int, scores: Floats, addresses: Ints) -> list[Hypothesis]:
        hypotheses = []
        for score, address in zip(scores.tolist(), addresses.tolist(), strict=True):
            tokens, logprobs = self.history.path(int(self.numbers[place]), address)
            reason: FinishReason = "length"
            if tokens[-1] == self.eos_id:
                tokens, reason = tokens[:-1], "eos"
            hypotheses.append(Hypothesis(tokens, logprobs, score, reason))
        return hypotheses

    def open_paths(self, place: int) -> list[list[int]]:
        """Token sequences that may still be or become the best of the beam at this place: finished and live ones."""
        paths = [hypothesis.tokens for hypothesis in self.hypotheses(place)[0]]
        for slot in np.flatnonzero(self.live[place] & ~self.has_ended[place]).tolist():
            address = (self.length - 1) * self.history.width + slot
            paths.append(self.history.path(int(self.numbers[place]), address)[0])
        return paths

    def shrink(self, kept: Ints, filler: int) -> tuple[Ints, Ints]:
        """Keep only these places, and of each the live hypotheses, as many rows as the widest beam needs.

        Returns:
            For every row [R] the row it continues (counted without the beams that left), and its new token. Unused
            rows double their beam's first, or hold ``filler`` where nothing of the beam is live.
        """
        B, k = len(kept), self.totals.shape[1]
        self.has_ended = self.has_ended[kept]
        live = self.live[kept] & ~self.has_ended[:, None]
        order = np.argsort(~live, axis=1, kind="stable")[:, : live.sum(1).max()]  # live ones first, in their order
        beam = np.arange(B)[:, None]
        used = live[beam, order]
        order = np.where(used, order, order[:, :1])
        self.slots = order
        self.totals = np.where(used, self._totals[kept[:, None], order], -np.inf)
        self.numbers, self.limits = self.numbers[kept], self.limits[kept]
        self.largest_penalties = self.largest_penalties[kept]
        self.best_scores, self.best_addresses = self.best_scores[kept], self.best_addresses[kept]
        parents = beam * k + self._chosen_rows[kept[:, None], order]
        tokens = np.where(used[:, :1], self._chosen_tokens[kept[:, None], order], filler)
        return parents.ravel(), tokens.ravel()
