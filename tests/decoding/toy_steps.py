"""Step functions that hold the actual prefixes, and slow searches written from the definitions, to compare with.

A toy's next-token log-probabilities are a function of (sentence, prefix): after one wrong ``reorder`` or ``select``
every number is another. The searches here are plain Python over that function and share no code with the package.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.decoding.next_tokens import ArrayNextTokens
from pellucid.decoding.step import Ints

PAD, BOS, EOS = 0, 2, 3
SUPPRESSED = (PAD, BOS)

Logprobs = Callable[[int, tuple[int, ...]], np.ndarray]
"""(sentence, prefix without <s>) → float32 log-probabilities [V]."""


@dataclass(frozen=True)
class Toy:
    """A random model: how many tokens, how peaked, how often a token is impossible, how much ``</s>`` is favoured.

    With ``exact`` the numbers are small multiples of 1/4, so sums in float32 are exact and ties are frequent.
    """

    seed: int = 0
    vocab_size: int = 6
    sharpness: float = 1.0
    impossible: float = 0.0
    eos_bias: float = 0.0
    exact: bool = False

    @functools.lru_cache(maxsize=100_000)  # noqa: B019 - toys live as long as a test
    def __call__(self, sentence: int, prefix: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng(zlib.crc32(repr((self.seed, sentence, prefix)).encode()))
        logits = rng.normal(size=self.vocab_size) * self.sharpness
        logits[EOS] += self.eos_bias
        impossible = rng.random(self.vocab_size) < self.impossible
        logits[impossible] = -np.inf
        if impossible.all():
            logits[EOS] = 0.0
        if self.exact:
            return np.minimum(np.round(logits - 1), 0).astype(np.float32) / 4
        return (logits - np.logaddexp.reduce(logits)).astype(np.float32)


class ToyStep:
    """A step function over ``Toy`` (or any such function) that checks how it is called.

    Attributes:
        calls: "step", "reorder" and "select", in order.
        widths: rows per sentence of every step.
    """

    def __init__(self, logprobs: Logprobs, sentences: Sequence[int], vocab_size: int) -> None:
        self.logprobs, self.vocab_size = logprobs, vocab_size
        self.rows: list[tuple[int, tuple[int, ...]]] = [(sentence, ()) for sentence in sentences]
        self.sentences = len(sentences)
        self.calls: list[str] = []
        self.widths: list[int] = []

    def __call__(self, tokens: Ints) -> ArrayNextTokens:
        assert tokens.dtype == np.int64 and tokens.shape == (len(self.rows),)
        if "step" in self.calls:
            assert EOS not in tokens  # not even in unused rows
            self.rows = [(s, (*prefix, int(t))) for (s, prefix), t in zip(self.rows, tokens, strict=True)]
        else:
            assert (tokens == BOS).all()
        self.calls.append("step")
        self.widths.append(len(self.rows) // self.sentences)
        return ArrayNextTokens(np.stack([self.logprobs(*row) for row in self.rows]))

    def reorder(self, parents: Ints) -> None:
        assert parents.dtype == np.int64 and parents.tolist() != list(range(len(self.rows)))
        assert len(parents) % self.sentences == 0
        old, new = len(self.rows) // self.sentences, len(parents) // self.sentences
        assert [parent // old for parent in parents.tolist()] == [row // new for row in range(len(parents))]
        self.rows = [self.rows[parent] for parent in parents.tolist()]
        self.calls.append("reorder")

    def select(self, sentences: Ints) -> None:
        chosen = sentences.tolist()
        assert sentences.dtype == np.int64 and chosen == sorted(set(chosen)) and 0 < len(chosen) < self.sentences
        assert self.calls[-1:] in ([], ["step"])
        width = len(self.rows) // self.sentences
        self.rows = [self.rows[sentence * width + beam] for sentence in chosen for beam in range(width)]
        self.sentences = len(chosen)
        self.calls.append("select")


Found = tuple[float, tuple[int, ...], str]
"""Score, tokens without </s>, finish reason."""


def penalised(total: float, length: int, name: str, alpha: float) -> float:
    return total / {"average": length, "power": length**alpha, "gnmt": ((5 + length) / 6) ** alpha, "none": 1}[name]


def exhaustive(logprobs: Logprobs, sentence: int, limit: int, name: str, alpha: float) -> list[Found]:
    """Every sequence within the limit, best first; the cut ones only where nothing ends."""

    def walk(prefix: tuple[int, ...], total: float) -> Iterator[Found]:
        for token, logprob in enumerate(logprobs(sentence, prefix)):
            if token in SUPPRESSED or logprob == -np.inf:
                continue
            length, sum_logprob = len(prefix) + 1, total + float(logprob)
            if token == EOS:
                yield penalised(sum_logprob, length, name, alpha), prefix, "eos"
            elif length == limit:
                yield penalised(sum_logprob, length, name, alpha), (*prefix, token), "length"
            else:
                yield from walk((*prefix, token), sum_logprob)

    found = list(walk((), 0.0))
    ended = [one for one in found if one[2] == "eos"]
    return sorted(ended or found, key=lambda one: -one[0])


def beam_to_the_limit(
    logprobs: Logprobs, sentence: int, limit: int, beam_size: int, name: str, alpha: float
) -> list[Found]:
    """Beam search of one sentence that never stops before the limit; ties by lower row, then lower token."""
    live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    finished: list[Found] = []
    for length in range(1, limit + 1):
        choices = [
            (total + float(logprob), row, token)
            for row, (total, prefix) in enumerate(live)
            for token, logprob in enumerate(logprobs(sentence, prefix))
            if token not in SUPPRESSED and logprob > -np.inf
        ]
        choices = sorted(choices, key=lambda choice: (-choice[0], choice[1], choice[2]))[:beam_size]
        for total, row, token in choices:
            if token == EOS:
                finished.append((penalised(total, length, name, alpha), live[row][1], "eos"))
        live = [(total, (*live[row][1], token)) for total, row, token in choices if token != EOS]
    cut = [(penalised(total, limit, name, alpha), prefix, "length") for total, prefix in live]
    return sorted(finished or cut, key=lambda one: -one[0])


def greedy(logprobs: Logprobs, sentence: int, limit: int) -> tuple[list[int], list[float], str]:
    """The most probable token at every step, until ``</s>`` or the limit."""
    tokens: list[int] = []
    scores: list[float] = []
    while len(tokens) < limit:
        values = logprobs(sentence, tuple(tokens)).copy()
        values[list(SUPPRESSED)] = -math.inf
        token = int(values.argmax())
        scores.append(float(values[token]))
        if token == EOS:
            return tokens, scores, "eos"
        tokens.append(token)
    return tokens, scores, "length"
