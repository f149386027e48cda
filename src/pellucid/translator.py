"""A trained model, loaded once: generate, score, inspect. The public face of pellucid in Python.

Joins what the lower floors keep apart: text ↔ tokens ↔ tensors. Prints nothing.
Shapes: L decoder layers, H query heads, S source tokens, T target tokens (both with </s>).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from pellucid.config import DecodingConfig
from pellucid.data.batches import Batch, collate
from pellucid.data.text import TextRules
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.decoding.model_step import CachedStep
from pellucid.decoding.penalties import length_penalty
from pellucid.decoding.scoring import forced_logprobs
from pellucid.decoding.search import Search, Sentence
from pellucid.decoding.step import StepFunction
from pellucid.errors import DataError, PellucidError
from pellucid.model.transformer import EncoderDecoder
from pellucid.results import GeneratedText, Generation, Inspection, Score
from pellucid.text_generator import TextGenerator
from pellucid.trace import AttentionEvent, Observer

if TYPE_CHECKING:
    from pellucid.tracer.tracer import Tracer
    from pellucid.tracing.trace import Trace

__all__ = ["GeneratedText", "Generation", "Inspection", "Score", "Translator"]

TOKENIZER_FOLDER = "tokenizer"


class Translator(TextGenerator):
    """A model with its tokenizers.

    Args:
        model: in evaluation mode, on its device.
        source_tokenizer, target_tokenizer: may be the same object.
        decoding: settings used where a call gives none.
        folder: where it was loaded from.
        document: the model folder's ``config.json``.
        rules: what is done to text in front of the tokenizers, and undone behind them; default nothing.
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

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.output.weight.device

    @cached_property
    def speakers(self) -> dict[tuple[str | None, str | None], Translator]:
        """The same model for other languages, by their codes, as far as they have been asked for (languages.py)."""
        return {}

    def batch(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> Batch:
        """A batch of token numbers without ``<s>`` and ``</s>``, on the model's device."""
        return collate(sources, targets, tokenizers=(self.source_tokenizer, self.target_tokenizer)).to(self.device)

    def pair_ids(self, source: str, target: str, number: int, config: DecodingConfig) -> tuple[list[int], list[int]]:
        """The tokens of a source and of its given target, without ``</s>``; of a blank source none.

        Args:
            number: of the pair among those of a call, from 1, for errors.
            config: settings.

        Raises:
            LengthError: a side is longer than the model's learned positions or ``max_source_length``.
        """
        return self._encode_source(source, number, config), self._encode_target(target, number, source, config)

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
            self.pair_ids(source, target, number, config)
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

    @property
    def target_vocab_size(self) -> int:
        return self.model.target_vocab_size

    def _start(self, sources: list[list[int]], sentences: Sequence[Sentence] = ()) -> StepFunction:
        batch = self.batch(sources, sources)
        return CachedStep(self.model, batch.source, batch.source_mask)

    def _copy_unknown(self, generations: list[Generation]) -> list[Generation]:
        from pellucid.copying import copy_unknown  # it reads alignments off this class

        return copy_unknown(self, generations)

    def _check_positions(self, length: int, side: str) -> None:
        stack = self.model.encoder if side == "source" else self.model.decoder
        stack.embedder.positions.check(length)

    def _longest_output(self, ids: list[int]) -> int | None:
        return self.model.decoder.embedder.positions.max_length

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
