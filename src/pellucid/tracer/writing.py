"""The decoder's side of a trace: one target, in parallel and token by token, masked and not, with words covered.

Knows token numbers; the subject knows their texts. Shapes: S source tokens, T target tokens, V vocabulary, U units.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.decoding.penalties import length_penalty
from pellucid.model.transformer import EncoderDecoder
from pellucid.tracer.cache import Uncached, describe_cache
from pellucid.tracer.drift import drift
from pellucid.tracer.lattice import read_cache
from pellucid.tracer.source import attention_divisor
from pellucid.tracer.subject import Subject
from pellucid.tracing.arrays import Array
from pellucid.tracing.document import (
    Align,
    CacheBytes,
    Candidate,
    Cover,
    CrossAttention,
    DecoderAttention,
    MaxDiff,
    Serial,
    Teacher,
    Unit,
    Unmasked,
    Writing,
)
from pellucid.tracing.recorder import Recorder
from pellucid.tracing.request import Corruption

__all__ = ["cover", "describe_writing"]

TIMED_RUNS = 3
MOST_REPEATED_MS = 250.0  # what one run of all steps, with the cache and without, may take to be timed again
ROWS = 64  # covered sources decoded together
MOST_UNCACHED = 64  # target tokens up to which the run without a cache is made: its cost grows with their square

FinishReason = Literal["eos", "length"]


@torch.inference_mode()
def describe_writing(
    subject: Subject,
    ids: Sequence[int],
    finish_reason: FinishReason,
    *,
    name: Literal["hypothesis", "greedy"],
    head_align: Align | None,
    covers: list[Cover] | None,
    corrupt: Corruption | None,
) -> Writing:
    """Everything about one target.

    Args:
        subject: the source.
        ids: the target's tokens, ``</s>`` included where the model wrote it.
        finish_reason: as search says.
        name: how it was found.
        head_align: the model's alignment heads.
        covers: what hiding source words did; None where it is not known yet.
        corrupt: the wrong token of ``drift``; default: chosen.

    Raises:
        ConfigError: there is no such row or token to corrupt.
    """
    config, request = subject.config, subject.request
    target_in = subject.target_in(ids)
    gold = torch.tensor(list(ids), device=target_in.device)
    parallel, teacher = _teacher(subject, target_in, gold)
    serial_logits, serial, readings, shape = _serial(subject, target_in, gold)
    logprobs = serial_logits.log_softmax(-1)
    top = logprobs.topk(min(request.top_k, logprobs.shape[1]))
    chosen = logprobs.gather(1, gold[:, None])
    penalty = length_penalty(config.length_penalty, config.length_alpha, len(ids))
    uncached = _uncached(subject, target_in, gold) if len(ids) <= MOST_UNCACHED else None
    serial, uncached = _timed_again(subject, target_in, gold, serial, uncached)
    total = sum(serial.logp)
    entropy = -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(-1)
    return Writing(
        name=name,
        text=subject.text_of(ids),
        tgt=subject.target_tokens(ids),
        input=subject.target_tokens(target_in[0].tolist()),
        forced=[place < len(request.prefix_ids) for place in range(len(ids))],
        logp=serial.logp,
        sum_logp=total,
        len=len(ids),
        penalty=penalty,
        score=total / penalty,
        finish_reason=finish_reason,
        **_attention(subject, target_in, gold, parallel, head_align),
        cover=covers,
        tf=teacher,
        ar=serial,
        maxdiff=_difference(parallel, serial_logits, teacher, serial),
        drift=drift(subject, ids, teacher.logp, logprobs, corrupt),
        topk=[
            [Candidate(token=subject.target_token(token), logp=logp) for token, logp in zip(*row, strict=True)]
            for row in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ],
        chosen_rank=(logprobs > chosen).sum(1).tolist(),
        entropy=entropy.tolist(),
        kv=describe_cache(subject, readings, shape, serial, uncached),
    )


# -- in parallel and token by token


@contextmanager
def _counted(model: EncoderDecoder) -> Iterator[Callable[[], int]]:
    """Count the calls of the decoder, by a hook."""
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    handle = model.decoder.register_forward_hook(count)
    try:
        yield lambda: calls
    finally:
        handle.remove()


def _milliseconds(since: float, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - since)


def _teacher(subject: Subject, target_in: Tensor, gold: Tensor) -> tuple[Float[Tensor, "T V"], Teacher]:
    subject.cross  # noqa: B018  computed here, so that it is not timed
    with _counted(subject.model) as calls:
        start = time.perf_counter()
        logits = subject.decode(target_in)
        times = [_milliseconds(start, gold.device)]
        counted = calls()
    for _ in range(TIMED_RUNS - 1):  # the first one may still have to prepare kernels for this shape
        start = time.perf_counter()
        subject.decode(target_in)
        times.append(_milliseconds(start, gold.device))
    logits = logits.float()
    return logits, Teacher(
        input_ids=target_in[0].tolist(),
        gold_ids=gold.tolist(),
        logp=_of(logits, gold),
        argmax_ids=logits.argmax(-1).tolist(),
        calls=counted,
        ms=sorted(times)[len(times) // 2],
    )


def _serial(
    subject: Subject, target_in: Tensor, gold: Tensor
) -> tuple[Float[Tensor, "T V"], Serial, list[CacheBytes], list[int]]:
    """One token at a time through the cache: logits, the cache after each step, its shape at the end."""
    cache = subject.model.start_cache(subject.memory, subject.mask)
    rows, step_ms, readings = [], [], []
    with _counted(subject.model) as calls:
        for token in target_in[0]:
            start = time.perf_counter()
            logits = subject.model.step(token[None], cache)
            step_ms.append(_milliseconds(start, gold.device))
            rows.append(logits[0].float())
            readings.append(read_cache(cache))
        counted = calls()
    logits = torch.stack(rows)
    serial = Serial(
        ids=gold.tolist(),
        logp=_of(logits, gold),
        argmax_ids=logits.argmax(-1).tolist(),
        calls=counted,
        ms=sum(step_ms),
        step_ms=step_ms,
    )
    return logits, serial, readings, cache.self_shape()


def _uncached(subject: Subject, target_in: Tensor, gold: Tensor) -> Uncached:
    """The same, computing the whole prefix again at every step."""
    rows, step_ms = [], []
    decoder = subject.model.decoder
    for length in range(1, target_in.shape[1] + 1):
        start = time.perf_counter()
        cross = decoder.source_keys_values(subject.memory)
        states = decoder(target_in[:, :length], cross, subject.cross_mask)
        logits = subject.model.output(states[:, -1])
        step_ms.append(_milliseconds(start, gold.device))
        rows.append(logits[0].float())
    logits = torch.stack(rows)
    return Uncached(logits.argmax(-1).tolist(), _of(logits, gold), step_ms)


def _timed_again(
    subject: Subject, target_in: Tensor, gold: Tensor, serial: Serial, uncached: Uncached | None
) -> tuple[Serial, Uncached | None]:
    """Each step's time as the median of several runs, where they are short; else as it was."""
    if serial.ms + sum(uncached.step_ms if uncached else []) > MOST_REPEATED_MS:
        return serial, uncached
    cached_ms, uncached_ms = [serial.step_ms], [uncached.step_ms if uncached else []]
    for _ in range(TIMED_RUNS - 1):
        cached_ms.append(_serial(subject, target_in, gold)[1].step_ms)
        if uncached is not None:
            uncached_ms.append(_uncached(subject, target_in, gold).step_ms)
    step_ms = [median(times) for times in zip(*cached_ms, strict=True)]
    serial = serial.model_copy(update={"step_ms": step_ms, "ms": sum(step_ms), "runs": TIMED_RUNS})
    if uncached is not None:
        uncached = replace(uncached, step_ms=[median(times) for times in zip(*uncached_ms, strict=True)])
    return serial, uncached


