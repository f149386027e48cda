"""A trained model, loaded once: generate, score, inspect. The public face of pellucid in Python.

Joins what the lower floors keep apart: text ↔ tokens ↔ tensors. Prints nothing.
Shapes: L decoder layers, H query heads, S source tokens, T target tokens (both with </s>).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32
from pydantic import ValidationError
from torch import Tensor

from pellucid.config import DecodingConfig
from pellucid.data.batches import Batch, collate
from pellucid.data.text import TextRules, Written
from pellucid.data.tokenizer_kinds import Tokenizer, framed
from pellucid.data.unknown import UnknownPolicy, write_tokens
from pellucid.decoding.hypothesis import Hypothesis
from pellucid.decoding.model_step import CachedStep
from pellucid.decoding.penalties import length_penalty
from pellucid.decoding.scoring import forced_logprobs
from pellucid.decoding.search import Search, SearchStats, Sentence, search
from pellucid.decoding.token_settings import TokenSettings
from pellucid.errors import ConfigError, DataError, GenerationError, LengthError, PellucidError
from pellucid.model.positions import NoPositions
from pellucid.model.transformer import EncoderDecoder
from pellucid.results import GeneratedText, Generation, Inspection, Score
from pellucid.settings import explain
from pellucid.trace import AttentionEvent, Observer

if TYPE_CHECKING:
    from pellucid.tracer.tracer import Tracer
    from pellucid.tracing.trace import Trace

__all__ = ["GeneratedText", "Generation", "Inspection", "Score", "Translator"]

TOKENIZER_FOLDER = "tokenizer"

# What a batch may take, whatever batch_size says: rows times positions of source and limit (in the base model of 2017 a
# position of the cache takes 24 KiB, so 1.6 GB at the very most), and rows times vocabulary (128 MiB of log p).
MOST_POSITIONS = 1 << 16
MOST_LOGPROBS = 1 << 25


class Translator:
    """A model with its tokenizers.

    Args:
        model: in evaluation mode, on its device.
        source_tokenizer, target_tokenizer: may be the same object.
        decoding: settings used where a call gives none.
        folder: where it was loaded from.
        document: the model folder's ``config.json``.
        rules: what is done to text in front of the tokenizers, and undone behind them; default nothing.

    Attributes:
        placeholder_faults: how many placeholders all hypotheses of :meth:`generate` have left out (``missing``),
            written again (``repeated``) or made up (``unmatched``); see ``data/text.py``.
        stats: what the searches of all calls of :meth:`generate` have cost, summed.
    """

    def __init__(
        self,
        model: EncoderDecoder,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        decoding: DecodingConfig,
        folder: Path | None = None,
        document: dict[str, Any] | None = None,
        rules: TextRules | None = None,
    ) -> None:
        self.model = model
        self._set_up(source_tokenizer, target_tokenizer, decoding, folder, document, rules)

    def _set_up(
        self,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        decoding: DecodingConfig,
        folder: Path | None,
        document: dict[str, Any] | None,
        rules: TextRules | None,
    ) -> None:
        self.source_tokenizer, self.target_tokenizer = source_tokenizer, target_tokenizer
        self.decoding = decoding
        self.folder = folder
        self.document = document or {}
        self.rules = rules or TextRules()
        self.placeholder_faults: Counter[str] = Counter()
        self.stats = SearchStats()
        self._token_settings = TokenSettings(target_tokenizer, self.rules)

    def need_source(self, purpose: str) -> None:
        """Refuse what looks at a source with a model that has none; this one has.

        Raises:
            ConfigError: the model is a decoder alone.
        """

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.output.weight.device

    def batch(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> Batch:
        """A batch of token numbers without ``<s>`` and ``</s>``, on the model's device."""
        return collate(sources, targets, tokenizers=(self.source_tokenizer, self.target_tokenizer)).to(self.device)

    def settings(self, **overrides: Any) -> DecodingConfig:
        """The model's decoding settings with some replaced.

        Raises:
            ConfigError: unknown, out of range, or contradictory.
        """
        try:
            return self.decoding.replaced(overrides)
        except ValidationError as error:
            raise ConfigError(explain(error, DecodingConfig)) from None

    def generate(
        self,
        sources: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        first_index: int = 0,
        **settings: Any,
    ) -> list[Generation]:
        """Generate a target for each source text, in order.

        Args:
            sources: texts; what comes out for one does not depend on the others.
            prefixes: for each source a text that its output begins with; default: the setting ``prefix``.
            first_index: place of the first source in a larger input, from 0; samples depend on it.
            **settings: any of :class:`~pellucid.config.DecodingConfig`, e.g. ``beam_size=5, n_best=3``.

        Raises:
            ConfigError: a setting is unknown or out of range, a prefix does not fit into its limit or is forbidden.
            DataError: not as many prefixes as sources.
            GenerationError: the settings leave a text no token to go on with.
            LengthError: a source is longer than the model's learned positions; nothing has been computed then.
        """
        if isinstance(sources, str):
            raise ConfigError("generate takes a list of texts: write generate([text])")
        config = self.settings(**settings)
        rules = self._token_settings.rules(config)
        self._token_settings.check(config)
        if prefixes is not None and len(prefixes) != len(sources):
            raise DataError(f"{len(sources)} sources and {len(prefixes)} prefixes: give one for each, or none")
        encoded = [self._encode_source(text, number, config) for number, text in enumerate(sources, 1)]
        sentences = {
            place: self._sentence(
                ids, first_index + place, place + 1, None if prefixes is None else prefixes[place], config
            )
            for place, ids in enumerate(encoded)
            if ids
        }
        results: list[list[GeneratedText]] = [[] for _ in sources]
        # Similar lengths together: little padding. Blank sources have no tokens and stay without hypotheses.
        order = sorted((i for i, ids in enumerate(encoded) if ids), key=lambda i: len(encoded[i]), reverse=True)
        for chosen in self._batches(order, encoded, sentences, config):
            step = self._start([encoded[i] for i in chosen])
            try:
                found = search(step, [sentences[i] for i in chosen], config, rules, self.stats)
            except (ConfigError, GenerationError) as error:  # in search, texts are counted from the input's first
                if error.number is None:
                    raise
                raise type(error)(error.reason, number=error.number - first_index) from None
            for index, hypotheses in zip(chosen, found, strict=True):
                results[index] = [self._text_of(hypothesis, sources[index], config) for hypothesis in hypotheses]
        generations = [Generation(source, hypotheses) for source, hypotheses in zip(sources, results, strict=True)]
        if config.unknown != "copy":
            return generations
        from pellucid.copying import copy_unknown  # it reads alignments off this class

        return copy_unknown(self, generations)

    def stream(self, source: str, *, prefix: str | None = None, index: int = 0, **settings: Any) -> Iterator[str]:
        """Generate a target for one text and give its parts as soon as they are certain.

        Joined, the parts are the text of :meth:`generate`. Greedy search and samples give every token at once; beam
        search gives what all hypotheses that may still become the best have in common.

        Args:
            source: a text; a blank one gives no parts.
            prefix: a text that the output begins with; default: the setting of that name.
            index: its place in a larger input, from 0; samples depend on it.
            **settings: as for :meth:`generate`.

        Raises:
            ConfigError: as for :meth:`generate`, and ``n_best`` above 1; at once, before the first part.
            GenerationError: the settings leave no token to go on with.
            LengthError: the source is longer than the model's learned positions.
        """
        config = self.settings(**settings)
        if config.n_best != 1:
            raise ConfigError(
                f"n_best ({config.n_best}) must be 1 to stream: only one output can be written as it comes"
            )
        if config.unknown == "copy":
            raise ConfigError("unknown: copy needs the whole output and cannot be streamed: set it to keep or drop")
        ids = self._encode_source(source, 1, config)
        if not ids:
            return iter(())
        sentence = self._sentence(ids, index, 1, prefix, config)
        searching = Search(self._start([ids]), [sentence], config, self._token_settings.rules(config), self.stats)
        return self._parts(searching, source, config)

    def _parts(self, searching: Search, source: str, config: DecodingConfig) -> Iterator[str]:
        given = ""
        while searching.advance():
            # Bytes of a character that is not complete yet are shown as U+FFFD.
            text = self._written(searching.settled(0), source, config).text.rstrip("\ufffd")
            if len(text) > len(given) and text.startswith(given):
                yield text[len(given) :]
                given = text
        rest = self._written(searching.results[0][0].tokens, source, config).text[len(given) :]
        if rest:
            yield rest

    def source_ids(self, text: str, config: DecodingConfig) -> list[int]:
        """The tokens of a source, without ``</s>``; none for a blank one.

        Raises:
            LengthError: it is longer than the model's learned positions or ``max_source_length``.
        """
        return self._encode_source(text, 1, config)

    def check_sources(self, sources: Sequence[str], **settings: Any) -> dict[int, PellucidError]:
        """What :meth:`generate` would refuse before it computes anything: errors by place in ``sources``, from 0.

        Raises:
            ConfigError: as for :meth:`generate`.
        """
        config = self.settings(**settings)
        faults: dict[int, PellucidError] = {}
        for place, text in enumerate(sources):
            try:
                if ids := self._encode_source(text, place + 1, config):
                    self._sentence(ids, place, place + 1, None, config)
            except (ConfigError, DataError, LengthError) as error:
                if isinstance(error, ConfigError) and error.number is None:
                    raise
                faults[place] = error
        return faults

    def open_search(
        self,
        source: str,
        config: DecodingConfig,
        *,
        prefix_ids: Sequence[int] = (),
        padding: int = 0,
    ) -> tuple[Search, CachedStep]:
        """The search of :meth:`generate` for one text, to be advanced step by step, and its step function.

        Args:
            source: a text that is not blank.
            config: settings.
            prefix_ids: tokens that every hypothesis begins with, in the place of the prefix that the settings give.
            padding: padding tokens to put behind the source; they change nothing.

        Raises:
            ConfigError: the prefix does not fit into its limit or is forbidden.
            LengthError: as for :meth:`source_ids`.
        """
        ids = self.source_ids(source, config)
        batch = self.batch([ids], [ids])
        padded = torch.nn.functional.pad(batch.source, (0, padding), value=batch.source_pad)
        sentence = self._sentence(ids, 0, 1, None, config)
        if prefix_ids:
            sentence = replace(sentence, prefix=tuple(prefix_ids))
        step = CachedStep(self.model, padded, padded != batch.source_pad)
        return Search(step, [sentence], config, self._token_settings.rules(config)), step

    @cached_property
    def tracer(self) -> Tracer:
        """What :meth:`trace` is done by; it keeps what all traces of this model share."""
        from pellucid.alignment import load_heads
        from pellucid.tracer.tracer import Tracer

        heads = load_heads(self)
        return Tracer(self, (heads.heads, heads.reading, heads.report) if heads.report else None)

    def trace(self, text: str, **request: Any) -> Trace:
        """Everything that the model does with one text: attention, cache, search, step by step.

        Args:
            text: a source.
            **request: ``beam_size``, ``n_best``, ``length_penalty``, ``length_alpha``, ``max_length``, ``prefix_ids``,
                ``permutation``, ``corrupt``, ``cover``, ``padding``, ``top_k``; docs/trace.md says what they mean.

        Raises:
            ConfigError: one of these is unknown, out of range, or does not fit the text.
            DataError: the text is blank.
            GenerationError: the settings leave no token to go on with.
            LengthError: the text is longer than the model's learned positions.
        """
        return self.tracer.trace({"text": text, **request})

    def score(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        **settings: Any,
    ) -> list[Score]:
        """Score given targets: log p of every token in one teacher-forced pass per batch.

        Gives a generated text the score it was generated with under the same settings, ``renormalize`` excepted.

        Args:
            sources, targets: as many of each.
            prefixes: as for :meth:`generate`; they matter where ``forced_score`` is ``free``.
            **settings: any of :class:`~pellucid.config.DecodingConfig`.

        Raises:
            ConfigError: a setting is unknown or out of range.
            DataError: not as many targets or prefixes as sources.
            LengthError: a text is longer than the model's learned positions or ``max_source_length``, which holds for
                both sides here.
        """
        if len(sources) != len(targets):
            raise DataError(f"{len(sources)} sources and {len(targets)} targets: every source needs its target")
        if prefixes is not None and len(prefixes) != len(sources):
            raise DataError(f"{len(sources)} sources and {len(prefixes)} prefixes: give one for each, or none")
        config = self.settings(**settings)
        pairs = [
            (self._encode_source(source, number, config), self._encode_target(target, number, source, config))
            for number, (source, target) in enumerate(zip(sources, targets, strict=True), 1)
        ]
        results: list[Score | None] = [None] * len(pairs)
        order = sorted(range(len(pairs)), key=lambda i: (len(pairs[i][1]), len(pairs[i][0])))
        for start in range(0, len(order), config.batch_size):
            chosen = order[start : start + config.batch_size]
            for index, logprobs in zip(chosen, self._forced([pairs[i] for i in chosen]), strict=True):
                ids = [*pairs[index][1], self.target_tokenizer.eos_id]
                limit = config.limit(len(pairs[index][0]) + 1)
                prefix = None if prefixes is None else prefixes[index]
                total = sum(self._token_settings.counted(ids, logprobs, config, limit, prefix))
                score = total / length_penalty(config.length_penalty, config.length_alpha, len(ids))
                results[index] = Score(self.target_tokenizer.pieces(ids), logprobs, score)
        scored = [result for result in results if result is not None]
        assert len(scored) == len(pairs)
        return scored

    @torch.inference_mode()
    def inspect(self, source: str, target: str | Sequence[int] | None = None) -> Inspection:
        """Write ``target`` token by token and keep what the model did.

        Args:
            source: a text.
            target: a text, or token numbers to write as they are; by default what greedy search generates.

        The plain attention path runs, which gives the same numbers as the fused one and can be looked into.

        Raises:
            DataError: the source is blank.
        """
        source_ids = self._encode_source(source, 1)
        if not source_ids:
            raise DataError("nothing to inspect: the source is blank")
        if target is None:
            plain = DecodingConfig().model_dump(include={"sampling", "diversity_groups", "diversity_strength"})
            greedy: dict[str, Any] = {**plain, "beam_size": 1, "n_best": 1}
            target_ids = self.generate([source], **greedy)[0].hypotheses[0].token_ids
        elif isinstance(target, str):
            target_ids = [*self._encode_target(target, 1, source), self.target_tokenizer.eos_id]
        else:
            target_ids = list(target)
        batch = self.batch([source_ids], [target_ids])
        recorder = _CrossAttention(self.model.config.decoder_layers)
        step = CachedStep(self.model, batch.source, batch.source_mask, recorder)
        fed = [self.target_tokenizer.bos_id, *target_ids]
        logprobs = [
            step(np.array([before])).take(np.array([[token]]))[0].item()
            for before, token in zip(fed, target_ids, strict=False)
        ]
        return Inspection(
            source_tokens=self.source_tokenizer.pieces([*source_ids, self.source_tokenizer.eos_id]),
            target_tokens=self.target_tokenizer.pieces(target_ids),
            token_logprobs=logprobs,
            cross_attention=recorder.array(),
            cache_used=step.cache.used_bytes(),
            cache_allocated=step.cache.allocated_bytes(),
        )

    def _encode_source(self, text: str, number: int, config: DecodingConfig | None = None) -> list[int]:
        if (example := self.document.get("awaits_language")) is not None:
            again = "convert it again and " if "format" in self.document else ""
            raise ConfigError(
                f"{self.folder}: this model writes many languages: {again}name one with target_language "
                f"(--target-language), e.g. {example}"
            )
        if not text.strip():
            return []
        ids = framed(self.source_tokenizer, self.source_tokenizer.encode(self.rules.read_source(text)))
        _check_length(len(ids) + 1, self.model.encoder.embedder.positions, number, "source", config)
        return ids

    def _encode_target(self, text: str, number: int, source: str, config: DecodingConfig | None = None) -> list[int]:
        ids = framed(self.target_tokenizer, self.target_tokenizer.encode(self.rules.read_target(text, source)))
        _check_length(len(ids) + 1, self.model.decoder.embedder.positions, number, "target", config)
        return ids

    def _start(self, sources: list[list[int]]) -> CachedStep:
        """The step function of a batch of encoded sources."""
        batch = self.batch(sources, sources)
        return CachedStep(self.model, batch.source, batch.source_mask)

    def _sentence(
        self, ids: list[int], index: int, number: int, prefix: str | None, config: DecodingConfig
    ) -> Sentence:
        """What search is told about a text: at place ``index`` of the input, the ``number``-th of this call."""
        limit = config.limit(len(ids) + 1)
        longest = self._longest_output(ids)
        if longest is not None and limit > longest:
            limit = longest
            if config.min_length >= longest:
                raise ConfigError(
                    f"min_length ({config.min_length}) leaves no room for </s> within the {longest} positions that the "
                    "model has learned: lower it"
                )
        forced = self._token_settings.prefix(config, prefix)
        if len(forced) >= limit:
            raise ConfigError(
                f"the forced prefix has {len(forced)} tokens, and only {limit} may be generated, </s> included: "
                "shorten it or raise max_length",
                number=number,
            )
        return Sentence(limit, index, forced)

    def _longest_output(self, ids: list[int]) -> int | None:
        """Most tokens that the positions leave room for; None: no limit."""
        return self.model.decoder.embedder.positions.max_length

    def _batches(
        self,
        order: Sequence[int],
        encoded: Sequence[list[int]],
        sentences: Mapping[int, Sentence],
        config: DecodingConfig,
    ) -> Iterator[list[int]]:
        """``order`` in parts of ``batch_size`` texts; fewer where they are long, or beams or vocabulary wide."""
        rows = config.n_best if config.sampling else config.beam_size
        most = max(1, min(config.batch_size, MOST_LOGPROBS // (rows * self.model.target_vocab_size)))
        batch: list[int] = []
        longest = 0
        for place in order:
            length = len(encoded[place]) + sentences[place].limit
            if batch and (len(batch) == most or (len(batch) + 1) * rows * max(longest, length) > MOST_POSITIONS):
                yield batch
                batch, longest = [], 0
            batch.append(place)
            longest = max(longest, length)
        if batch:
            yield batch

    @torch.inference_mode()
    def _forced(self, pairs: list[tuple[list[int], list[int]]]) -> list[list[float]]:
        batch = self.batch([source for source, _ in pairs], [target for _, target in pairs])
        states = self.model.decode(batch.source, batch.source_mask, batch.target_in)[batch.target_mask]
        logprobs = forced_logprobs(self.model.output, states, batch.target_out[batch.target_mask])
        if logprobs.isnan().any():
            raise PellucidError(
                "the model's log-probabilities contain NaN: its weights are broken; check the checkpoint"
            )
        return [row.tolist() for row in logprobs.split([len(target) + 1 for _, target in pairs])]

    def _written(self, tokens: Sequence[int], source: str, config: DecodingConfig) -> Written:
        policy: UnknownPolicy = "drop" if config.unknown == "drop" else "keep"
        return self.rules.write(write_tokens(self.target_tokenizer, tokens, policy), source)

    def _text_of(self, hypothesis: Hypothesis, source: str, config: DecodingConfig) -> GeneratedText:
        ids = list(hypothesis.tokens)
        if hypothesis.finish_reason == "eos":
            ids.append(self.target_tokenizer.eos_id)
        written = self._written(hypothesis.tokens, source, config)
        self.placeholder_faults.update(written.faults())
        return GeneratedText(
            text=written.text,
            tokens=self.target_tokenizer.pieces(ids),
            token_ids=ids,
            token_logprobs=list(hypothesis.token_logprobs),
            score=hypothesis.score,
            finish_reason=hypothesis.finish_reason,
        )


@dataclass
class _CrossAttention(Observer):
    """Observer that keeps the cross-attention weights of every step."""

    layers: int
    weights: list[Float32[Tensor, "1 H 1 S"]] = field(default_factory=list)

    def attention(self, event: AttentionEvent) -> None:
        if event.use == "cross":
            self.weights.append(event.weights)

    def array(self) -> np.ndarray:
        """[L, H, T, S]."""
        steps = torch.cat(self.weights, dim=2)[0]  # [H, T·L, S], layers inside steps
        array: np.ndarray = steps.unflatten(1, (-1, self.layers)).permute(2, 0, 1, 3).cpu().numpy()
        return array


def _check_length(length: int, positions: NoPositions, number: int, side: str, config: DecodingConfig | None) -> None:
    try:
        positions.check(length)
    except LengthError as error:
        raise LengthError(error.reason, number=number, side=side) from None
    if config is not None and length > config.max_source_length:
        raise LengthError(
            f"a sequence of {length} tokens is longer than max_source_length ({config.max_source_length}): "
            "shorten or split it, or raise max_source_length",
            number=number,
            side=side,
        )
