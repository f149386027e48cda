"""The native engine as a way of generating that the contract is put to.

In float32 its steps are compared with the PyTorch model's teacher-forced pass, which knows nothing of the engine; in
int8, which rounds, with its own steps in another batch. It cannot be looked into.
Shapes: T target tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from pellucid.config import DecodingConfig
from pellucid.contract.model_way import ModelWay
from pellucid.contract.ways import Logits, Output
from pellucid.native_translator import NativeTranslator

__all__ = ["NativeWay"]


class NativeWay:
    """A native translator as a :class:`~pellucid.contract.ways.Way`.

    Args:
        translator: what is checked.
        own: the settings taken for the model's own; default: those it has.
    """

    def __init__(self, translator: NativeTranslator, own: DecodingConfig | None = None) -> None:
        self.name = f"native engine, {translator.engine.precision}"
        self._translator = translator
        self._reference = ModelWay(translator.reference, own=translator.decoding if own is None else own)
        self.bos_id, self.eos_id = self._reference.bos_id, self._reference.eos_id
        self.suppressed, self.own = self._reference.suppressed, self._reference.own

    def generate(self, sources: Sequence[str], **settings: Any) -> list[list[Output]]:
        generations = self._translator.generate(list(sources), **settings)
        return [
            [Output(tuple(h.token_ids), tuple(h.token_logprobs), h.score, h.finish_reason) for h in each.hypotheses]
            for each in generations
        ]

    def prefix(self, settings: Mapping[str, Any]) -> tuple[int, ...]:
        return self._reference.prefix(settings)

    def parallel(self, sources: Sequence[str], targets: Sequence[Sequence[int]], last: bool = False) -> list[Logits]:
        if self._translator.engine.precision == "float32":
            return [_normalised(logits) for logits in self._reference.parallel(sources, targets, last)]
        found = self._steps(sources, targets)
        return [logits[-1:] for logits in found] if last else found

    def serial(self, sources: Sequence[str], targets: Sequence[Sequence[int]]) -> list[Logits]:
        return [self._steps([source], [target])[0] for source, target in zip(sources, targets, strict=True)]

    def _steps(self, sources: Sequence[str], targets: Sequence[Sequence[int]]) -> list[Logits]:
        """log p of every next token, all pairs beside each other; sentences that are done leave."""
        config = self._translator.settings()
        encoded = self._translator.ended([self._translator.source_ids(text, config) for text in sources])
        step = self._translator.engine.start(encoded, max(map(len, targets)))
        rows: list[list[Any]] = [[] for _ in targets]
        alive = list(range(len(targets)))
        for place in range(max(map(len, targets))):
            kept = np.array([number for number, one in enumerate(alive) if len(targets[one]) > place])
            if len(kept) < len(alive):
                step.select(kept)
                alive = [alive[number] for number in kept.tolist()]
            fed = np.array([targets[one][place - 1] if place else self.bos_id for one in alive])
            for one, row in zip(alive, np.array(step(fed).read()), strict=True):
                rows[one].append(row)
        return [np.stack(row) for row in rows]

    @contextmanager
    def restricted(self, tokens: Sequence[int]) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self._translator.engine.restricted(tokens))
            stack.enter_context(self._reference.restricted(tokens))
            yield

    @contextmanager
    def threads(self, count: int) -> Iterator[None]:
        before, self._translator.workers = self._translator.workers, count
        try:
            yield
        finally:
            self._translator.workers = before


def _normalised(logits: Logits) -> Logits:
    largest = logits.max(-1, keepdims=True)
    sums: Logits = np.log(np.exp(logits - largest).sum(-1, keepdims=True, dtype=np.float64)).astype(np.float32)
    normalised: Logits = logits - largest - sums
    return normalised
