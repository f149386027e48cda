"""A trained model, loaded once: generate, score, inspect. The public face of pellucid in Python.

Joins what the lower floors keep apart: text ↔ tokens ↔ tensors. Prints nothing.
Shapes: L decoder layers, H query heads, S source tokens, T target tokens (both with </s>).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from pydantic import ValidationError
from torch import Tensor

from pellucid.config import DecodingConfig
from pellucid.data.batches import collate
from pellucid.data.tokenizer import load_tokenizers
from pellucid.data.tokenizer_kinds import Tokenizer
from pellucid.decoding.hypothesis import FinishReason, Hypothesis
from pellucid.decoding.model_step import CachedStep
from pellucid.decoding.penalties import length_penalty
from pellucid.decoding.scoring import token_logprobs
from pellucid.decoding.search import SearchStats, search
from pellucid.errors import ConfigError, DataError, LengthError, ModelFolderError, PellucidError
from pellucid.files import present_folder
from pellucid.model.cache import CacheBytes
from pellucid.model.storage import is_model_folder, load_model
from pellucid.model.transformer import EncoderDecoder
from pellucid.settings import explain
from pellucid.trace import AttentionEvent

__all__ = ["GeneratedText", "Generation", "Inspection", "Score", "Translator", "load"]

TOKENIZER_FOLDER = "tokenizer"


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """One hypothesis.

    Attributes:
        text: the detokenised text.
        tokens: its pieces; the last is ``</s>`` where ``finish_reason`` is ``eos``.
        token_ids: their numbers.
        token_logprobs: log p of each, natural logarithm.
        score: their sum, divided as the length penalty says; higher is better.
        finish_reason: ``eos``: the model ended it; ``length``: the limit cut it.
    """

    text: str
    tokens: list[str]
    token_ids: list[int]
    token_logprobs: list[float]
    score: float
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Generation:
    """What was generated for one source text; no hypotheses where the source is blank."""

    source: str
    hypotheses: list[GeneratedText]

    @property
    def text(self) -> str:
        """The best hypothesis' text; empty for a blank source."""
        return self.hypotheses[0].text if self.hypotheses else ""


