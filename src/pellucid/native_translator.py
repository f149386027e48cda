"""A trained model run by the native engine: the same texts as the PyTorch model's, sooner. Imports no PyTorch.

What asks for the model's inside (scores of given targets, traces, alignments) is answered by the PyTorch model, which
is loaded when it is first asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pellucid.config import DecodingConfig
from pellucid.data.text import TextRules
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.decoding.hypothesis import Hypothesis
from pellucid.decoding.rules import Constraints, TokenRules
from pellucid.decoding.search import Sentence, check_limit
from pellucid.errors import LengthError
from pellucid.native.engine import NativeModel, searches_natively
from pellucid.native.step import NativeStep
from pellucid.results import Generation
from pellucid.text_generator import TextGenerator

__all__ = ["NativeTranslator"]


class NativeTranslator(TextGenerator):
    """A model in the native engine with its tokenizers.

    Args:
        engine: the packed model.
        source_tokenizer, target_tokenizer, decoding, folder, document, rules: as in ``Translator``.
        reference: loads the PyTorch model of the same folder.
        workers: threads that search; each has ``batch_size`` sentences at a time.

    Attributes:
        packing: seconds that it took to lay out weights through PyTorch, and whether they are kept; None: it was not
            done, or without PyTorch.
    """

    packing: tuple[float, bool] | None = None

    def __init__(
        self,
        engine: NativeModel,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        decoding: DecodingConfig,
        folder: Path | None = None,
        document: dict[str, Any] | None = None,
        rules: TextRules | None = None,
        *,
        reference: Callable[[], Any],
        workers: int = 1,
    ) -> None:
        self.engine, self.workers = engine, workers
        self._load_reference = reference
        self._reference: Any = None
        self._set_up(source_tokenizer, target_tokenizer, decoding, folder, document, rules)

    def with_tag(self, tag: str) -> NativeTranslator:
        """As :meth:`TextGenerator.with_tag`; the PyTorch model that it asks for has the tag, too."""
        twin = super().with_tag(tag)
        if twin is not self:
            twin._reference, twin._load_reference = None, lambda: self.reference.with_tag(tag)
        return twin

    @property
    def reference(self) -> Any:
        """The PyTorch model, a ``Translator``."""
        if self._reference is None:
            self._reference = self._load_reference()
        return self._reference

    def __getattr__(self, name: str) -> Any:
        # What only the PyTorch model has: model, device, batch, score, inspect, trace, tracer, open_search.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.reference, name)

    def fingerprint(self) -> str:
        """SHA-256 of what decides about outputs: packed weights, tokenizers, what is done to text around them."""
        digest = hashlib.sha256(self.engine.content())
        for tokenizer in (self.source_tokenizer, self.target_tokenizer):
            digest.update(tokenizer.fingerprint.encode())
        digest.update(json.dumps(self.rules.to_json(), sort_keys=True).encode())
        return digest.hexdigest()

    @property
    def target_vocab_size(self) -> int:
        size: int = self.engine.target_vocab_size
        return size

    def generate(
        self,
        sources: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        first_index: int = 0,
        source_language: str | Sequence[str] | None = None,
        target_language: str | Sequence[str] | None = None,
        **settings: Any,
    ) -> list[Generation]:
        """As :meth:`TextGenerator.generate`; texts in languages named here are written by the PyTorch model."""
        if source_language is None and target_language is None:
            return super().generate(sources, prefixes=prefixes, first_index=first_index, **settings)
        found: list[Generation] = self.reference.generate(
            sources,
            prefixes=prefixes,
            first_index=first_index,
            source_language=source_language,
            target_language=target_language,
            **settings,
        )
        return found

    def _start(self, sources: list[list[int]], sentences: Sequence[Sentence]) -> NativeStep:
        return self.engine.start(self.ended(sources), max(sentence.limit for sentence in sentences))

    def ended(self, sources: Sequence[Sequence[int]]) -> list[list[int]]:
        """Encoded sources with what the model sees behind them: the end token; nothing where that is padding."""
        tokenizer = self.source_tokenizer
        last = [] if tokenizer.eos_id == tokenizer.pad_id else [tokenizer.eos_id]
        return [[*ids, *last] for ids in sources]

    def _search(
        self, sources: list[list[int]], sentences: Sequence[Sentence], config: DecodingConfig, rules: TokenRules
    ) -> list[list[Hypothesis]]:
        if not searches_natively(config, rules):
            return super()._search(sources, sentences, config, rules)
        Constraints(rules, config, sentences)  # refuses prefixes that are forbidden
        for sentence in sentences:
            check_limit(sentence)
        found = self.engine.search(self.ended(sources), sentences, config, rules, self.stats, self.workers)
        for ids, sentence, hypotheses in zip(sources, sentences, found, strict=True):
            if not hypotheses:  # the slower search says why
                super()._search([ids], [sentence], config, rules)
        return found

    def _batches(
        self,
        order: Sequence[int],
        encoded: Sequence[list[int]],
        sentences: Mapping[int, Sentence],
        config: DecodingConfig,
    ) -> Iterator[list[int]]:
        if not searches_natively(config, self._token_settings.rules(config)):
            yield from super()._batches(order, encoded, sentences, config)
        elif order:
            yield list(order)  # the engine takes sentences as others end

    def _copy_unknown(self, generations: list[Generation]) -> list[Generation]:
        copied: list[Generation] = self.reference._copy_unknown(generations)
        return copied

    def _check_positions(self, length: int, side: str) -> None:
        if self.engine.max_length is not None and length > self.engine.max_length:
            raise LengthError.beyond_positions(length, self.engine.max_length)

    def _longest_output(self, ids: list[int]) -> int | None:
        return self.engine.max_length
