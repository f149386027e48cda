"""Beam search over a step function, for a batch of sentences; with a beam of 1 it is greedy search.

At every step each sentence keeps the K best continuations of its live hypotheses. Those that end in ``</s>`` are
finished and leave the beam; the rest are the live hypotheses of the next step. So the width may shrink and grow again.
Stopping is exact: a sentence ends when none of its live hypotheses can still enter its n best finished ones.

Knows nothing of models, caches or text. The big tensor, [R, V], stays where the step function put it; of it only the K
best come back to be counted, in NumPy and with sums in float64 (which not every device has).
Shapes: B sentences in the batch, k rows for each (the widest beam now), R = B · k, K beam size, N n-best, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor

from pellucid.config import DecodingConfig
from pellucid.decoding.candidates import best_continuations
from pellucid.decoding.hypothesis import FinishReason, Hypothesis
from pellucid.decoding.penalties import largest_penalty, length_penalty
from pellucid.decoding.step import StepFunction
from pellucid.errors import ConfigError, PellucidError

__all__ = ["SearchStats", "search"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(slots=True)
class SearchStats:
    """What searches have cost; one object may be handed to many and adds them up.

    Attributes:
        sentences: sentences searched.
        steps: calls of the step function.
        rows: rows it computed, over all calls.
        live_rows: those of them that held a live hypothesis; the rest filled up sentences with narrower beams.
        sentence_steps: steps until each sentence ended, summed over sentences.
        settled_steps: steps until each sentence's n-best list was what it stayed, summed likewise. The difference to
            ``sentence_steps`` is the price of exact stopping: steps that only showed that nothing better comes.
    """

    sentences: int = 0
    steps: int = 0
    rows: int = 0
    live_rows: int = 0
    sentence_steps: int = 0
    settled_steps: int = 0


@torch.inference_mode()
def search(
    step: StepFunction,
    limits: Sequence[int],
    settings: DecodingConfig,
    *,
    bos_id: int,
    eos_id: int,
    suppressed: Sequence[int] = (),
    device: torch.device | str = "cpu",
    stats: SearchStats | None = None,
) -> list[list[Hypothesis]]:
    """The n best hypotheses of every sentence, best first, by Σ log p over the length penalty.

    At most ``settings.n_best``; fewer where the search finished fewer. A hypothesis cut by the limit
    (``finish_reason`` "length") is returned only where a sentence has no finished one. Sentences do not influence each
    other. The beam does not depend on ``n_best``, so the first entry is the same for every ``n_best``.

    Args:
        step: ready for its first call, with one row per sentence.
        limits: for each sentence the most tokens to generate, ``</s>`` included.
        settings: ``beam_size``, ``n_best``, ``length_penalty`` and ``length_alpha`` are used.
        bos_id: the first token fed.
        eos_id: the token that finishes a hypothesis.
        suppressed: tokens never generated (padding, ``<s>``); the others' log p stays as it is.
        device: where the tensors handed to ``step`` are put.
        stats: counts are added to it.

    Raises:
        ConfigError: a limit below 1.
        PellucidError: the model gave NaN, or left a sentence no token with a probability above 0.
    """
    if any(limit < 1 for limit in limits):
        raise ConfigError(f"length limits must be at least 1, not {min(limits)}: raise max_length")
    if not limits:
        return []
    stats = SearchStats() if stats is None else stats
    stats.sentences += len(limits)
    beams = _Beams(limits, settings, eos_id)
    forbidden = torch.tensor(list(suppressed), dtype=torch.int64, device=device)
    tokens = np.full(len(limits), bos_id, np.int64)
    while True:
        B, k = beams.totals.shape
        stats.steps += 1
        stats.rows += B * k
        stats.live_rows += int(np.isfinite(beams.totals).sum())
        logprobs = step(torch.from_numpy(tokens).to(device)).contiguous()
        # Logits processors belong here: whatever changes log p of next tokens, given the prefixes, before the choice.
        logprobs.index_fill_(1, forbidden, -torch.inf)
        # Sampling belongs here: another way to choose rows and tokens; all that follows stays.
        beams.advance(*_choose(logprobs.view(B, k, -1), beams.offsets(), settings.beam_size))
        ended = beams.ended()
        for place in np.flatnonzero(ended).tolist():
            stats.sentence_steps += beams.length
            stats.settled_steps += beams.close(place)
        if ended.all():
            return beams.results
        kept = np.flatnonzero(~ended)
        parents, tokens = beams.shrink(kept)
        if kept.size < B:
            step.select(torch.from_numpy(kept).to(device))
        if not np.array_equal(parents, np.arange(kept.size * k)):  # greedy search never pays for a copy
            step.reorder(torch.from_numpy(parents).to(device))


def _choose(logprobs: Float32[Tensor, "B k V"], offsets: Floats, count: int) -> tuple[Ints, Ints, Floats]:
    """The best continuations of every sentence: row within the sentence, token, log p, each [B, ≤ K]."""
    on_device = torch.from_numpy(offsets.astype(np.float32)).to(logprobs.device)
    rows, tokens, chosen, largest = best_continuations(logprobs, on_device, count)
    if largest.isnan():
        raise PellucidError(
            "the model's log-probabilities contain NaN: its weights or its input are broken; check the checkpoint"
        )
    assert largest < 1e-3, "the step function must give log-probabilities, not logits"
    # A log p just above 0 is rounding; the bound that stops a sentence relies on there being none.
    return rows.cpu().numpy(), tokens.cpu().numpy(), np.minimum(chosen.cpu().numpy().astype(np.float64), 0.0)


class _History:
    """Every choice of every step as back-pointers; a choice's address is step · K + slot."""

    def __init__(self, sentences: int, beam_size: int) -> None:
        self.sentences, self.beam_size = sentences, beam_size
        self.steps: list[tuple[Ints, Ints, Floats]] = []

    def append(self, sentences: Ints, parents: Ints, tokens: Ints, logprobs: Floats) -> None:
        """Add a step's choices [B, C]; ``parents`` are slots of the step before."""
        shape = (self.sentences, tokens.shape[1])
        step = (np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape))
        for array, values in zip(step, (parents, tokens, logprobs), strict=True):
            array[sentences] = values
        self.steps.append(step)

    def path(self, sentence: int, address: int) -> tuple[list[int], list[float]]:
        """Tokens and their log p from the first step to this choice."""
        last, slot = divmod(address, self.beam_size)
        path: list[tuple[int, float]] = []
        for parents, tokens, logprobs in reversed(self.steps[: last + 1]):
            path.append((int(tokens[sentence, slot]), float(logprobs[sentence, slot])))
            slot = parents[sentence, slot]
        return [token for token, _ in reversed(path)], [logprob for _, logprob in reversed(path)]


