"""The items of the contract that need a look inside: 8 to 11. Each check is handed a way that allows it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from pellucid.contract.case import BEAM, GREEDY, Case, count
from pellucid.contract.results import CheckResult, Worst, deviation
from pellucid.contract.ways import Inside
from pellucid.errors import LengthError
from pellucid.trace import AttentionEvent

__all__ = ["INSIDE"]

BEAMS = (1, 2, 8)


def cache_bytes(case: Case, inside: Inside) -> CheckResult:
    """8. The cache holds what the formula says; a source's keys and values are there once, whatever the beam size."""
    worst = Worst()
    cross: set[tuple[int, ...]] = set()
    readings = 0
    for beam in BEAMS:
        settings = {**case.neutral, "beam_size": beam, "n_best": 1, "max_length": 8, "batch_size": 64}
        found = inside.cache_readings(case.few, **settings)
        readings += len(found)
        for reading in found:
            used = reading.per_target_token * reading.length * reading.rows
            per_sentence = reading.per_source_token * reading.source_length
            place = f"beam {beam}, step {reading.length}"
            if reading.self_used != used:
                worst.complain(f"{place}: self-attention uses {reading.self_used:,} bytes; by the formula {used:,}")
            if reading.self_allocated < reading.self_used:
                worst.complain(f"{place}: more bytes used than allocated")
            if reading.cross_used != per_sentence * reading.sentences:
                worst.complain(
                    f"{place}: cross-attention uses {reading.cross_used:,} bytes for {reading.sentences} sentences; "
                    f"by the formula {per_sentence * reading.sentences:,}"
                )
            if reading.rows > reading.sentences * beam:
                worst.complain(f"{place}: {reading.rows} rows for {reading.sentences} sentences")
        cross.add(tuple(reading.cross_used for reading in found if reading.length == 1))
    if len(cross) > 1 or not readings:
        worst.complain(f"cross-attention bytes differ over beam sizes {BEAMS}: {sorted(cross)}")
    checked = f"{count(readings, 'step')}, beams of {', '.join(map(str, BEAMS))}"
    return worst.result(8, "cache bytes, flat in beam size", checked, None)


def future_is_unseen(case: Case, inside: Inside) -> CheckResult:
    """9. Changing any later target token never changes an earlier logit."""
    worst = Worst()
    changes = 0
    original = case.way.parallel(case.few, case.targets)
    shortest = min(map(len, case.targets))
    for place in range(shortest):
        # Another ordinary token, and all that follow too: row t has seen the tokens before t only.
        others = [[*target[:place], *(_other(case, token) for token in target[place:])] for target in case.targets]
        for before, after in zip(original, case.way.parallel(case.few, others), strict=True):
            worst.measure(deviation(after[: place + 1], before[: place + 1]))
            changes += 1
    return worst.result(9, "later tokens change no earlier logit", count(changes, "change"), 0.0)


def _other(case: Case, token: int) -> int:
    words = sorted({word for target in case.targets for word in target} - {case.way.eos_id, token})
    return words[token % len(words)] if words else case.way.eos_id


def masked_is_zero(case: Case, inside: Inside) -> CheckResult:
    """9. Weights on the future and on padding are exactly 0, all others sum to 1; the encoder sees both sides."""
    worst = Worst()
    lengths = np.array([inside.source_length(source) for source in case.few])
    seen = {"encoder": 0, "decoder": 0, "cross": 0}

    def look(event: AttentionEvent) -> None:
        weights = event.weights.float().cpu().numpy()
        seen[event.use] += weights.size
        place = f"{event.use} attention, layer {event.layer + 1}"
        T, S = weights.shape[-2:]
        if event.use == "decoder":
            future = np.arange(S) > np.arange(T)[:, None] + (S - T)
            if weights[:, :, future].any():
                worst.complain(f"{place}: a weight of {np.abs(weights[:, :, future]).max():.1e} on the future")
        else:
            padding = np.arange(S) >= lengths[:, None]
            on_padding = weights.transpose(0, 3, 1, 2)[padding]
            if on_padding.any():
                worst.complain(f"{place}: a weight of {np.abs(on_padding).max():.1e} on padding")
            if event.use == "encoder" and S > 1 and not (weights[..., 0, 1].any() and weights[..., 1, 0].any()):
                worst.complain(f"{place}: the encoder sees one side only")
        worst.measure(deviation(weights.sum(-1), np.ones(weights.shape[:-1])))

    with inside.observed(look):
        case.way.parallel(case.few, case.targets)
        case.way.serial(case.few, case.targets)
    if not all(seen.values()):
        worst.complain(f"no attention was seen: {seen}")
    checked = f"{sum(seen.values()):,} weights, padded and ragged"
    return worst.result(9, "masked weights are exactly 0", checked, case.tolerance, ["worst: the sum of the others"])