def _of(logits: Float[Tensor, "T V"], gold: Tensor) -> list[float]:
    """Log p of each token."""
    found: list[float] = logits.log_softmax(-1).gather(1, gold[:, None])[:, 0].tolist()
    return found


def _difference(parallel: Tensor, serial_logits: Tensor, teacher: Teacher, serial: Serial) -> MaxDiff:
    apart, largest = float((parallel - serial_logits).abs().max()), float(serial_logits.abs().max())
    return MaxDiff(
        logits=apart,
        logit_max=largest,
        relative=apart / largest,
        logp=max(abs(a - b) for a, b in zip(teacher.logp, serial.logp, strict=True)),
        argmax_equal=teacher.argmax_ids == serial.argmax_ids,
    )


# -- attention


def _attention(
    subject: Subject, target_in: Tensor, gold: Tensor, logits: Tensor, head_align: Align | None
) -> dict[str, Any]:
    recorder, other = Recorder(), Recorder()
    subject.decode(target_in, recorder)
    states = subject.unmasked.decoder(target_in, subject.cross, subject.cross_mask, None, other)
    free = subject.model.output(states)[0].float()
    length = target_in.shape[1]
    event = recorder.attentions["decoder"][0]
    # The mask that was used; a single token has none to need.
    mask = torch.ones(1, 1, length, length, dtype=torch.bool) if event.mask is None else event.mask
    bias = subject.model.decoder.embedder.positions.bias(length)
    divisor = attention_divisor(subject.model)
    unmasked = Unmasked(
        attn=other.arrays("decoder", "target", "input")["attn"],
        logp=_of(free, gold),
        logit_maxdiff=(free - logits).abs().amax(1).tolist(),
    )
    return {
        "decoder": DecoderAttention(
            divisor=divisor,
            mask=Array.of(mask.expand(1, 1, length, length)[0, 0], "target", "input"),
            bias=None if bias is None else Array.of(bias[0], "head", "target", "input"),
            unmasked=unmasked,
            **recorder.arrays("decoder", "target", "input"),
        ),
        "cross": CrossAttention(divisor=divisor, head_align=head_align, **recorder.arrays("cross", "target", "source")),
    }


@torch.inference_mode()
def cover(subject: Subject, units: Sequence[Unit], ids: Sequence[int]) -> list[Cover]:
    """Log p of the target when each source word in turn is hidden from the whole model."""
    target_in = subject.target_in(ids)
    gold = torch.tensor(list(ids), device=target_in.device)
    clean = _of(subject.decode(target_in).float(), gold)
    masks = subject.mask.repeat(len(units), 1)
    for row, unit in enumerate(units):
        masks[row, unit.tokens] = False
    found: list[Cover] = []
    for start in range(0, len(units), ROWS):
        part = masks[start : start + ROWS]
        rows = len(part)
        logits = subject.model(subject.source.expand(rows, -1), part, target_in.expand(rows, -1)).float()
        for row in range(rows):
            logp = _of(logits[row], gold)
            change = [hidden - seen for hidden, seen in zip(logp, clean, strict=True)]
            found.append(Cover(unit=start + row, tokens=units[start + row].tokens, logp=logp, change=change))
    return found
