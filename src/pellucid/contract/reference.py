"""Slow searches written from the definitions, over a way's teacher-forced pass alone; the checks compare with them.

They share no code with the package's search, keep no cache, and never stop early. With each result comes the smallest
gap between what was chosen and what was not: where it is tiny, another answer is as good.
Shapes: R rows, T target tokens, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pellucid.contract.ways import Output, Way

__all__ = ["Reference", "beam_search", "exhaustive", "forced", "normalised", "penalised"]

ROWS = 256
"""Most rows of a teacher-forced pass."""
NUMBERS = 1 << 26
"""Most logits of one pass that are looked at as a whole: 256 MB in float32."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reference:
    """What a slow search found for one source.

    Attributes:
        outputs: the n best, best first.
        gap: the smallest difference of two sums or scores that decided about them.
    """

    outputs: list[Output]
    gap: float


def normalised(logits: NDArray[np.floating]) -> Floats:
    """Log-probabilities over the last axis, in float64; what is normalised already stays as it is."""
    numbers = logits.astype(np.float64)
    numbers = numbers - numbers.max(-1, keepdims=True)
    result: Floats = numbers - np.log(np.exp(numbers).sum(-1, keepdims=True))
    return result


def penalised(total: float, length: int, name: str, alpha: float) -> float:
    """Σ log p divided by the length penalty of ``length`` tokens, ``</s>`` included."""
    divisors = {"average": length, "power": length**alpha, "gnmt": ((5 + length) / 6) ** alpha, "none": 1.0}
    return float(total / divisors[name])


