"""The encoder's side of a trace: how order enters, what each word attends to, and what becomes of it without order.

Shapes: S source tokens, M model size, H heads, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.errors import ConfigError, LengthError
from pellucid.model.positions import NoPositions, RelativePositions, RotaryPositions, sinusoidal_table
from pellucid.model.transformer import EncoderDecoder
from pellucid.tracer.subject import Subject
from pellucid.tracing.arrays import Array
from pellucid.tracing.document import Ablated, Ablation, Beyond, EncoderAttention, Position, Rotary
from pellucid.tracing.recorder import Recorder

__all__ = ["attention_divisor", "describe_source"]

UNLIMITED_EXAMPLE = 513


def attention_divisor(model: EncoderDecoder) -> float:
    """What query·key is divided by."""
    return math.sqrt(model.config.head_size) if model.config.scale_attention else 1.0


@torch.inference_mode()
def describe_source(subject: Subject) -> tuple[Position, EncoderAttention]:
    """Run the encoder once, looked into."""
    recorder = Recorder()
    subject.model.encode(subject.source, subject.mask, recorder)
    encoder = EncoderAttention(
        divisor=attention_divisor(subject.model),
        pad_mask=subject.mask[0].tolist(),
        **recorder.arrays("encoder", "source", "source"),
    )
    return _position(subject, recorder), encoder


def _position(subject: Subject, recorder: Recorder) -> Position:
    config = subject.model.config
    scheme = subject.model.encoder.embedder.positions
    event = recorder.embeddings["encoder"]
    length = subject.source.shape[1]
    formula = sinusoidal_table(0, length, config.hidden_size) if config.hidden_size % 2 == 0 else None
    bias = scheme.bias(length) if isinstance(scheme, RelativePositions) else None
    vectors = event.positions
    return Position(
        scheme=config.positions,
        added=vectors is not None,
        first=config.first_position if config.positions == "sinusoidal" else 0,
        max_length=scheme.max_length,
        beyond=_beyond(scheme),
        scale=event.scale,
        tok_emb=Array.of(event.embedded[0], "source", "hidden"),
        pe=None if vectors is None else Array.of(vectors, "source", "hidden"),
        input=Array.of(event.summed[0], "source", "hidden"),
        normed=Array.of(event.output[0], "source", "hidden") if config.embedding_norm else None,
        formula=None if formula is None else Array.of(formula, "source", "hidden"),
        rotary=_rotary(scheme, length),
        bias=None if bias is None else Array.of(bias[0], "head", "source", "source"),
        ablation=_ablation(subject),
    )


def _rotary(scheme: NoPositions, length: int) -> Rotary | None:
    if not isinstance(scheme, RotaryPositions):
        return None
    axes = ("source", "angle")
    return Rotary(cosine=Array.of(scheme.cosine[:length], *axes), sine=Array.of(scheme.sine[:length], *axes))


def _beyond(scheme: NoPositions) -> Beyond:
    length = UNLIMITED_EXAMPLE if scheme.max_length is None else scheme.max_length + 1
    try:
        scheme.check(length)
    except LengthError as error:
        return Beyond(length=length, error=str(error))
    return Beyond(length=length, error=None)


# -- without order


def _ablation(subject: Subject) -> Ablation | None:
    perm = _permutation(subject)
    if perm is None:
        return None
    permuted = subject.source[:, perm]
    both = torch.cat((subject.source, permuted))
    return Ablation(
        perm=perm,
        permuted=subject.source_tokens(permuted[0].tolist()),
        on=_compare(subject, subject.model, both, perm),
        off=_compare(subject, subject.unordered, both, perm),
    )


def _permutation(subject: Subject) -> list[int] | None:
    """The order asked for, or the text's tokens reversed; None where that changes nothing.

    Raises:
        ConfigError: not a permutation, or one that moves more than the text's own tokens.
    """
    tokenizer = subject.translator.source_tokenizer
    ids = subject.source[0].tolist()
    end = len(ids) - subject.request.padding - 1 - len(tokenizer.suffix_ids)
    start = len(tokenizer.prefix_ids)
    asked = subject.request.permutation
    if asked is None:
        order = [*range(start), *reversed(range(start, end)), *range(end, len(ids))]
        return None if [ids[place] for place in order] == ids else order
    if sorted(asked) != list(range(len(ids))):
        raise ConfigError(f"permutation must hold each number from 0 to {len(ids) - 1} once, the places of this source")
    if any(asked[place] != place for place in (*range(start), *range(end, len(ids)))):
        raise ConfigError(f"permutation may change places {start} to {end - 1} only: the others are not of the text")
    return list(asked)


def _compare(subject: Subject, model: EncoderDecoder, both: Tensor, perm: Sequence[int]) -> Ablated:
    mask = subject.mask.expand(2, -1)
    memory = model.encode(both, mask)
    bos = subject.translator.target_tokenizer.bos_id
    logits = model.step(torch.full((2,), bos, device=both.device), model.start_cache(memory, mask)).float()
    written = _greedy(subject, model, memory, mask)
    states, permuted = memory[0][subject.mask[0]].float(), memory[1].float()
    # Row i of the permuted source is token perm[i]; what stands at padding is meaningless.
    kept = subject.mask[0]
    expected = memory[0][list(perm)].float()[kept]
    return Ablated(
        enc_maxdiff=float((permuted[kept] - expected).abs().max()),
        logit_maxdiff=float((logits[0] - logits[1]).abs().max()),
        enc_max=float(states.abs().max()),
        logit_max=float(logits.abs().max()),
        texts=(subject.text_of(written[0], copies=False), subject.text_of(written[1], copies=False)),
    )


@dataclass(slots=True)
class _Row:
    ids: list[int]
    is_open: bool = True


def _greedy(subject: Subject, model: EncoderDecoder, memory: Tensor, mask: Tensor) -> list[list[int]]:
    """The most probable token at each step, for both sources; no settings of the search but its limit."""
    tokenizer = subject.translator.target_tokenizer
    limit = min(subject.config.limit(int(subject.mask.sum())), 64, model.decoder.embedder.positions.max_length or 64)
    cache = model.start_cache(memory, mask)
    rows = [_Row([]) for _ in range(memory.shape[0])]
    fed = torch.full((len(rows),), tokenizer.bos_id, device=memory.device)
    suppressed = torch.tensor(tokenizer.suppressed_ids, device=memory.device)
    for _ in range(limit):
        logits = model.step(fed, cache)
        logits[:, suppressed] = -torch.inf
        fed = logits.argmax(-1)
        for row, token in zip(rows, fed.tolist(), strict=True):
            row.is_open = row.is_open and token != tokenizer.eos_id
            if row.is_open:
                row.ids.append(token)
        if not any(row.is_open for row in rows):
            break
    return [row.ids for row in rows]