@dataclass(frozen=True, slots=True)
class Score:
    """A given target under the model (forced scoring).

    Attributes:
        tokens: the target's pieces and ``</s>``.
        token_logprobs: log p of each given the source and the pieces before it.
        score: as for a generated text of these tokens.
    """

    tokens: list[str]
    token_logprobs: list[float]
    score: float


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the model did while it wrote one target, step by step through the KV cache.

    Attributes:
        source_tokens: S pieces, ``</s>`` last.
        target_tokens: T pieces, ``</s>`` last.
        token_logprobs: log p of each target piece.
        cross_attention: [L, H, T, S]; row t is the query that wrote target piece t; rows sum to 1.
        cache_used: bytes of keys and values after the last step.
        cache_allocated: bytes reserved for them.
    """

    source_tokens: list[str]
    target_tokens: list[str]
    token_logprobs: list[float]
    cross_attention: np.ndarray
    cache_used: CacheBytes
    cache_allocated: CacheBytes


class Translator:
    """A model with its tokenizers.

    Args:
        model: in evaluation mode, on its device.
        source_tokenizer, target_tokenizer: may be the same object.
        decoding: settings used where a call gives none.
        folder: where it was loaded from.
        document: the model folder's ``config.json``.

    Attributes:
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
    ) -> None:
        self.model = model
        self.source_tokenizer, self.target_tokenizer = source_tokenizer, target_tokenizer
        self.decoding = decoding
        self.folder = folder
        self.document = document or {}
        self.stats = SearchStats()

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.output.weight.device

    def settings(self, **overrides: Any) -> DecodingConfig:
        """The model's decoding settings with some replaced.

        Raises:
            ConfigError: unknown, out of range, or contradictory.
        """
        try:
            return DecodingConfig.model_validate({**self.decoding.model_dump(), **overrides})
        except ValidationError as error:
            raise ConfigError(explain(error, DecodingConfig)) from None

    def generate(self, sources: Sequence[str], **settings: Any) -> list[Generation]:
        """Generate a target for each source text, in order.

        Args:
            sources: texts; what comes out for one does not depend on the others.
            **settings: any of :class:`~pellucid.config.DecodingConfig`, e.g. ``beam_size=5, n_best=3``.

        Raises:
            ConfigError: a setting is unknown or out of range.
            LengthError: a source is longer than the model's learned positions; nothing has been computed then.
        """
        if isinstance(sources, str):
            raise ConfigError("generate takes a list of texts: write generate([text])")
        config = self.settings(**settings)
        encoded = [self._encode_source(text, number) for number, text in enumerate(sources, 1)]
        results: list[list[GeneratedText]] = [[] for _ in sources]
        # Similar lengths together: little padding. Blank sources have no tokens and stay without hypotheses.
        order = sorted((i for i, ids in enumerate(encoded) if ids), key=lambda i: len(encoded[i]), reverse=True)
        for start in range(0, len(order), config.batch_size):
            chosen = order[start : start + config.batch_size]
            for index, hypotheses in zip(chosen, self._search([encoded[i] for i in chosen], config), strict=True):
                results[index] = [self._text_of(hypothesis) for hypothesis in hypotheses]
        return [Generation(source, hypotheses) for source, hypotheses in zip(sources, results, strict=True)]

    def score(self, sources: Sequence[str], targets: Sequence[str], **settings: Any) -> list[Score]:
        """Score given targets: log p of every token in one teacher-forced pass per batch.

        Raises:
            ConfigError: a setting is unknown or out of range.
            DataError: not as many targets as sources.
            LengthError: a text is longer than the model's learned positions.
        """
        if len(sources) != len(targets):
            raise DataError(f"{len(sources)} sources and {len(targets)} targets: every source needs its target")
        config = self.settings(**settings)
        pairs = [
            (self._encode_source(source, number), self._encode_target(target, number))
            for number, (source, target) in enumerate(zip(sources, targets, strict=True), 1)
        ]
        results: list[Score | None] = [None] * len(pairs)
        order = sorted(range(len(pairs)), key=lambda i: (len(pairs[i][1]), len(pairs[i][0])))
        for start in range(0, len(order), config.batch_size):
            chosen = order[start : start + config.batch_size]
            for index, logprobs in zip(chosen, self._forced([pairs[i] for i in chosen]), strict=True):
                ids = [*pairs[index][1], self.target_tokenizer.eos_id]
                total = sum(logprobs) / length_penalty(config.length_penalty, config.length_alpha, len(ids))
                results[index] = Score(self.target_tokenizer.pieces(ids), logprobs, total)
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
            target_ids = self.generate([source], beam_size=1, n_best=1)[0].hypotheses[0].token_ids
        elif isinstance(target, str):
            target_ids = [*self.target_tokenizer.encode(target), self.target_tokenizer.eos_id]
        else:
            target_ids = list(target)
        batch = collate([source_ids], [target_ids]).to(self.device)
        recorder = _CrossAttention(self.model.config.decoder_layers)
        step = CachedStep(self.model, batch.source, batch.source_mask, recorder)
        logprobs = [step(batch.target_in[:, t])[0, token].item() for t, token in enumerate(target_ids)]
        return Inspection(
            source_tokens=self.source_tokenizer.pieces([*source_ids, self.source_tokenizer.eos_id]),
            target_tokens=self.target_tokenizer.pieces(target_ids),
            token_logprobs=logprobs,
            cross_attention=recorder.array(),
            cache_used=step.cache.used_bytes(),
            cache_allocated=step.cache.allocated_bytes(),
        )

    def _encode_source(self, text: str, number: int) -> list[int]:
        ids = self.source_tokenizer.encode(text) if text.strip() else []
        try:
            self.model.encoder.embedder.positions.check(len(ids) + 1)
        except LengthError as error:
            raise LengthError(error.reason, number=number) from None
        return ids

    def _encode_target(self, text: str, number: int) -> list[int]:
        ids = self.target_tokenizer.encode(text)
        try:
            self.model.decoder.embedder.positions.check(len(ids) + 1)
        except LengthError as error:
            raise LengthError(error.reason, number=number, side="target") from None
        return ids

    @torch.inference_mode()
    def _search(self, sources: list[list[int]], config: DecodingConfig) -> list[list[Hypothesis]]:
        batch = collate(sources, sources).to(self.device)
        step = CachedStep(self.model, batch.source, batch.source_mask)
        limits = [config.limit(len(ids) + 1) for ids in sources]
        longest = self.model.decoder.embedder.positions.max_length
        if longest is not None:
            limits = [min(limit, longest) for limit in limits]
        tokenizer = self.target_tokenizer
        return search(
            step,
            limits,
            config,
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            suppressed=(tokenizer.pad_id, tokenizer.bos_id),
            device=self.device,
            stats=self.stats,
        )

    @torch.inference_mode()
    def _forced(self, pairs: list[tuple[list[int], list[int]]]) -> list[list[float]]:
        batch = collate([source for source, _ in pairs], [target for _, target in pairs]).to(self.device)
        logits: Tensor = self.model(batch.source, batch.source_mask, batch.target_in)
        logprobs = token_logprobs(logits, batch.target_out, batch.target_mask)
        if logprobs.isnan().any():
            raise PellucidError(
                "the model's log-probabilities contain NaN: its weights are broken; check the checkpoint"
            )
        return [row[: len(target) + 1].tolist() for row, (_, target) in zip(logprobs, pairs, strict=True)]

    def _text_of(self, hypothesis: Hypothesis) -> GeneratedText:
        ids = list(hypothesis.tokens)
        if hypothesis.finish_reason == "eos":
            ids.append(self.target_tokenizer.eos_id)
        return GeneratedText(
            text=self.target_tokenizer.decode(hypothesis.tokens),
            tokens=self.target_tokenizer.pieces(ids),
            token_ids=ids,
            token_logprobs=list(hypothesis.token_logprobs),
            score=hypothesis.score,
            finish_reason=hypothesis.finish_reason,
        )