def forced(way: Way, sources: Sequence[str], targets: Sequence[Sequence[int]]) -> list[Floats]:
    """Log p of each token of each target, in passes that hold :data:`NUMBERS` logits at most, or one target's."""
    results: list[Floats] = []
    rows = 1  # the first pass shows how large the vocabulary is
    while len(results) < len(sources):
        part = slice(len(results), len(results) + rows)
        vocabulary = 1
        for logits, target in zip(way.parallel(sources[part], targets[part]), targets[part], strict=True):
            results.append(_taken(logits, target))
            vocabulary = logits.shape[-1]
        longest = max(map(len, targets[len(results) : len(results) + ROWS // 4]), default=1)
        rows = min(max(NUMBERS // (longest * vocabulary), 1), ROWS // 4)
    return results


def _taken(logits: NDArray[np.floating], target: Sequence[int]) -> Floats:
    """Log p of the target's tokens, some rows at a time: the float64 copies take more than the logits."""
    size = max(1, NUMBERS // 16 // logits.shape[-1])
    parts = [
        normalised(logits[start : start + size])[np.arange(len(tokens)), tokens]
        for start in range(0, len(target), size)
        for tokens in [list(target[start : start + size])]
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def beam_search(
    way: Way,
    sources: Sequence[str],
    *,
    max_length: int,
    beam_size: int,
    n_best: int,
    penalty: str,
    alpha: float,
    prefix: Sequence[int] = (),
    free: bool = False,
) -> list[Reference]:
    """Beam search that always goes on to ``max_length``; with a beam of 1, the most probable token at every step.

    At every step the ``beam_size`` best continuations are kept; those that end in ``</s>`` are finished, the rest are
    the live ones of the next step. Of equal ones the lower row wins, then the lower token. What the limit cuts counts
    only where nothing has finished. Outputs begin with ``prefix``, whose log p counts unless it is ``free``.
    """
    beams = [_Beam() for _ in sources]
    for length in range(1, max_length + 1):
        rows = [(index, tokens) for index, beam in enumerate(beams) for _, _, tokens in beam.live]
        if not rows:
            break
        logprobs = _next(way, sources, rows)
        is_forced = length <= len(prefix)
        if is_forced:
            logprobs[:, np.arange(logprobs.shape[1]) != prefix[length - 1]] = -np.inf
        start = 0
        for beam in beams:
            own = logprobs[start : start + len(beam.live)]
            start += len(beam.live)
            if len(own):
                counted = np.where(np.isfinite(own), 0.0, own) if is_forced and free else own
                beam.advance(own, counted, beam_size, way.eos_id, partial(_score, length, penalty, alpha))
    return [beam.result(n_best, partial(_score, max_length, penalty, alpha)) for beam in beams]


def _score(length: int, penalty: str, alpha: float, total: float) -> float:
    return penalised(total, length, penalty, alpha)


class _Beam:
    """The books of one source: live and finished hypotheses as (sum or score, log p of each token, tokens)."""

    def __init__(self) -> None:
        self.live: list[tuple[float, tuple[float, ...], tuple[int, ...]]] = [(0.0, (), ())]
        self.finished: list[tuple[float, tuple[float, ...], tuple[int, ...]]] = []
        self.gap = float("inf")

    def advance(
        self, logprobs: Floats, counted: Floats, beam_size: int, eos_id: int, score: Callable[[float], float]
    ) -> None:
        sums = (np.array([total for total, _, _ in self.live])[:, None] + counted).ravel()
        kept = min(beam_size, int(np.isfinite(sums).sum()))
        nearest = np.sort(np.partition(-sums, min(kept, sums.size - 1))[: kept + 1])
        if kept < sums.size and np.isfinite(nearest[-1]):
            self.gap = min(self.gap, float(nearest[-1] - nearest[-2]))
        likely: list[int] = np.flatnonzero(-sums <= nearest[kept - 1]).tolist() if kept else []
        places = sorted(likely, key=lambda place: (-sums[place], place))[:kept]
        live = []
        for place in places:
            row, token = divmod(place, logprobs.shape[1])
            _, before, prefix = self.live[row]
            total = float(sums[place])
            path = (*before, float(logprobs[row, token])), (*prefix, token)
            if token == eos_id:
                self.finished.append((score(total), *path))
            else:
                live.append((total, *path))
        self.live = live

    def result(self, n_best: int, score: Callable[[float], float]) -> Reference:
        found = self.finished or [(score(total), logprobs, tokens) for total, logprobs, tokens in self.live]
        reason = "eos" if self.finished else "length"
        found = sorted(found, key=lambda one: -one[0])
        outputs = [Output(tokens, logprobs, value, reason) for value, logprobs, tokens in found[:n_best]]
        return Reference(outputs, min(self.gap, _smallest_gap([value for value, _, _ in found[: n_best + 1]])))


def _next(way: Way, sources: Sequence[str], rows: Sequence[tuple[int, tuple[int, ...]]]) -> Floats:
    """Log p [R, V] of every next token after each (source, prefix), all prefixes being of one length."""
    parts = []
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        targets = [(*prefix, way.eos_id) for _, prefix in part]
        parts += way.parallel([sources[index] for index, _ in part], targets, last=True)
    logprobs = normalised(np.concatenate(parts))
    logprobs[:, list(way.suppressed)] = -np.inf
    return logprobs


def exhaustive(
    way: Way,
    source: str,
    tokens: Sequence[int],
    *,
    max_length: int,
    n_best: int,
    penalty: str,
    alpha: float,
    cut_competes: bool = False,
) -> Reference:
    """Every sequence of ``tokens``, which may hold ``</s>``, up to ``max_length``; to be called while restricted.

    Those that the limit cuts count only where nothing ends, or (``cut_competes``) like any other.
    """
    words = [token for token in tokens if token != way.eos_id]
    prefixes = list(itertools.product(words, repeat=max_length - 1))
    logprobs: dict[tuple[int, ...], Floats] = {}
    for start in range(0, len(prefixes), ROWS):
        part = prefixes[start : start + ROWS]
        targets = [(*prefix, words[0]) for prefix in part]  # the last token is only asked about, never read
        for prefix, logits in zip(part, way.parallel([source] * len(part), targets), strict=True):
            logprobs.update((prefix[:t], row) for t, row in enumerate(normalised(logits)))
    ended: list[Output] = []
    cut: list[Output] = []
    for prefix, row in logprobs.items():
        path = tuple(float(logprobs[prefix[:t]][token]) for t, token in enumerate(prefix))
        if way.eos_id in tokens:
            ended.append(_output((*prefix, way.eos_id), (*path, float(row[way.eos_id])), "eos", penalty, alpha))
        if len(prefix) == max_length - 1:
            cut += [_output((*prefix, word), (*path, float(row[word])), "length", penalty, alpha) for word in words]
    found = sorted(ended + cut if cut_competes else ended or cut, key=lambda output: -output.score)
    return Reference(found[:n_best], _smallest_gap([output.score for output in found[: n_best + 1]]))


def _output(tokens: tuple[int, ...], logprobs: tuple[float, ...], reason: str, penalty: str, alpha: float) -> Output:
    return Output(tokens, logprobs, penalised(sum(logprobs), len(tokens), penalty, alpha), reason)


def _smallest_gap(scores: Sequence[float]) -> float:
    return min((a - b for a, b in itertools.pairwise(scores)), default=float("inf"))
