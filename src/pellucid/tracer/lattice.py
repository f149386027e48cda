"""The search as a lattice: what was kept at each step, what was not and why, and what came of it.

Knows a search's events and hypotheses; knows nothing of text. Shapes: k rows of a step, C choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pellucid.config import DecodingConfig
from pellucid.decoding.hypothesis import Hypothesis
from pellucid.decoding.penalties import largest_penalty, length_penalty
from pellucid.decoding.watching import SearchEvent
from pellucid.model.cache import KVCache
from pellucid.tracing.document import CacheBytes, Node, SearchEnd, SearchStep, Token, Why

__all__ = ["Lattice", "read_cache", "walk"]

EXTRA = 4
"""Continuations shown of each step that did not get a place."""

Status = Literal["kept", "finished", "cut", "stopped", "pruned"]


def read_cache(cache: KVCache) -> CacheBytes:
    """A cache's bytes, as it gives them."""
    used, allocated = cache.used_bytes(), cache.allocated_bytes()
    return CacheBytes(
        self=used.self_attention,
        cross=used.cross_attention,
        allocated_self=allocated.self_attention,
        allocated_cross=allocated.cross_attention,
    )


@dataclass(slots=True)
class _Choice:
    """A choice of a step: what it is, and what is found out about it later."""

    step: int
    beam: int
    row: int
    token: int
    logprob: float
    total: float
    parent: int | None
    status: Status
    rank: int = 0
    why: Why | None = None


@dataclass
class Lattice:
    """Watches the search of one sentence.

    Args:
        eos_id: the token that finishes a hypothesis.
        cache: of the step function that is searched.

    Attributes:
        choices: everything looked at, by node number.
        reorder: for each step the row of the step before that each row goes on from.
        steps: rows and bytes of each step.
    """

    eos_id: int
    cache: KVCache
    choices: list[_Choice] = field(default_factory=list)
    reorder: list[list[int] | None] = field(default_factory=list)
    steps: list[SearchStep] = field(default_factory=list)
    _numbers: dict[tuple[int, int], int] = field(default_factory=dict)  # (beam, slot of the last step) → node

    def step(self, event: SearchEvent) -> None:
        """Write a step down."""
        step = event.length - 1
        before, self._numbers = self._numbers, {}
        parents: dict[tuple[int, int], int | None] = {}
        origins: list[int] = []
        used = np.isfinite(event.totals)
        for place, beam in enumerate(event.numbers.tolist()):
            for row in np.flatnonzero(used[place]).tolist():
                number = before.get((beam, int(event.slots[place, row]))) if step else None
                parents[beam, row] = number
                if number is not None:
                    origins.append(self.choices[number].row)
                    self.choices[number].status = "kept"
        self.reorder.append(origins if step else None)
        self.steps.append(SearchStep(rows=int(used.sum()), bytes=read_cache(self.cache)))
        for place, beam in enumerate(event.numbers.tolist()):
            self._enter(event, place, beam, step, parents)

    def _enter(
        self, event: SearchEvent, place: int, beam: int, step: int, parents: dict[tuple[int, int], int | None]
    ) -> None:
        choices = event.choices
        chosen: set[tuple[int, int]] = set()
        for slot in range(choices.tokens.shape[1]):
            row, token = int(choices.rows[place, slot]), int(choices.tokens[place, slot])
            logprob = float(choices.logprobs[place, slot])
            total = float(event.totals[place, row]) + logprob
            if not np.isfinite(total):
                continue
            chosen.add((row, token))
            is_live, ended = bool(event.live[place, slot]), bool(event.finished[place, slot])
            status: Status = "pruned"
            if ended:
                status = "finished" if token == self.eos_id else "cut"
            elif is_live:
                status = "stopped"  # until a later step goes on from it
            self._numbers[beam, slot] = self._add(
                _Choice(step, beam, row, token, logprob, total, parents[beam, row], status)
            )
        if len(event.numbers) > 1 or not chosen:
            return  # of several groups each has its own scores, and what it did not choose is not told
        best = event.totals.max(1, keepdims=True)
        more = event.next_tokens.best(event.totals - np.where(best > -np.inf, best, 0.0), len(chosen) + EXTRA)
        for row, token, logprob in zip(
            more.rows[0].tolist(), more.tokens[0].tolist(), more.logprobs[0].tolist(), strict=True
        ):
            total = float(event.totals[0, row]) + logprob
            if (row, token) not in chosen and np.isfinite(total):
                self._add(_Choice(step, beam, row, token, logprob, total, parents[beam, row], "pruned"))

    def _add(self, choice: _Choice) -> int:
        self.choices.append(choice)
        return len(self.choices) - 1

    # -- afterwards

    def close(self, config: DecodingConfig, limit: int, found: Sequence[Hypothesis]) -> SearchEnd | None:
        """Rank the choices, and find out why some were not kept and why the search ended."""
        last = len(self.steps) - 1
        of_beams: dict[tuple[int, int], list[_Choice]] = {}
        for choice in self.choices:
            of_beams.setdefault((choice.step, choice.beam), []).append(choice)
        for choices in of_beams.values():
            _rank(choices)
        worst = min((one.score for one in found), default=-np.inf)
        worst_kept = worst if len(found) >= config.n_best and found[-1].finish_reason == "eos" else None
        divisor = largest_penalty(config.length_penalty, config.length_alpha, limit)
        for choice in self.choices:
            if choice.status == "stopped" and choice.step + 1 == limit:
                choice.status = "cut"
            elif choice.status == "stopped":
                choice.why = Why(bound=choice.total / divisor, worst_kept=worst_kept)
        live = [choice.total for choice in self.choices if choice.step == last and choice.status == "stopped"]
        if not live:
            return None
        return SearchEnd(step=last, best_live=max(live), bound=max(live) / divisor, worst_kept=worst_kept)

    def nodes(self, config: DecodingConfig, token_of: Callable[[int], Token]) -> list[Node]:
        """All choices as nodes, in order of step, group and rank; call after :meth:`close`."""
        order = sorted(
            range(len(self.choices)), key=lambda n: (self.choices[n].step, self.choices[n].beam, self.choices[n].rank)
        )
        places = {number: place for place, number in enumerate(order)}
        nodes = []
        for place, number in enumerate(order):
            choice = self.choices[number]
            length = choice.step + 1
            penalty = length_penalty(config.length_penalty, config.length_alpha, length)
            nodes.append(
                Node(
                    id=place,
                    parent=None if choice.parent is None else places[choice.parent],
                    step=choice.step,
                    rank=choice.rank,
                    token=token_of(choice.token),
                    logp=choice.logprob,
                    sum_logp=choice.total,
                    len=length,
                    penalty=penalty,
                    score=choice.total / penalty,
                    status=choice.status,
                    why=choice.why,
                    group=choice.beam,
                )
            )
        return nodes


def _rank(choices: Sequence[_Choice]) -> None:
    """Number the choices of a step in the order in which they were found: search's own, best first."""
    kept = [choice.total for choice in choices if choice.status != "pruned"]
    for rank, choice in enumerate(choices):
        choice.rank = rank
        if choice.status == "pruned":
            choice.why = Why(needed=min(kept, default=None))


def walk(nodes: Sequence[Node], ids: Sequence[int]) -> list[int]:
    """The nodes on the path of these tokens, from step 0 on, as far as there are any."""
    path: list[int] = []
    for step, token in enumerate(ids):
        parent = path[-1] if path else None
        there = [n.id for n in nodes if n.step == step and n.parent == parent and n.token.id == token]
        if not there:
            break
        path.append(there[0])
    return path
