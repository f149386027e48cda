"""Ways of generating for the tests of the contract: a table without any model, and wrappers that plant a fault."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from pellucid.config import DecodingConfig
from pellucid.contract.reference import beam_search, normalised, penalised
from pellucid.contract.ways import Output, Way

PAD, EOS = 0, 1
MEMBERS = (
    *("name", "bos_id", "eos_id", "suppressed", "own", "prefix"),
    *("generate", "parallel", "serial", "restricted", "threads"),
    *("max_positions", "source_length", "observed", "cache_readings", "operators", "layers_run"),
)


class TableWay:
    """Random logits for every (source, prefix), searched by the slow search: a way of generating without a model.

    Args:
        ties: how much less the last token is wanted than the one before it, always; None: as it comes.
    """

    name = "table"
    bos_id, eos_id, suppressed = PAD, EOS, (PAD,)
    own = DecodingConfig(beam_size=1)

    def __init__(self, vocab_size: int = 7, ties: float | None = None) -> None:
        self.vocab_size, self.ties = vocab_size, ties
        self.allowed: tuple[int, ...] | None = None

    @functools.cache  # noqa: B019
    def _logits(self, source: str, prefix: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng(zlib.crc32(repr((source, prefix)).encode()))
        logits = (2 * rng.normal(size=self.vocab_size)).astype(np.float64)
        logits[EOS] += len(prefix) / 2
        if self.ties is not None:
            logits[-2] = logits[2:-1].max() + 0.1
            logits[-1] = logits[-2] - self.ties
        return logits

    def parallel(self, sources: Sequence[str], targets: Sequence[Sequence[int]], last: bool = False) -> list[Any]:
        found = []
        for source, target in zip(sources, targets, strict=True):
            rows = [self._logits(source, tuple(target[:t])) for t in range(len(target))]
            logits = np.stack(rows[-1:] if last else rows)
            if self.allowed is not None:
                forbidden = np.ones(self.vocab_size, bool)
                forbidden[list(self.allowed)] = False
                logits[:, forbidden] = -np.inf
            found.append(logits)
        return found

    def prefix(self, settings: Mapping[str, Any]) -> tuple[int, ...]:
        return ()

    def serial(self, sources: Sequence[str], targets: Sequence[Sequence[int]]) -> list[Any]:
        return self.parallel(sources, targets)

    def generate(self, sources: Sequence[str], first_index: int = 0, **settings: Any) -> list[list[Output]]:
        limit = settings["max_length"] or 10
        if settings["sampling"]:
            return [self._samples(source, first_index + i, limit, settings) for i, source in enumerate(sources)]
        names = {"beam_size": "beam_size", "n_best": "n_best", "penalty": "length_penalty", "alpha": "length_alpha"}
        chosen = {name: settings[setting] for name, setting in names.items()}
        return [found.outputs for found in beam_search(self, sources, max_length=limit, **chosen)]

    def stopping_early(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        """As :meth:`generate`, but a search ends as soon as something has finished."""
        if settings["sampling"]:
            return self.generate(sources, **settings)
        results = []
        for source in sources:
            for limit in range(1, (settings["max_length"] or 10) + 1):
                (found,) = self.generate([source], **{**settings, "max_length": limit})
                if found[0].finish_reason == "eos":
                    break
            results.append(found)
        return results

    def _samples(self, source: str, index: int, limit: int, settings: dict[str, Any]) -> list[Output]:
        outputs = []
        for number in range(settings["n_best"]):
            rng = np.random.default_rng((settings["seed"], index, number))
            tokens: list[int] = []
            logprobs: list[float] = []
            while len(tokens) < limit and EOS not in tokens:
                (logits,) = self.parallel([source], [[*tokens, EOS]], last=True)
                row = normalised(logits)[0]
                weights = np.exp(row)
                weights[PAD] = 0
                tokens.append(int(rng.choice(self.vocab_size, p=weights / weights.sum())))
                logprobs.append(float(row[tokens[-1]]))
            score = penalised(sum(logprobs), len(tokens), settings["length_penalty"], settings["length_alpha"])
            reason = "eos" if EOS in tokens else "length"
            outputs.append(Output(tuple(tokens), tuple(logprobs), score, reason))
        return sorted(outputs, key=lambda output: -output.score)

    @contextmanager
    def restricted(self, tokens: Sequence[int]) -> Iterator[None]:
        self.allowed = tuple(tokens)
        try:
            yield
        finally:
            self.allowed = None

    @contextmanager
    def threads(self, count: int) -> Iterator[None]:
        yield


class Wrapped:
    """Another way, with everything passed on; what a subclass overrides is its fault."""

    def __init__(self, way: Way) -> None:
        self.way = way
        # Not __getattr__: from Python 3.12 on isinstance looks for a protocol's members without it.
        for name in MEMBERS:
            if hasattr(way, name) and not hasattr(type(self), name):
                setattr(self, name, getattr(way, name))
