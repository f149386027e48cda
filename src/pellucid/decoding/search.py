"""Search over a step function, for a batch of sentences: greedy, beam, diverse beams, samples.

One loop for all of them. A sentence has one or more *beams*: one for beam search (of width 1: greedy search), one for
each group of diverse beam search, one of width 1 for each sample. At every step each beam chooses some continuations of
its live hypotheses, the best ones or one by lot; those that end in ``</s>`` are finished, and leave the beam or are
replaced; the rest are the live hypotheses of the next step. A sentence leaves the batch when all its beams have ended.

Knows nothing of models, caches or text. The big array, [R, V], stays with the step function; of it only what was chosen
comes back to be counted.
Shapes: B beams (sentence-major), k rows for each (the widest now), R = B · k, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.config import DecodingConfig
from pellucid.decoding.beams import Beams
from pellucid.decoding.diversity import candidates_needed, diverse
from pellucid.decoding.hypothesis import Hypothesis
from pellucid.decoding.rules import Constraints, Sentence, TokenRules
from pellucid.decoding.sampling import draws, sample
from pellucid.decoding.step import Choices, Ints, NextTokens, StepFunction
from pellucid.decoding.watching import SearchEvent, SearchObserver
from pellucid.errors import ConfigError, GenerationError

__all__ = ["Search", "SearchStats", "Sentence", "check_limit", "search"]


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


def search(
    step: StepFunction,
    sentences: Sequence[Sentence],
    settings: DecodingConfig,
    rules: TokenRules,
    stats: SearchStats | None = None,
) -> list[list[Hypothesis]]:
    """The hypotheses of every sentence, best first, by Σ log p over the length penalty.

    At most ``settings.n_best``; fewer where the search finished fewer. A hypothesis cut by the limit
    (``finish_reason`` "length") is returned only where a sentence has no finished one, except among samples and where
    ``beam`` is ``full``. Sentences do not influence each other. A beam does not depend on ``n_best``, so the first
    entry is the same for every ``n_best``; samples are independent of each other, and more may bring a better one.

    Args:
        step: ready for its first call, with one row per sentence.
        sentences: of the batch.
        settings: all but those that turn source lengths into limits.
        rules: about tokens.
        stats: counts are added to it.

    Raises:
        ConfigError: a limit below 1, or a prefix that does not fit into its limit or is forbidden.
        GenerationError: no token may follow: the model or the rules leave none with a probability above 0.
        PellucidError: the model gave NaN.
    """
    searching = Search(step, sentences, settings, rules, stats)
    while searching.advance():
        pass
    return searching.results


class Search:
    """A search that can be watched: :func:`search`, step by step; the arguments are the same.

    Attributes:
        results: of every sentence; empty until it has ended.
    """

    def __init__(
        self,
        step: StepFunction,
        sentences: Sequence[Sentence],
        settings: DecodingConfig,
        rules: TokenRules,
        stats: SearchStats | None = None,
    ) -> None:
        for sentence in sentences:
            check_limit(sentence)
        self._observer: SearchObserver | None = None
        self._step, self._sentences, self._settings, self._rules = step, sentences, settings, rules
        self._constraints = Constraints(rules, settings, sentences)
        self._stats = SearchStats() if stats is None else stats
        self._stats.sentences += len(sentences)
        self.results: list[list[Hypothesis]] = [[] for _ in sentences]

        self._lanes = settings.n_best if settings.sampling else settings.diversity_groups
        self._width = 1 if settings.sampling else settings.beam_size // self._lanes
        keeps_all = settings.beam == "full" or settings.stop in ("first_k", "heuristic") or self._lanes > 1
        self._beams = Beams(
            [sentence.limit for sentence in sentences for _ in range(self._lanes)],
            self._width,
            self._width if keeps_all else settings.n_best,
            settings,
            rules.eos_id,
            cut_competes=settings.sampling or settings.beam == "full",
        )
        self._found: list[list[list[Hypothesis]]] = [[] for _ in sentences]
        self._settled = np.zeros(len(sentences), np.int64)
        self._uniform = [
            draws(settings.seed, sentence.index, number, sentence.limit)
            for sentence in sentences
            for number in range(self._lanes if settings.sampling else 0)
        ]
        self._tokens = np.full(len(sentences) * self._lanes, rules.bos_id, np.int64)
        self._prefixes = self._tokens[:, None]  # kept up to date only where the constraints read it
        if self._lanes > 1 and sentences:
            step.reorder(np.repeat(np.arange(len(sentences)), self._lanes))

    def watch(self, observer: SearchObserver) -> None:
        """Tell ``observer`` about every step from now on; it changes nothing."""
        self._observer = observer

    def limit(self, sentence: int) -> int:
        """The most tokens that this sentence's hypotheses may have."""
        return self._sentences[sentence].limit

    def advance(self) -> bool:
        """Generate one more token of every live hypothesis; False when every sentence has ended."""
        beams = self._beams
        if not beams.numbers.size:
            return False
        B, k = beams.totals.shape
        self._stats.steps += 1
        self._stats.rows += B * k
        self._stats.live_rows += int(np.isfinite(beams.totals).sum())
        next_tokens = self._step(self._tokens)
        self._constraints.apply(next_tokens, self._prefixes, beams.numbers.repeat(k) // self._lanes, beams.length)
        choices = self._choose(next_tokens)
        before = beams.numbers, beams.slots, beams.totals
        beams.advance(choices)
        if self._observer is not None:
            self._observer.step(SearchEvent(beams.length, *before, next_tokens, choices, beams.live, beams.finished))
        for place in beams.update_ended().tolist():
            self._enter(place)
        ended = beams.has_ended.reshape(-1, self._lanes).all(1)
        for place in np.flatnonzero(ended).tolist():
            self._close(int(beams.numbers[place * self._lanes]) // self._lanes)
        self._shrink(np.flatnonzero(~ended), k)
        return bool(beams.numbers.size)

    def _choose(self, next_tokens: NextTokens) -> Choices:
        beams, settings = self._beams, self._settings
        if settings.sampling:
            uniform = np.array([self._uniform[number][beams.length] for number in beams.numbers.tolist()])
            tokens = sample(next_tokens.read(), uniform, settings)[:, None]
            return Choices(np.zeros_like(tokens), tokens, *next_tokens.take(tokens))
        offsets = beams.offsets()
        if self._lanes == 1:
            return next_tokens.best(offsets, beams.choices_wanted)
        wanted = beams.choices_wanted
        choices = next_tokens.best(offsets, candidates_needed(self._lanes, wanted))
        return diverse(choices, offsets, self._lanes, self._width, wanted, settings.diversity_strength)

    def _enter(self, place: int) -> None:
        """Write down what a beam that has ended found."""
        sentence = int(self._beams.numbers[place]) // self._lanes
        hypotheses, found_at = self._beams.hypotheses(place)
        self._found[sentence].append(hypotheses)
        self._settled[sentence] = max(self._settled[sentence], found_at)

    def _close(self, sentence: int) -> None:
        """Put together what the beams of a sentence found."""
        found = [hypotheses for hypotheses in self._found[sentence] if hypotheses]
        if not found:
            described = self._constraints.described()
            way_out = f"loosen {described}" if described else "check the checkpoint"
            raise GenerationError(
                f"after {self._beams.length - 1} tokens no token with a probability above 0 may follow: {way_out}",
                number=self._sentences[sentence].index + 1,
            )
        self._stats.sentence_steps += self._beams.length
        self._stats.settled_steps += int(self._settled[sentence])
        self.results[sentence] = _merged(found, self._settings)

    def _shrink(self, kept: Ints, k: int) -> None:
        """Go on with these sentences of the batch."""
        lanes, beams = self._lanes, self._beams
        before = len(beams.numbers) // lanes
        if not kept.size:
            beams.numbers = beams.numbers[:0]
            return
        kept_beams = (kept[:, None] * lanes + np.arange(lanes)).ravel()
        parents, tokens = beams.shrink(kept_beams, self._rules.bos_id)
        if self._constraints.read_prefixes:
            rows = (kept_beams[:, None] * k + np.arange(k)).ravel()
            self._prefixes = np.concatenate((self._prefixes[rows][parents], tokens[:, None]), 1)
        self._tokens = tokens
        if kept.size < before:
            self._step.select(kept)
        if not np.array_equal(parents, np.arange(kept_beams.size * k)):  # greedy search never pays for a copy
            self._step.reorder(parents)

    def settled(self, sentence: int) -> list[int]:
        """Tokens with which the best hypothesis of this sentence begins for certain; all of it once it has ended."""
        if self.results[sentence]:
            return self.results[sentence][0].tokens
        places = np.flatnonzero(self._beams.numbers // self._lanes == sentence).tolist()
        paths = [path for place in places for path in self._beams.open_paths(place)]
        paths += [hypothesis.tokens for found in self._found[sentence] for hypothesis in found]
        shared = 0
        for tokens in zip(*paths, strict=False):
            if len(set(tokens)) > 1:
                break
            shared += 1
        return paths[0][:shared] if paths else []


def check_limit(sentence: Sentence) -> None:
    """Refuse a length limit that leaves nothing to write.

    Raises:
        ConfigError: it is below 1, or the forced prefix fills it.
    """
    if sentence.limit < 1:
        raise ConfigError(f"length limits must be at least 1, not {sentence.limit}: raise max_length")
    if len(sentence.prefix) >= sentence.limit:
        raise ConfigError(
            f"the forced prefix has {len(sentence.prefix)} tokens, and only {sentence.limit} may be generated, "
            "</s> included: shorten it or raise max_length",
            number=sentence.index + 1,
        )


def _merged(found: list[list[Hypothesis]], settings: DecodingConfig) -> list[Hypothesis]:
    """One n-best list from those of a sentence's beams: the best of each beam, then the second of each, and so on."""
    if len(found) == 1:
        return found[0][: settings.n_best]
    found = sorted(found, key=lambda hypotheses: -hypotheses[0].score)
    ranked = [
        hypotheses[rank] for rank in range(max(map(len, found))) for hypotheses in found if rank < len(hypotheses)
    ]
    if not settings.sampling:  # two groups may find the same; two samples may be the same
        distinct: dict[tuple[tuple[int, ...], str], Hypothesis] = {}
        for one in ranked:
            distinct.setdefault((tuple(one.tokens), one.finish_reason), one)
        ranked = list(distinct.values())
        if settings.beam == "narrowing":  # a cut hypothesis competes only where no group finished one
            ranked = [one for one in ranked if one.finish_reason == "eos"] or ranked
    return sorted(ranked[: settings.n_best], key=lambda one: -one.score)