class _Beams:
    """The books of a batch: what is live, what is finished, and what is the best that is still possible.

    Sentences that end leave every array; ``sentences`` says which of the original ones are left.

    Attributes:
        length: tokens generated so far.
        totals: [B, k] Σ log p of the live hypotheses; -inf in unused rows, which come last.
        best_scores: [B, N] scores of the best finished hypotheses, falling; -inf where there are fewer.
        best_addresses: [B, N] where the history has them.
        results: of every original sentence, once it has ended.
    """

    def __init__(self, limits: Sequence[int], settings: DecodingConfig, eos_id: int) -> None:
        B, N = len(limits), settings.n_best
        name, alpha = settings.length_penalty, settings.length_alpha
        self.settings, self.eos_id = settings, eos_id
        self.length = 0
        self.history = _History(B, settings.beam_size)
        self.sentences = np.arange(B)
        self.limits = np.array(limits, np.int64)
        self.largest_penalties = np.array([largest_penalty(name, alpha, limit) for limit in limits])
        self.totals: Floats = np.zeros((B, 1))
        self.slots: Ints = np.zeros((B, 1), np.int64)
        self.best_scores: Floats = np.full((B, N), -np.inf)
        self.best_addresses: Ints = np.full((B, N), -1, np.int64)
        self.results: list[list[Hypothesis]] = [[] for _ in limits]

    def offsets(self) -> Floats:
        """[B, k]: the totals below each sentence's best, which rank as the totals do.

        In float32 they keep the digits that decide; a lone hypothesis gets exactly 0, so that a beam of 1 compares the
        very numbers that greedy search compares.
        """
        offsets: Floats = self.totals - self.totals.max(1, keepdims=True)
        return offsets

    def advance(self, rows: Ints, tokens: Ints, logprobs: Floats) -> None:
        """Enter the choices [B, C] of a step, best first, into the history and, where they end, among the finished."""
        sentence = np.arange(len(self.sentences))[:, None]
        totals = self.totals[sentence, rows] + logprobs
        self.history.append(self.sentences, self.slots[sentence, rows], tokens, logprobs)
        self.length += 1
        finished = tokens == self.eos_id
        if finished.any():
            self._keep_best(np.where(finished, totals, -np.inf))
        self._chosen_rows, self._chosen_tokens = rows, tokens
        self._live: Bools = ~finished & (totals > -np.inf)
        self._totals: Floats = np.where(self._live, totals, -np.inf)

    def _keep_best(self, totals: Floats) -> None:
        """Merge newly finished hypotheses [B, C] (-inf: none) with the best so far; of equals the older is better."""
        settings, (B, C), N = self.settings, totals.shape, self.best_scores.shape[1]
        penalty = length_penalty(settings.length_penalty, settings.length_alpha, self.length)
        addresses = np.broadcast_to((self.length - 1) * settings.beam_size + np.arange(C), (B, C))
        scores = np.concatenate((self.best_scores, totals / penalty), 1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :N]
        sentence = np.arange(B)[:, None]
        self.best_scores = scores[sentence, order]
        self.best_addresses = np.concatenate((self.best_addresses, addresses), 1)[sentence, order]

    def ended(self) -> Bools:
        """[B]: no live hypothesis is left, may go on, or can still enter the n best.

        This is the exact rule. A cheaper one (``first_k``: as soon as n_best are finished; ``top``: as soon as the best
        choice is a finished one) would replace the last condition.
        """
        reachable = self._totals.max(1) / self.largest_penalties  # -inf where nothing is live
        over: Bools = (self.limits == self.length) | ~self._live.any(1)
        over |= reachable <= self.best_scores[:, -1]
        return over

    def close(self, place: int) -> int:
        """Write down the result of the sentence at this place of the batch; the step at which it was found."""
        sentence = int(self.sentences[place])
        finished = self.best_scores[place] > -np.inf
        if finished.any():
            scores, addresses = self.best_scores[place][finished], self.best_addresses[place][finished]
            self._write(sentence, scores, addresses)
            return int(addresses.max()) // self.settings.beam_size + 1
        if not self._live[place].any():
            raise PellucidError(
                f"sentence {sentence + 1} of the batch: after {self.length - 1} tokens the model gives no token a "
                "probability above 0; check the checkpoint and the suppressed tokens"
            )
        penalty = length_penalty(self.settings.length_penalty, self.settings.length_alpha, self.length)
        scores = self._totals[place] / penalty
        slots = np.argsort(-scores, kind="stable")[: min(self.settings.n_best, int(self._live[place].sum()))]
        self._write(sentence, scores[slots], (self.length - 1) * self.settings.beam_size + slots)
        return self.length

    def _write(self, sentence: int, scores: Floats, addresses: Ints) -> None:
        for score, address in zip(scores.tolist(), addresses.tolist(), strict=True):
            tokens, logprobs = self.history.path(sentence, address)
            reason: FinishReason = "length"
            if tokens[-1] == self.eos_id:
                tokens, reason = tokens[:-1], "eos"
            self.results[sentence].append(Hypothesis(tokens, logprobs, score, reason))

    def shrink(self, kept: Ints) -> tuple[Ints, Ints]:
        """Keep only these places of the batch, and of each the live hypotheses, as many rows as the widest beam needs.

        Returns:
            For every row [R] the row it continues (counted without the sentences that left), and its new token.
            Unused rows double their sentence's first.
        """
        B, k = len(kept), self.totals.shape[1]
        live = self._live[kept]
        order = np.argsort(~live, axis=1, kind="stable")[:, : live.sum(1).max()]  # live ones first, in their order
        sentence = np.arange(B)[:, None]
        used = live[sentence, order]
        order = np.where(used, order, order[:, :1])
        self.slots = order
        self.totals = np.where(used, self._totals[kept[:, None], order], -np.inf)
        self.sentences, self.limits = self.sentences[kept], self.limits[kept]
        self.largest_penalties = self.largest_penalties[kept]
        self.best_scores, self.best_addresses = self.best_scores[kept], self.best_addresses[kept]
        parents = sentence * k + self._chosen_rows[kept[:, None], order]
        return parents.ravel(), self._chosen_tokens[kept[:, None], order].ravel()
