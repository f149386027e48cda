"""Which tokens may come next, and at what price: what the user forbids, demands or discourages.

Knows token numbers and prefixes; knows nothing of scores, beams or text.
Shapes: R rows, t tokens generated so far, P = t + 1 with the start token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.config import DecodingConfig
from pellucid.decoding.step import Ints, NextTokens
from pellucid.errors import ConfigError

__all__ = ["Constraints", "Sentence", "TokenRules", "repeated"]


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Rules about tokens of a vocabulary, the same for every sentence.

    Attributes:
        bos_id: the first token fed.
        eos_id: the token that finishes a hypothesis.
        forbidden: tokens that are never generated (padding and ``<s>`` belong here).
        allowed: the only tokens that may be generated, besides ``eos_id``; None: all.
        forbidden_sequences: sequences of two or more tokens that are never completed.
    """

    bos_id: int
    eos_id: int
    forbidden: tuple[int, ...] = ()
    allowed: tuple[int, ...] | None = None
    forbidden_sequences: tuple[tuple[int, ...], ...] = ()

    def permits(self, token: int) -> bool:
        """Whether the token may be generated at all."""
        return token not in self.forbidden and (self.allowed is None or token in self.allowed or token == self.eos_id)


@dataclass(frozen=True, slots=True)
class Sentence:
    """What is asked of one sentence.

    Attributes:
        limit: the most tokens to generate, ``</s>`` included.
        index: its place in the whole input, from 0: names it in errors, and picks its random numbers.
        prefix: tokens that its hypotheses must begin with.
    """

    limit: int
    index: int = 0
    prefix: tuple[int, ...] = ()


class Constraints:
    """The rules and the settings ``min_length``, ``no_repeat_ngram`` and ``repetition_penalty``, put on each step.

    Args:
        rules: about tokens.
        settings: the three settings above are used.
        sentences: of the batch; a prefix is forced even where a rule or setting is against it, except by a forbidden
            token.

    Raises:
        ConfigError: a prefix holds a forbidden token.
    """

    def __init__(self, rules: TokenRules, settings: DecodingConfig, sentences: Sequence[Sentence]) -> None:
        self._rules, self._settings = rules, settings
        self._forced = [sentence.prefix for sentence in sentences]
        self._limits = np.array([sentence.limit for sentence in sentences], np.int64)
        self._longest_forced = max(map(len, self._forced), default=0)
        self._always: Ints | None = None
        self._eos = np.array([rules.eos_id])
        for sentence in sentences:
            if against := [token for token in sentence.prefix if not rules.permits(token)]:
                raise ConfigError(
                    f"the forced prefix holds token {against[0]}, which is forbidden: "
                    "change the prefix or the forbidden and allowed tokens",
                    number=sentence.index + 1,
                )

    @property
    def read_prefixes(self) -> bool:
        """Whether :meth:`apply` looks at what was generated before."""
        settings = self._settings
        return bool(self._rules.forbidden_sequences or settings.no_repeat_ngram or settings.repetition_penalty != 1.0)

    def apply(self, tokens: NextTokens, prefixes: Ints, sentences: Ints, length: int) -> None:
        """Change what may follow.

        Args:
            tokens: of R rows.
            prefixes: [R, P], what each row has been fed, from the start token on, which counts as a token of the
                output here as it does in transformers; [R, 0] where :attr:`read_prefixes` is False.
            sentences: [R], the sentence of each row, a place among those of the constructor.
            length: t.
        """
        forced_rows, forced = self._forced_now(sentences, length)
        if forced_rows.size:
            tokens.remember()
        if self._always is None:
            self._always = self._forbidden_everywhere(tokens.vocab_size)
        tokens.forbid_everywhere(self._always)
        if length < self._settings.min_length:
            tokens.forbid_everywhere(self._eos)
        if self.read_prefixes:
            self._look_back(tokens, prefixes)
        if self._settings.renormalize:
            tokens.renormalize()
        if forced_rows.size:
            tokens.allow_only(forced_rows, forced, free=self._settings.forced_score == "free")

    def _forced_now(self, sentences: Ints, length: int) -> tuple[Ints, Ints]:
        """Rows that have no choice at this step, and what they must go on with."""
        forced = {
            row: self._forced[sentence][length]
            for row, sentence in enumerate(sentences.tolist() if length < self._longest_forced else ())
            if len(self._forced[sentence]) > length
        }
        if self._settings.force_end:
            last = np.flatnonzero(self._limits[sentences] == length + 1).tolist()
            forced.update(dict.fromkeys(last, self._rules.eos_id))
        return np.array(list(forced), np.int64), np.array(list(forced.values()), np.int64)

    def _look_back(self, tokens: NextTokens, prefixes: Ints) -> None:
        settings = self._settings
        if settings.repetition_penalty != 1.0:
            tokens.scale(*repeated(prefixes, tokens.vocab_size), settings.repetition_penalty)
        if settings.no_repeat_ngram:
            tokens.forbid(*_completing_ngrams(prefixes, settings.no_repeat_ngram))
        for sequence in self._rules.forbidden_sequences:
            before = len(sequence) - 1
            if before <= prefixes.shape[1]:
                rows = np.flatnonzero((prefixes[:, prefixes.shape[1] - before :] == sequence[:-1]).all(1))
                tokens.forbid(rows, np.full(len(rows), sequence[-1]))

    def described(self) -> str:
        """The rules and settings that may leave no token, for a message; empty where there are none."""
        rules, settings = self._rules, self._settings
        active = {
            "forbidden_tokens": bool(settings.forbidden_tokens),
            "allowed_tokens": rules.allowed is not None,
            "forbidden_phrases": bool(rules.forbidden_sequences),
            "min_length": settings.min_length > 0,
            "no_repeat_ngram": settings.no_repeat_ngram > 0,
            "prefix": self._longest_forced > 0,
        }
        return ", ".join(name for name, is_active in active.items() if is_active)

    def _forbidden_everywhere(self, vocab_size: int) -> Ints:
        forbidden = np.zeros(vocab_size, np.bool_)
        if self._rules.allowed is not None:
            forbidden[:] = True
            forbidden[[*self._rules.allowed, self._rules.eos_id]] = False
        forbidden[list(self._rules.forbidden)] = True
        return np.flatnonzero(forbidden)


def repeated(prefixes: Ints, vocab_size: int) -> tuple[Ints, Ints]:
    """The distinct (row, token) pairs of ``prefixes`` [R, P]: what a repetition penalty is put on."""
    pairs = np.unique(np.arange(len(prefixes))[:, None] * vocab_size + prefixes)
    rows, tokens = np.divmod(pairs, vocab_size)
    return rows, tokens


def _completing_ngrams(prefixes: Ints, size: int) -> tuple[Ints, Ints]:
    """(row, token) pairs with which a row would repeat one of its own n-grams."""
    length = prefixes.shape[1]
    if length < size:
        none = np.zeros(0, np.int64)
        return none, none
    grams = np.lib.stride_tricks.sliding_window_view(prefixes, size, axis=1)  # [R, P - size + 1, size]
    rows, starts = np.nonzero((grams[:, :, :-1] == prefixes[:, None, length - size + 1 :]).all(2))
    return rows, grams[rows, starts, -1]