def table_ends(case: Case, inside: Inside) -> CheckResult:
    """10. A learned table refuses the position behind its last before computing anything."""
    name = "a learned table ends in an error"
    source_limit, target_limit = inside.max_positions
    if source_limit is None and target_limit is None:
        return CheckResult(10, name, None, detail="does not apply: positions are not learned and have no end")
    worst = Worst()
    asked = 0
    cases: list[tuple[str, int, Callable[[], Any]]] = []
    if source_limit is not None:
        text = _long_source(case, inside, source_limit + 1)
        cases.append(("a source", source_limit, partial(case.generate, [text], **GREEDY)))
    if target_limit is not None:
        full = _long_target(case, target_limit + 1)
        cases.append(("a target", target_limit, partial(case.way.parallel, case.few[:1], [full])))
        case.way.parallel(case.few[:1], [full[:-1]])  # the whole table can be used
    for what, limit, call in cases:
        layers, error = inside.layers_run(call)
        asked += 1
        if not isinstance(error, LengthError):
            worst.complain(f"{what} of more than {limit} positions: {error!r} instead of a LengthError")
        elif str(limit) not in str(error):
            worst.complain(f"{what}: the error does not name the limit of {limit}: {error}")
        if layers:
            worst.complain(f"{what} of more than {limit} positions: {layers} layers computed before the error")
    return worst.result(10, name, f"{count(asked, 'side')}, the position behind the last", None)


def positions_go_on(case: Case, inside: Inside) -> CheckResult:
    """10. Positions that are a formula go on past the training length, in one pass and token by token."""
    name = "positions go on"
    if None not in inside.max_positions:
        return CheckResult(10, name, None, detail="does not apply: positions are learned, and end")
    worst = Worst()
    source_limit, target_limit = inside.max_positions
    length = 300
    source = case.few[0] if source_limit is not None else _long_source(case, inside, length)
    target = _long_target(case, min(length, target_limit or length))
    (found,), (expected,) = (read([source], [target]) for read in (case.way.serial, case.way.parallel))
    if not np.isfinite(expected).all():
        worst.complain("logits that are not finite")
    worst.measure(deviation(case.possible(found), case.possible(expected)))
    return worst.result(10, name, f"{length} positions on each side", case.tolerance)


def _long_source(case: Case, inside: Inside, tokens: int) -> str:
    """Sources one behind the other, until there are this many tokens."""
    text = case.sources[0]
    number = 0
    while inside.source_length(text) < tokens:
        number += 1
        text = f"{text} {case.sources[number % len(case.sources)]}"
    return text


def _long_target(case: Case, tokens: int) -> list[int]:
    words = [word for target in case.targets for word in target if word != case.way.eos_id] or [case.way.eos_id]
    return (words * (tokens // len(words) + 1))[:tokens]


def tracing_changes_nothing(case: Case, inside: Inside) -> CheckResult:
    """11. Traced and untraced runs give the same tokens and scores."""
    worst = Worst()
    events = 0

    def listen(_event: AttentionEvent) -> None:
        nonlocal events
        events += 1

    for name, settings in (("greedy", GREEDY), ("beam 4", BEAM)):
        chosen = {**settings, "max_length": case.few_limit}
        plain = case.generate(case.few, **chosen)
        with inside.observed(listen):
            traced = case.generate(case.few, **chosen)
        for source, one, other in zip(case.few, traced, plain, strict=True):
            gap = partial(case.gap, source, settings, case.few_limit)
            case.compare(worst, f"{case.place(source)}, {name}", one, other, gap)
    if not events:
        worst.complain("nothing was traced")
    checked = f"{count(len(case.few), 'source')}, {events:,} events"
    return worst.result(11, "traced = untraced", checked, case.tolerance)


def tracing_off_is_off(case: Case, inside: Inside) -> CheckResult:
    """11. With tracing off the very same operators run as before anything was traced."""
    worst = Worst()
    call = partial(case.generate, case.few[:2], **BEAM, max_length=8)
    call()  # what is made at the first call only
    before = inside.operators(call)
    with inside.observed(lambda event: None):
        traced = inside.operators(call)
    after = inside.operators(call)
    if after != before:
        worst.complain(f"{len(after)} operators after tracing, {len(before)} before")
    if traced == before:
        worst.complain("the traced run has the same operators: nothing was traced")
    return worst.result(11, "off: the same operators", f"{len(before):,} operators", None)


INSIDE: tuple[Callable[[Case, Inside], CheckResult], ...] = (
    cache_bytes,
    future_is_unseen,
    masked_is_zero,
    table_ends,
    positions_go_on,
    tracing_changes_nothing,
    tracing_off_is_off,
)
"""Every check of this file, in the contract's order."""
