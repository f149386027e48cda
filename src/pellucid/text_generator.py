"""Texts in, texts out: what is done around a search, whatever computes its steps. The base of all that generates.

Joins text and tokens; knows nothing of models or tensors, nor PyTorch. What a model is asked for is in the methods that
raise NotImplementedError here.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from pellucid.config import DecodingConfig
from pellucid.data.tagging import resolve_tag, tagged, without_tags
from pellucid.data.text import TextRules, Written
from pellucid.data.tokenizer_kinds import Tokenizer, framed
from pellucid.data.unknown import UnknownPolicy, write_tokens
from pellucid.decoding.hypothesis import FinishReason, Hypothesis
from pellucid.decoding.rules import TokenRules
from pellucid.decoding.search import Search, SearchStats, Sentence, search
from pellucid.decoding.step import StepFunction
from pellucid.decoding.token_settings import TokenSettings
from pellucid.errors import ConfigError, DataError, GenerationError, LengthError, PellucidError
from pellucid.results import GeneratedText, Generation
from pellucid.settings import explain

__all__ = ["Prepared", "TextGenerator"]

Same = TypeVar("Same", bound="TextGenerator")

# What a batch may take, whatever batch_size says: rows times positions of source and limit (in the base model of 2017 a
# position of the cache takes 24 KiB, so 1.6 GB at the very most), and rows times vocabulary (128 MiB of log p).
MOST_POSITIONS = 1 << 16
MOST_LOGPROBS = 1 << 25


@dataclass(frozen=True, slots=True)
class Prepared:
    """Texts that are encoded and found to be in order, and what is to be done with them: nothing has been computed.

    Attributes:
        sources, encoded: texts and their tokens; none for a blank one.
        sentences: what search is told about each that is not blank, by its place in ``sources``.
        config, rules: of all.
        first_index: place in a larger input of the first text of the call, of which these may be a part.
    """

    sources: list[str]
    encoded: list[list[int]]
    sentences: dict[int, Sentence]
    config: DecodingConfig
    rules: TokenRules
    first_index: int


class TextGenerator:
    """Tokenizers and settings around something that computes steps.

    Attributes:
        source_tokenizer, target_tokenizer: may be the same object; the first puts the tag of ``decoding`` in front.
        decoding: settings used where a call gives none.
        folder: where it was loaded from.
        document: the model folder's ``config.json``.
        rules: what is done to text in front of the tokenizers, and undone behind them.
        placeholder_faults: how many placeholders all hypotheses of :meth:`generate` have left out (``missing``),
            written again (``repeated``) or made up (``unmatched``); see ``data/text.py``.
        stats: what the searches of all calls of :meth:`generate` have cost, summed.
    """

    def _set_up(
        self,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        decoding: DecodingConfig,
        folder: Path | None,
        document: dict[str, Any] | None,
        rules: TextRules | None,
    ) -> None:
        self.rules = rules or TextRules()
        self.target_tokenizer = without_tags(target_tokenizer, source_tokenizer, self.rules.tags)
        self._untagged = self.target_tokenizer if source_tokenizer is target_tokenizer else source_tokenizer
        self.source_tokenizer = tagged(self._untagged, resolve_tag(decoding.tag, self.rules.tags))
        self.decoding = decoding
        self.folder = folder
        self.document = document or {}
        self.placeholder_faults: Counter[str] = Counter()
        self.stats = SearchStats()
        self._token_settings = TokenSettings(self.target_tokenizer, self.rules)

    def need_source(self, purpose: str) -> None:
        """Refuse what looks at a source with a model that has none; this one has.

        Raises:
            ConfigError: the model is a decoder alone.
        """

    def settings(self, **overrides: Any) -> DecodingConfig:
        """The model's decoding settings with some replaced.

        Raises:
            ConfigError: unknown, out of range, or contradictory; a tag that the model does not know.
        """
        try:
            config = self.decoding.replaced(overrides)
        except ValidationError as error:
            raise ConfigError(explain(error, DecodingConfig)) from None
        resolve_tag(config.tag, self.rules.tags)
        return config

    def with_tag(self: Same, tag: str) -> Same:
        """The same model with another tag in front of every source, whatever is done with it; empty: none.

        Raises:
            ConfigError: the model does not know it; the message names its tags.
        """
        if tag == (self.decoding.tag or ""):
            return self
        twin = copy.copy(self)
        for made in ("tracer", "speakers"):  # for this one's tokenizer
            twin.__dict__.pop(made, None)
        twin.decoding = self.settings(tag=tag)
        twin.source_tokenizer = tagged(self._untagged, resolve_tag(tag, self.rules.tags))
        return twin

    @property
    def source_tokenizer_alone(self) -> Tokenizer:
        """The tokenizer of the source side without a tag."""
        return self._untagged

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
        """Generate a target for each source text, in order.

        Args:
            sources: texts; what comes out for one does not depend on the others.
            prefixes: for each source a text that its output begins with; default: the setting ``prefix``.
            first_index: place of the first source in a larger input, from 0; samples depend on it.
            source_language, target_language: codes, one for all texts or one for each, for a checkpoint that knows many
                languages; default: those of the checkpoint.
            **settings: any of :class:`~pellucid.config.DecodingConfig`, e.g. ``beam_size=5, n_best=3``.

        Raises:
            ConfigError: a setting is unknown or out of range, a prefix does not fit into its limit or is forbidden.
            DataError: not as many prefixes as sources.
            GenerationError: the settings leave a text no token to go on with.
            LengthError: a source is longer than the model's learned positions; nothing has been computed then.
        """
        if isinstance(sources, str):
            raise ConfigError("generate takes a list of texts: write generate([text])")
        if source_language is not None or target_language is not None:
            from pellucid.languages import generate_in_languages  # it loads tokenizers, and calls this again

            languages = source_language, target_language
            return generate_in_languages(self, sources, languages, prefixes, first_index, settings)
        return self.generate_prepared(self.prepare(sources, prefixes, range(len(sources)), first_index, settings))

    def prepare(
        self,
        sources: Sequence[str],
        prefixes: Sequence[str] | None,
        places: Sequence[int],
        first_index: int,
        settings: Mapping[str, Any],
    ) -> Prepared:
        """All of :meth:`generate` that comes before anything is computed, for some of the texts of a call.

        Args:
            sources: all texts of the call.
            prefixes: one for each of them, or None.
            places: those that are meant; their numbers in errors and their samples are those of their places.
            first_index, settings: as there.

        Raises:
            as there, but for GenerationError.
        """
        config = self.settings(**settings)
        rules = self._token_settings.rules(config)
        self._token_settings.check(config)
        if prefixes is not None and len(prefixes) != len(sources):
            raise DataError(f"{len(sources)} sources and {len(prefixes)} prefixes: give one for each, or none")
        encoded = [self._encode_source(sources[place], place + 1, config) for place in places]
        sentences = {
            row: self._sentence(
                ids, first_index + place, place + 1, None if prefixes is None else prefixes[place], config
            )
            for row, (place, ids) in enumerate(zip(places, encoded, strict=True))
            if ids
        }
        return Prepared([sources[place] for place in places], encoded, sentences, config, rules, first_index)

    def generate_prepared(self, texts: Prepared) -> list[Generation]:
        """The rest of :meth:`generate`.

        Raises:
            ConfigError, GenerationError: as there; the number is the text's place in the call.
        """
        encoded, sentences, config = texts.encoded, texts.sentences, texts.config
        results: list[list[GeneratedText]] = [[] for _ in encoded]
        # Similar lengths together: little padding. Blank sources have no tokens and stay without hypotheses.
        order = sorted(sentences, key=lambda i: len(encoded[i]), reverse=True)
        for chosen in self._batches(order, encoded, sentences, config):
            try:
                found = self._search([encoded[i] for i in chosen], [sentences[i] for i in chosen], config, texts.rules)
            except (ConfigError, GenerationError) as error:  # in search, texts are counted from the input's first
                if error.number is None:
                    raise
                raise type(error)(error.reason, number=error.number - texts.first_index) from None
            for index, hypotheses in zip(chosen, found, strict=True):
                results[index] = [self._text_of(hypothesis, texts.sources[index], config) for hypothesis in hypotheses]
        generations = [Generation(source, found) for source, found in zip(texts.sources, results, strict=True)]
        if config.unknown != "copy":
            return generations
        return self.with_tag(config.tag or "")._copy_unknown(generations)

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
        searching = Search(
            self._start([ids], [sentence]), [sentence], config, self._token_settings.rules(config), self.stats
        )
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

    def text_of(self, ids: Sequence[int], source: str, config: DecodingConfig) -> str:
        """The text of generated tokens, ``</s>`` included or not, as :meth:`generate` gives it for that source."""
        kept = [token for token in ids if token != self.target_tokenizer.eos_id]
        text = self._written(kept, source, config).text
        if config.unknown != "copy" or self.target_tokenizer.unk_id not in kept:
            return text
        reason: FinishReason = "eos" if len(kept) < len(ids) else "length"
        one = GeneratedText(text, self.target_tokenizer.pieces(ids), list(ids), [], 0.0, reason)
        return self.with_tag(config.tag or "")._copy_unknown([Generation(source, [one])])[0].text

    @property
    def reference(self) -> Any:
        """The model in PyTorch, which can be looked into."""
        return self

    @property
    def target_vocab_size(self) -> int:
        """V of the target side."""
        raise NotImplementedError

    def _start(self, sources: list[list[int]], sentences: Sequence[Sentence]) -> StepFunction:
        """The step function of a batch of encoded sources, for at most the limits of the sentences."""
        raise NotImplementedError

    def _copy_unknown(self, generations: list[Generation]) -> list[Generation]:
        """With each ``<unk>`` replaced by the source token that it is aligned to."""
        raise NotImplementedError

    def _check_positions(self, length: int, side: str) -> None:
        """Refuse a sequence that is longer than the positions of that side, source or target.

        Raises:
            LengthError: it is.
        """
        raise NotImplementedError

    def _longest_output(self, ids: list[int]) -> int | None:
        """Most tokens that the positions leave room for; None: no limit."""
        raise NotImplementedError

    def _search(
        self, sources: list[list[int]], sentences: Sequence[Sentence], config: DecodingConfig, rules: TokenRules
    ) -> list[list[Hypothesis]]:
        """The hypotheses of a batch of encoded sources."""
        return search(self._start(sources, sentences), sentences, config, rules, self.stats)

    def _check_length(self, length: int, number: int, side: str, config: DecodingConfig | None) -> None:
        try:
            self._check_positions(length, side)
        except LengthError as error:
            raise LengthError(error.reason, number=number, side=side) from None
        if config is not None and length > config.max_source_length:
            raise LengthError(
                f"a sequence of {length} tokens is longer than max_source_length ({config.max_source_length}): "
                "shorten or split it, or raise max_source_length",
                number=number,
                side=side,
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
        tokenizer = self.source_tokenizer
        if config is not None and config.tag != self.decoding.tag:
            tokenizer = tagged(self._untagged, resolve_tag(config.tag, self.rules.tags))
        ids = framed(tokenizer, tokenizer.encode(self.rules.read_source(text)))
        self._check_length(len(ids) + 1, number, "source", config)
        return ids

    def _encode_target(self, text: str, number: int, source: str, config: DecodingConfig | None = None) -> list[int]:
        ids = framed(self.target_tokenizer, self.target_tokenizer.encode(self.rules.read_target(text, source)))
        self._check_length(len(ids) + 1, number, "target", config)
        return ids

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

    def _batches(
        self,
        order: Sequence[int],
        encoded: Sequence[list[int]],
        sentences: Mapping[int, Sentence],
        config: DecodingConfig,
    ) -> Iterator[list[int]]:
        """``order`` in parts of ``batch_size`` texts; fewer where they are long, or beams or vocabulary wide."""
        rows = config.n_best if config.sampling else config.beam_size
        most = max(1, min(config.batch_size, MOST_LOGPROBS // (rows * self.target_vocab_size)))
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
