"""What can be asked of the settings that a way generates with by itself, whatever they are: items 3, 4 and 12.

The other checks choose their settings, to compare with slow searches. Full beams, diverse groups, stopping rules,
prefixes and sampling have no slow search here; that batches change nothing, that scores are those of the tokens, and
that the same comes again holds of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.contract.case import Case, count
from pellucid.contract.reference import forced, penalised
from pellucid.contract.results import CheckResult, Worst, deviation
from pellucid.contract.ways import Output

__all__ = ["OWN"]

BATCH_SIZES = (8, 64)


def own_batches(case: Case) -> CheckResult:
    """3. Under its own settings, too, a sentence's output does not depend on its batch.

    The gap of a near-tie is that of a plain beam search of this width and penalty; of samples none is known.
    """
    worst = Worst()
    settings, alone = case.own, case.alone(case.own)
    orders = [(f"batch {size} against 1", list(range(len(case.sources))), size) for size in BATCH_SIZES]
    if not settings["sampling"]:  # samples belong to the place in the input
        orders.append(("backwards", orders[0][1][::-1], BATCH_SIZES[0]))
    for name, order, size in orders:
        found = case.generate([case.sources[number] for number in order], **settings, batch_size=size)
        for number, outputs in zip(order, found, strict=True):
            longest = 1 + max((len(output.tokens) for output in alone[number]), default=0)
            gap: float | Callable[[], float] = partial(case.gap, case.sources[number], settings, longest)
            if settings["sampling"]:
                gap = float("inf")
            case.compare(worst, f"source {number + 1}, {name}", outputs, alone[number], gap)
    checked = f"{count(len(case.sources), 'source')}, sizes 1, {', '.join(map(str, BATCH_SIZES))}"
    return worst.result(3, "own settings: batches", checked, case.tolerance, [_named(case)])


def own_scores(case: Case) -> CheckResult:
    """4. Under its own settings, too, lists are sorted, and log p and scores are those of the tokens."""
    worst = Worst()
    settings, lists = case.own, case.alone(case.own)
    for number, outputs in enumerate(lists, 1):
        scores = [output.score for output in outputs]
        if not 1 <= len(outputs) <= settings["n_best"]:
            worst.complain(f"source {number}: {len(outputs)} hypotheses, and n_best is {settings['n_best']}")
        if scores != sorted(scores, reverse=True):
            worst.complain(f"source {number}: the scores are not sorted: {scores}")
    pairs = [(source, output) for source, outputs in zip(case.sources, lists, strict=True) for output in outputs]
    expected = forced(case.way, [source for source, _ in pairs], [output.tokens for _, output in pairs])
    for (_, output), logprobs in zip(pairs, expected, strict=True):
        worst.measure(deviation(np.array(output.token_logprobs), logprobs, case.scale))
        if settings["renormalize"]:
            continue  # scored by what was left at each step, which the tokens alone do not say
        scores = [
            penalised(total, len(output.tokens), settings["length_penalty"], settings["length_alpha"])
            for total in _totals(case, output, logprobs, settings)
        ]
        worst.measure(min(abs(output.score - score) / max(case.scale, abs(score)) for score in scores))
    also = ["renormalize: scores are not compared"] if settings["renormalize"] else []
    return worst.result(4, "own settings: scores", f"{len(pairs):,} hypotheses", case.tolerance, also)


def _totals(case: Case, output: Output, logprobs: NDArray[np.float64], settings: dict[str, Any]) -> list[float]:
    """What the log p of the tokens may sum up to.

    Forced tokens are not penalised for being repeated, and may be free. Whether the last token was forced, the tokens
    do not say: it was, with ``force_end``, where the limit left room for nothing else; then there are two sums.
    """
    prefix, is_free = case.way.prefix(settings), settings["forced_score"] == "free"
    counted, seen = [], {case.way.bos_id}
    for place, (token, logprob) in enumerate(zip(output.tokens, logprobs.tolist(), strict=True)):
        if place < len(prefix):
            counted.append(0.0 if is_free else logprob)
        else:
            counted.append(logprob * (settings["repetition_penalty"] if token in seen else 1.0))
        seen.add(token)
    totals = [sum(counted)]
    if settings["force_end"] and output.finish_reason == "eos":
        totals.append(sum(counted[:-1]) + (0.0 if is_free else float(logprobs[-1])))
    return totals


def own_again(case: Case) -> CheckResult:
    """12. Under its own settings, too, the same call gives the same answer, to the last bit."""
    worst = Worst()
    first, second = (case.generate(case.sources, **case.own) for _ in range(2))
    for number, (one, other) in enumerate(zip(first, second, strict=True), 1):
        if one != other:
            worst.complain(f"source {number}: another answer the second time")
    return worst.result(12, "own settings: the same again", count(len(case.sources), "source"), None)


def _named(case: Case) -> str:
    """The settings, where they are not the package's."""
    plain = type(case.way.own)().model_dump()
    changed = {name: value for name, value in case.own.items() if value != plain[name]}
    return ", ".join(f"{name}: {value}" for name, value in changed.items()) or "the settings are the package's"


OWN: tuple[Callable[[Case], CheckResult], ...] = (own_batches, own_scores, own_again)
"""Every check of this file, in the contract's order."""
