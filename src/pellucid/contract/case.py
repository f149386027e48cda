"""What all checks start from: a way of generating, sources for it, the measure, and comparing lists of outputs.

Knows nothing about what any item of the contract says.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.config import DecodingConfig
from pellucid.contract.reference import Reference, beam_search, normalised
from pellucid.contract.results import NEAR_TIE, TOLERANCE, Worst, deviation
from pellucid.contract.ways import Output, Way

__all__ = ["BEAM", "FEW", "GREEDY", "PENALTIES", "Case", "count"]

GREEDY: dict[str, Any] = {"beam_size": 1, "n_best": 1}
BEAM: dict[str, Any] = {"beam_size": 4, "n_best": 4}
PENALTIES = (("average", 1.0), ("power", 0.6), ("gnmt", 0.6), ("none", 1.0))
FEW = 6
"""Sources that slow searches are run on."""
ENOUGH = 3
"""Differences that are shown not to be near-ties before further ones are no longer looked into."""
LONGEST = 24
"""Most tokens that slow searches write."""
STRUCTURAL = ("prefix_tokens", "forced_score", "forbidden_tokens")
"""Settings that belong to a model rather than to a search: a language code in front, tokens that it never writes."""


class Case:
    """One way of generating under the checks.

    Args:
        way: what is checked.
        sources: texts, none of them blank.
        tolerance: largest deviation allowed, in units of the largest logit.
    """

    def __init__(self, way: Way, sources: Sequence[str], tolerance: float = TOLERANCE) -> None:
        if not sources:
            raise ValueError("the contract needs at least one source")
        self.way, self.sources, self.tolerance = way, list(sources), tolerance
        self.neutral = {**DecodingConfig().model_dump(), **{name: getattr(way.own, name) for name in STRUCTURAL}}
        self._found: dict[str, list[list[Output]]] = {}

    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        """The way's own answer; what is not set has the package's default, not the model's, but for what it needs."""
        return self.way.generate(sources, **{**self.neutral, **settings})

    def alone(self, settings: dict[str, Any]) -> list[list[Output]]:
        """Every source by itself; computed once."""
        key = repr(sorted(settings.items()))
        if key not in self._found:
            self._found[key] = self.generate(self.sources, **settings, batch_size=1)
        return self._found[key]

    @cached_property
    def own(self) -> dict[str, Any]:
        """The settings that the way generates with where nothing is asked, as far as they are about tokens."""
        kept = {name: self.neutral[name] for name in ("max_source_length", "unknown")}
        return {name: value for name, value in {**self.way.own.model_dump(), **kept}.items() if name != "batch_size"}

    @cached_property
    def few(self) -> list[str]:
        """The sources with the shortest outputs: slow searches are to come to an end on them."""
        lengths = [len(found[0].tokens) for found in self.alone(GREEDY)]
        order = sorted(range(len(lengths)), key=lambda index: lengths[index])
        return [self.sources[index] for index in order[:FEW]]

    @cached_property
    def few_limit(self) -> int:
        """A length limit under which most of them end, and some steps more."""
        lengths = sorted(len(found[0].tokens) for found in self.alone(GREEDY))
        return min(LONGEST, lengths[min(FEW, len(lengths)) - 1] + 6)

    @cached_property
    def targets(self) -> list[list[int]]:
        """For each of the few a target to force: what is generated for it, and random tokens behind, all ragged."""
        rng = random.Random(1)
        words = sorted({token for found in self.alone(GREEDY) for token in found[0].tokens} - {self.way.eos_id})
        targets = []
        for number, found in enumerate(self.generate(self.few, **GREEDY, max_length=LONGEST)):
            tokens = [token for token in found[0].tokens if token != self.way.eos_id]
            targets.append([*tokens, *rng.choices(words or [self.way.eos_id], k=2 + number % 4), self.way.eos_id])
        return targets

    @cached_property
    def scale(self) -> float:
        """The largest |log p| of a teacher-forced pass: what differences of log p are measured by."""
        largest = 0.0
        for logits in self.way.parallel(self.few, self.targets):
            numbers = self.possible(normalised(logits))
            largest = max(largest, float(np.abs(numbers[np.isfinite(numbers)]).max(initial=0.0)))
        return largest or 1.0

    @cached_property
    def near_tie(self) -> float:
        """A gap below which a choice may fall either way; what may deviate by more cannot tell smaller gaps apart."""
        return NEAR_TIE if self.tolerance <= TOLERANCE else max(NEAR_TIE, self.tolerance * self.scale)

    def free_tokens(self, settings: dict[str, Any]) -> int:
        """How many tokens at the beginning of an output do not count in its score."""
        chosen = {**self.neutral, **settings}
        return len(self.way.prefix(chosen)) if chosen["forced_score"] == "free" else 0

    def possible(self, logits: NDArray[np.floating]) -> NDArray[np.floating]:
        """The columns of tokens that may be generated: what padding is given (-1e4 in Marian) is no measure."""
        return np.delete(logits, list(self.way.suppressed), -1)

    def reference(self, sources: Sequence[str], settings: dict[str, Any]) -> list[Reference]:
        """The slow search's answer under ``settings``, which name beam_size, n_best and max_length."""
        chosen = {**self.neutral, **settings}
        return beam_search(
            self.way,
            sources,
            max_length=chosen["max_length"],
            beam_size=chosen["beam_size"],
            n_best=chosen["n_best"],
            penalty=chosen["length_penalty"],
            alpha=chosen["length_alpha"],
            prefix=self.way.prefix(chosen),
            free=chosen["forced_score"] == "free",
        )

    def gap(self, source: str, settings: dict[str, Any], longest: int) -> float:
        """How near to a tie a search of up to ``longest`` tokens comes."""
        return self.reference([source], {**settings, "max_length": longest})[0].gap

    def place(self, source: str) -> str:
        """The name of a source: its number, from 1."""
        return f"source {self.sources.index(source) + 1}"

    def compare(
        self,
        worst: Worst,
        place: str,
        found: Sequence[Output],
        expected: Sequence[Output],
        gap: float | Callable[[], float],
    ) -> None:
        """Two answers for one source: the same tokens, and log p and scores within the tolerance.

        Args:
            worst: takes what is found.
            place: names the source.
            gap: how near to a tie the search for this source comes; asked only where tokens differ.
        """
        if [(o.tokens, o.finish_reason) for o in found] == [(o.tokens, o.finish_reason) for o in expected]:
            for one, other in zip(found, expected, strict=True):
                logprobs = np.array(one.token_logprobs), np.array(other.token_logprobs)
                worst.measure(deviation(*logprobs, self.scale))
                worst.measure(abs(one.score - other.score) / self.scale)
            return
        if len(worst.complaints) >= ENOUGH:  # it does not hold; a slow search for each difference more says nothing new
            worst.complain(f"{place}: {_difference(found, expected)}")
            return
        nearest = gap if isinstance(gap, float) else gap()
        if nearest < self.near_tie:
            worst.near_ties.append(f"{place}: gap {nearest:.1e}")
        else:
            worst.complain(f"{place}: {_difference(found, expected)} (no near-tie: gap {nearest:.1e})")


def _difference(found: Sequence[Output], expected: Sequence[Output]) -> str:
    if len(found) != len(expected):
        return f"{len(found)} hypotheses instead of {len(expected)}"
    pairs = enumerate(zip(found, expected, strict=True), 1)
    number, one, other = next(
        (number, one, other)
        for number, (one, other) in pairs
        if (one.tokens, one.finish_reason) != (other.tokens, other.finish_reason)
    )
    return f"hypothesis {number} is {_shown(one)} instead of {_shown(other)}"


def _shown(output: Output) -> str:
    tokens = " ".join(map(str, output.tokens[:8])) + (" …" if len(output.tokens) > 8 else "")
    return f"[{tokens}] ({len(output.tokens)} tokens, {output.finish_reason}, {output.score:.4f})"


def count(number: int, what: str) -> str:
    """``1 source``, ``2 sources``."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")
