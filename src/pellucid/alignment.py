"""Word alignments of a model's own making: the cross-attention of chosen heads, as numbers and as links.

Joins a model, its tokenizers and ``data/units.py``, which says what a word is. How heads are chosen is the business of
``alignment_heads.py``; where a model has no choice, the default is the mean of the heads of its penultimate decoder
layer (Garg et al. 2019, "Jointly Learning to Align and Translate with Transformer Models", section 4).

Shapes: L decoder layers, H query heads, S source tokens and T target tokens (both with </s>), N and M groups of target
and source units.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.data.batches import collate
from pellucid.data.tokenizer_kinds import framed
from pellucid.data.units import Segments, UnitKind, segment_ids, segment_text, unit_spans
from pellucid.errors import ConfigError, DataError, LengthError, ModelFolderError
from pellucid.files import write_json
from pellucid.trace import AttentionEvent, Observer
from pellucid.translator import Generation, Translator

__all__ = [
    "HEADS_FILE",
    "Alignment",
    "AlignmentHeads",
    "CrossAttention",
    "Head",
    "Reading",
    "align",
    "align_generations",
    "cross_attention",
    "default_heads",
    "group_weights",
    "head_matrices",
    "load_heads",
    "save_heads",
    "segment_generations",
    "segment_pairs",
]

HEADS_FILE = "alignment.json"
_FORMAT = 1
_MOST_NUMBERS = 1 << 25  # attention weights of one pass, all that are kept: 128 MB

Reading = Literal["write", "read"]
Head = tuple[int, int]


@dataclass(frozen=True, slots=True)
class AlignmentHeads:
    """Which attention is read as an alignment.

    Attributes:
        heads: (layer, head), both counted from 0; the mean of their weights is taken.
        reading: which step's attention belongs to a target token: ``write``, of the step that predicts it, or
            ``read``, of the next step, whose input it is (Chen et al. 2020, "Accurate Word Alignment Induction from
            Neural Machine Translation": the latter often aligns better).
        report: how they were chosen; empty for a default.
    """

    heads: tuple[Head, ...]
    reading: Reading
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """The cross-attention of a whole target, all layers and heads.

    Attributes:
        source_tokens: S pieces, ``</s>`` last.
        target_tokens: T pieces, ``</s>`` last.
        weights: [L, H, T, S]; row t is the query that predicts target piece t (and whose input is piece t - 1); rows
            sum to 1.
    """

    source_tokens: list[str]
    target_tokens: list[str]
    weights: np.ndarray


@dataclass(frozen=True, slots=True)
class Alignment:
    """Links between the units of a source and those of a target.

    Attributes:
        source_units, target_units: as texts; what a unit is, ``data/units.py`` says.
        links: (source, target) numbers of units, from 0, in order of the target.
        link_weights: for each link the attention that it got.
        weights: [target units, source units], the attention of each target unit (mean over its tokens) to each source
            unit (sum over its tokens); units that share a token each show the weight of all they share it with.
    """

    source_units: list[str]
    target_units: list[str]
    links: list[tuple[int, int]]
    link_weights: list[float]
    weights: np.ndarray

    @property
    def pharaoh(self) -> str:
        """The links as ``0-0 1-2 ...``: source number, target number."""
        return " ".join(f"{source}-{target}" for source, target in self.links)


def cross_attention(
    translator: Translator, sources: Sequence[str], targets: Sequence[str], *, batch_size: int | None = None
) -> list[CrossAttention]:
    """Cross-attention weights of given pairs, in one teacher-forced pass per batch.

    The same numbers as :meth:`Translator.inspect` gives pair by pair.

    Raises:
        DataError: not as many targets as sources.
        LengthError: a text is longer than the model's learned positions.
    """
    pairs = segment_pairs(translator, sources, targets)
    found: list[CrossAttention | None] = [None] * len(pairs)
    eos = [translator.source_tokenizer.eos_id], [translator.target_tokenizer.eos_id]
    for number, weights in head_matrices(translator, pairs, None, batch_size):
        source, target = pairs[number]
        found[number] = CrossAttention(
            translator.source_tokenizer.pieces(source.ids + eos[0]),
            translator.target_tokenizer.pieces(target.ids + eos[1]),
            weights,
        )
    return [each for each in found if each is not None]


def align(
    translator: Translator,
    sources: Sequence[str],
    targets: Sequence[str],
    heads: AlignmentHeads | None = None,
    *,
    units: str = "words",
    threshold: float | None = None,
    batch_size: int | None = None,
) -> list[Alignment]:
    """Align given pairs; nothing is linked where a side is blank.

    Args:
        translator: the model.
        sources, targets: as many of the one as of the other.
        heads: which attention to read; by default the model's own (:func:`load_heads`).
        units: what is linked: ``words``, or the model's ``tokens``.
        threshold: links every source unit that gets at least so much of a target unit's attention; by default each
            target unit is linked to the source unit that gets the most, and to none where more than half goes to </s>.
        batch_size: pairs per pass; by default the model's ``decoding.batch_size``. The links do not depend on it.

    Raises:
        ConfigError: a threshold or kind of unit that does not exist, heads that the model does not have.
        DataError: not as many targets as sources.
        LengthError: a text is longer than the model's learned positions.
    """
    kind = _unit_kind(units, threshold)
    pairs = segment_pairs(translator, sources, targets, kind)
    return _align(translator, pairs, heads, threshold, batch_size)


def align_generations(
    translator: Translator,
    generations: Sequence[Generation],
    heads: AlignmentHeads | None = None,
    *,
    units: str = "words",
    threshold: float | None = None,
    batch_size: int | None = None,
) -> list[list[Alignment]]:
    """Align what was generated with its sources: for each generation, an alignment for each of its hypotheses.

    The tokens are those that were generated, which need not be what tokenizing their text would give. Arguments and
    errors as for :func:`align`.
    """
    kind = _unit_kind(units, threshold)
    pairs = segment_generations(translator, generations, kind)
    found = iter(_align(translator, pairs, heads, threshold, batch_size))
    return [[next(found) for _ in generation.hypotheses] for generation in generations]


def segment_generations(
    translator: Translator, generations: Sequence[Generation], kind: UnitKind
) -> list[tuple[Segments, Segments]]:
    """Tokens and units of each hypothesis and its source, one generation behind the other."""
    pairs: list[tuple[Segments, Segments]] = []
    eos_id = translator.target_tokenizer.eos_id
    longest = translator.model.decoder.embedder.positions.max_length
    for generation in generations:
        if not generation.hypotheses:
            continue
        text = generation.source
        source = _segment_source(translator, text, kind)
        for hypothesis in generation.hypotheses:
            ids = [token for token in hypothesis.token_ids if token != eos_id]
            target = segment_ids(translator.target_tokenizer, ids, kind, partial(_write, translator, text))
            if longest is not None and len(ids) == longest:  # no room behind the last token, whatever reads it
                target = Segments(ids[:-1], target.units, target.covers[:-1])
            pairs.append((source, target))
    return pairs


def _write(translator: Translator, source: str, part: str) -> str:
    return translator.rules.write(part, source).text


# -- which heads


def default_heads(translator: Translator) -> AlignmentHeads:
    """All heads of the penultimate decoder layer (of the only one, where there is one), as Garg et al. 2019."""
    config = translator.model.config
    layer = max(0, config.decoder_layers - 2)
    return AlignmentHeads(tuple((layer, head) for head in range(config.num_heads)), "write")


def load_heads(translator: Translator) -> AlignmentHeads:
    """The heads chosen for a model, from its folder; :func:`default_heads` where nobody has chosen.

    Raises:
        ConfigError: the model is a decoder alone.
        ModelFolderError: the file is damaged, or names heads that the model does not have.
    """
    translator.need_source("alignment")
    path = None if translator.folder is None else translator.folder / HEADS_FILE
    if path is None or not path.is_file():
        return default_heads(translator)
    again = "choose again: pellucid align --choose-heads"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != _FORMAT or document["reading"] not in get_args(Reading):
            raise KeyError("format")
        report = {key: value for key, value in document.items() if key not in ("format", "heads", "reading")}
        chosen = tuple((int(layer), int(head)) for layer, head in document["heads"])
        heads = AlignmentHeads(chosen, document["reading"], report)
    except (OSError, ValueError, TypeError, KeyError):
        raise ModelFolderError(f"{path}: not a choice of heads of format {_FORMAT}; {again}") from None
    try:
        _check_heads(translator, heads)
    except ConfigError as error:
        raise ModelFolderError(f"{path}: {error}; {again}") from None
    return heads


def save_heads(folder: Path, heads: AlignmentHeads) -> None:
    """Keep a choice in a model folder, atomically."""
    chosen = {"heads": [list(head) for head in heads.heads], "reading": heads.reading}
    write_json(folder / HEADS_FILE, {"format": _FORMAT, **chosen, **heads.report})


def _check_heads(translator: Translator, heads: AlignmentHeads) -> None:
    config = translator.model.config
    if not heads.heads:
        raise ConfigError("no head is named, and at least one is needed")
    for layer, head in heads.heads:
        if not (0 <= layer < config.decoder_layers and 0 <= head < config.num_heads):
            raise ConfigError(
                f"there is no head {head} in layer {layer}: the decoder has {config.decoder_layers} layers of "
                f"{config.num_heads} heads, counted from 0"
            )


# -- texts


def segment_pairs(
    translator: Translator, sources: Sequence[str], targets: Sequence[str], units: UnitKind = "words"
) -> list[tuple[Segments, Segments]]:
    """Tokens and units of both sides.

    Raises:
        DataError: not as many targets as sources.
        LengthError: a text is longer than the model's learned positions.
    """
    if isinstance(sources, str) or isinstance(targets, str):
        raise ConfigError("sources and targets are lists of texts: write [text]")
    if len(sources) != len(targets):
        raise DataError(f"{len(sources)} sources and {len(targets)} targets: every source needs its target")
    pairs = []
    for number, (source, target) in enumerate(zip(sources, targets, strict=True), 1):
        pair = _segment_source(translator, source, units), _segment_target(translator, target, source, units)
        embedders = translator.model.encoder.embedder, translator.model.decoder.embedder
        for side, embedder, segments in zip(("source", "target"), embedders, pair, strict=True):
            try:
                embedder.positions.check(len(segments.ids) + 1)
                _check_length(len(segments.ids) + 1, translator.decoding.max_source_length)
            except LengthError as error:
                raise LengthError(error.reason, number=number, side=side) from None
        pairs.append(pair)
    return pairs


def _check_length(length: int, limit: int) -> None:
    if length > limit:  # weights take memory in proportion to the product of both sides
        raise LengthError(
            f"a sequence of {length} tokens is longer than max_source_length ({limit}), which holds for both sides of "
            "an alignment: shorten or split it"
        )


def _segment_source(translator: Translator, text: str, units: UnitKind) -> Segments:
    tokenizer = translator.source_tokenizer
    if not text.strip():
        return Segments([], [], [])
    read = translator.rules.read_source(text)
    segments = segment_text(tokenizer, read, units, partial(_write, translator, text))
    framing = [()] * len(tokenizer.prefix_ids), [()] * len(tokenizer.suffix_ids)
    covers = [*framing[0], *segments.covers, *framing[1]]
    framed_segments = Segments(framed(tokenizer, segments.ids), segments.units, covers)
    return framed_segments if read == text else _as_typed(framed_segments, text, units)


def _segment_target(translator: Translator, text: str, source: str, units: UnitKind) -> Segments:
    if not text.strip():
        return Segments([], [], [])
    read = translator.rules.read_target(text, source)
    segments = segment_text(translator.target_tokenizer, read, units, partial(_write, translator, source))
    return segments if read == text else _as_typed(segments, text, units)


def _as_typed(segments: Segments, text: str, units: UnitKind) -> Segments:
    """The same, with the units as they stand in the text that was given, where the model's side of it is converted."""
    given = [text[start:end] for start, end in unit_spans(text)]
    if units == "words" and len(given) == len(segments.units):
        return Segments(segments.ids, given, segments.covers)
    return segments


def _unit_kind(units: str, threshold: float | None) -> UnitKind:
    """The kind of that name, if both can be."""
    if threshold is not None and not 0 < threshold <= 1:
        raise ConfigError(f"the alignment threshold ({threshold}) must be above 0 and at most 1")
    kinds: tuple[UnitKind, ...] = get_args(UnitKind)
    for kind in kinds:
        if kind == units:
            return kind
    raise ConfigError(f"unknown kind of alignment units {units!r}: choose from {', '.join(kinds)}")


# -- attention


@dataclass
class _Recorder(Observer):
    """Observer of one pass: keeps all cross-attention weights, or the mean of some heads' and nothing else."""

    heads: Sequence[Head] | None
    kept: list[Tensor] = field(default_factory=list)
    total: Tensor | None = None

    def attention(self, event: AttentionEvent) -> None:
        if event.use != "cross":
            return
        if self.heads is None:
            self.kept.append(event.weights)
            return
        for layer, head in self.heads:
            if layer == event.layer:
                weights = event.weights[:, head]
                self.total = weights if self.total is None else self.total + weights

    def array(self) -> np.ndarray:
        """[B, L, H, T, S], or [B, T, S] of the heads' mean."""
        if self.heads is None:
            array: np.ndarray = torch.stack(self.kept, dim=1).float().cpu().numpy()
            return array
        assert self.total is not None
        mean: np.ndarray = (self.total / len(self.heads)).float().cpu().numpy()
        return mean


@torch.inference_mode()
def head_matrices(
    translator: Translator,
    pairs: Sequence[tuple[Segments, Segments]],
    heads: Sequence[Head] | None,
    batch_size: int | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Number of a pair and its weights: [L, H, T, S], or with ``heads`` the mean of theirs [T, S]; in any order."""
    config = translator.model.config
    kept = config.num_heads * (config.decoder_layers if heads is None else 1)
    rows = translator.decoding.batch_size if batch_size is None else batch_size
    tokenizers = translator.source_tokenizer, translator.target_tokenizer
    for numbers in _batches([(len(s.ids) + 1, len(t.ids) + 1) for s, t in pairs], rows, _MOST_NUMBERS // kept):
        chosen = [pairs[number] for number in numbers]
        ids = [source.ids for source, _ in chosen], [target.ids for _, target in chosen]
        batch = collate(*ids, tokenizers=tokenizers).to(translator.device)
        recorder = _Recorder(heads)
        # The weights of the decoder's stack are all that is wanted: no logits.
        translator.model.decode(batch.source, batch.source_mask, batch.target_in, recorder)
        for number, weights, (source, target) in zip(numbers, recorder.array(), chosen, strict=True):
            yield number, weights[..., : len(target.ids) + 1, : len(source.ids) + 1]


def _batches(sizes: Sequence[tuple[int, int]], rows: int, most: int) -> Iterator[list[int]]:
    """Numbers of pairs, similar lengths together: at most ``rows``, and ``most`` cells T · S as padded, or one pair."""
    batch: list[int] = []
    width = height = 0
    for number in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        width, height = max(width, sizes[number][0]), max(height, sizes[number][1])
        if batch and (len(batch) == rows or (len(batch) + 1) * width * height > most):
            yield batch
            batch, (width, height) = [], sizes[number]
        batch.append(number)
    if batch:
        yield batch


# -- weights of tokens → weights of units → links


def group_weights(
    attention: Float[np.ndarray, "*heads T S"], source: Segments, target: Segments, reading: Reading
) -> tuple[Float[np.ndarray, "*heads N M"], Float[np.ndarray, "*heads N"]]:
    """Attention of each group of target units to each group of source units, and to nothing of the source.

    Mean over the tokens of a target group, sum over those of a source group. What goes to </s>, or to a token that
    covers no unit, is the second result; the two sum to 1, but for groups without a token, which have 0 everywhere.
    """
    first = 1 if reading == "read" else 0
    rows = attention[..., first : first + len(target.ids), :]
    pool = _membership(target)
    pool /= np.maximum(pool.sum(1, keepdims=True), 1)
    gather = _membership(source)
    pooled = pool @ rows
    weights = pooled[..., : len(source.ids)] @ gather.T
    rest = pooled[..., -1] + pooled[..., : len(source.ids)] @ (1 - gather.sum(0))
    return weights, rest


def _membership(segments: Segments) -> Float[np.ndarray, "N T"]:
    """1 where a token belongs to a group."""
    groups = segments.groups()
    of_token = np.array(segments.token_groups(), dtype=np.int64)
    member: np.ndarray = np.arange(groups[-1] + 1 if groups else 0)[:, None] == of_token
    return member.astype(np.float32)


def _align(
    translator: Translator,
    pairs: Sequence[tuple[Segments, Segments]],
    heads: AlignmentHeads | None,
    threshold: float | None,
    batch_size: int | None,
) -> list[Alignment]:
    heads = load_heads(translator) if heads is None else heads
    _check_heads(translator, heads)
    found = [_unaligned(source, target) for source, target in pairs]
    real = [number for number, (source, target) in enumerate(pairs) if source.units and target.units]
    for index, attention in head_matrices(translator, [pairs[number] for number in real], heads.heads, batch_size):
        source, target = pairs[real[index]]
        found[real[index]] = _linked(
            *group_weights(attention, source, target, heads.reading), source, target, threshold
        )
    return found


def _unaligned(source: Segments, target: Segments) -> Alignment:
    empty = np.zeros((len(target.units), len(source.units)), dtype=np.float32)
    return Alignment(source.units, target.units, [], [], empty)


def _linked(
    weights: np.ndarray, rest: np.ndarray, source: Segments, target: Segments, threshold: float | None
) -> Alignment:
    """The links of groups, as links of all their units."""
    if threshold is None:
        linked = np.zeros(weights.shape, dtype=bool)
        aligned = np.flatnonzero((rest <= 0.5) & (weights.sum(1) > 0))
        linked[aligned, weights[aligned].argmax(1)] = True
    else:
        linked = weights >= threshold
    columns, rows = source.groups(), target.groups()
    spread, chosen = weights[np.ix_(rows, columns)], linked[np.ix_(rows, columns)]
    links = [(int(column), int(row)) for row, column in np.argwhere(chosen)]
    return Alignment(source.units, target.units, links, [float(weight) for weight in spread[chosen]], spread)