@dataclass
class _CrossAttention:
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


def load(path: str | Path, device: str = "auto") -> Translator:
    """Load a trained model.

    Args:
        path: a model folder, or a run folder: then its ``best/`` (``last/`` before the first validation).
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ModelFolderError: not a model folder, incomplete, or its parts do not fit each other.
        ConfigError: no such device here.
    """
    from pellucid.training.runtime import resolve_device

    folder = _model_folder(Path(path))
    model, document = load_model(folder, resolve_device(device))
    source, target = load_tokenizers(folder / TOKENIZER_FOLDER)
    for side, size, tokenizer in (
        ("source", model.source_vocab_size, source),
        ("target", model.target_vocab_size, target),
    ):
        if size != tokenizer.vocab_size:
            raise ModelFolderError(
                f"{folder}: the {side} tokenizer has {tokenizer.vocab_size} tokens and the model {size}: "
                "they are not of the same training run"
            )
    try:
        decoding = DecodingConfig.model_validate(document.get("decoding", {}))
    except ValidationError as error:
        raise ModelFolderError(f"{folder}/config.json: {explain(error, DecodingConfig)}") from None
    return Translator(model, source, target, decoding, folder, document)


def _model_folder(path: Path) -> Path:
    if not path.exists():
        raise ModelFolderError(f"{path}: no such model folder")
    if not path.is_dir():
        raise ModelFolderError(f"{path}: a file, where a model folder is expected")
    if is_model_folder(path):
        return path
    for name in ("best", "last"):
        folder = present_folder(path / name)
        if is_model_folder(folder):
            return folder
    raise ModelFolderError(
        f"{path}: not a model folder (it has no config.json) and not a run folder (it has no best/ or last/ with one)"
    )
