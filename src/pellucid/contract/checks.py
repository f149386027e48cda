"""The items of the contract that any way of generating can be asked: 1 to 7 and 12.

Each check is a function of a :class:`~pellucid.contract.case.Case`; it looks at what comes out, never inside.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from pellucid.contract.case import BEAM, FEW, GREEDY, PENALTIES, Case, count
from pellucid.contract.reference import exhaustive, forced, penalised
from pellucid.contract.results import CheckResult, Worst, deviation
from pellucid.contract.ways import Output

__all__ = ["OUTSIDE"]

BATCH_SIZES = (8, 64)
SETTINGS = (("greedy", GREEDY), ("beam 4, 4 best", BEAM))
SAMPLES: dict[str, Any] = {"sampling": True, "n_best": 2, "seed": 7}


def parallel_is_serial(case: Case) -> CheckResult:
    """1. Teacher-forced logits equal those of feeding the target token by token."""
    worst = Worst()
    pairs = zip(case.way.serial(case.few, case.targets), case.way.parallel(case.few, case.targets), strict=True)
    found, expected = (case.possible(np.concatenate(side)) for side in zip(*pairs, strict=True))
    worst.measure(deviation(found, expected))
    return worst.result(1, "one parallel pass = token by token", f"{len(found):,} positions, ragged", case.tolerance)


def cached_is_uncached(case: Case) -> CheckResult:
    """2. Same tokens and scores as a search that keeps nothing and computes every prefix from its beginning."""
    worst = Worst()
    for name, settings in SETTINGS:
        _against_reference(case, worst, name, {**settings, "length_penalty": "none", "max_length": case.few_limit})
    checked = f"{count(len(case.few), 'source')}, greedy and beam 4"
    return worst.result(2, "as from scratch, without a cache", checked, case.tolerance)


def _against_reference(case: Case, worst: Worst, name: str, settings: dict[str, Any]) -> None:
    found = case.generate(case.few, **settings)
    references = case.reference(case.few, settings)
    for source, outputs, reference in zip(case.few, found, references, strict=True):
        case.compare(worst, f"{case.place(source)}, {name}", outputs, reference.outputs, reference.gap)


def batch_size(case: Case) -> CheckResult:
    """3. A sentence's output does not depend on the batch size."""
    worst = Worst()
    for name, settings in SETTINGS:
        for size in BATCH_SIZES:
            found = case.generate(case.sources, **settings, batch_size=size)
            _as_alone(case, worst, f"{name}, batch {size} against 1", found, settings)
    checked = f"{count(len(case.sources), 'source')}, sizes 1, {', '.join(map(str, BATCH_SIZES))}"
    return worst.result(3, "batch size", checked, case.tolerance)


def batch_order(case: Case) -> CheckResult:
    """3. Nor on what else is in the batch, and where."""
    worst, rng = Worst(), random.Random(3)
    for name, settings in SETTINGS:
        order = rng.sample(range(len(case.sources)), len(case.sources))
        found: list[list[Output]] = [[] for _ in order]
        for start in range(0, len(order), 8):
            chosen = order[start : start + 8]
            results = case.generate([case.sources[index] for index in chosen], **settings, batch_size=8)
            for index, outputs in zip(chosen, results, strict=True):
                found[index] = outputs
        _as_alone(case, worst, f"{name}, shuffled", found, settings)
    return worst.result(
        3, "order and neighbours", f"{count(len(case.sources), 'source')}, batches of 8", case.tolerance
    )


def batch_padding(case: Case) -> CheckResult:
    """3. Nor on the padding that a long neighbour brings."""
    worst = Worst()
    some = case.sources[: 4 * FEW]
    longest = sorted(case.sources, key=len)[-1]
    for name, settings in SETTINGS:
        found: list[list[Output]] = []
        for start in range(0, len(some), FEW):
            part = some[start : start + FEW]
            found += case.generate([*part, longest], **settings, batch_size=FEW + 1)[: len(part)]
        _as_alone(case, worst, f"{name}, padded", found, settings)
    return worst.result(3, "padding", f"{count(len(some), 'source')} beside the longest one", case.tolerance)


def thread_count(case: Case) -> CheckResult:
    """3. Nor on the number of threads."""
    worst = Worst()
    some = case.sources[: 2 * FEW]
    for name, settings in SETTINGS:
        for threads in (1, 2):
            with case.way.threads(threads):
                found = case.generate(some, **settings, batch_size=8)
            _as_alone(case, worst, f"{name}, threads {threads}", found, settings)
    return worst.result(3, "threads", f"{count(len(some), 'source')}, 1 and 2 threads", case.tolerance)


def _as_alone(case: Case, worst: Worst, name: str, found: Sequence[Sequence[Output]], settings: dict[str, Any]) -> None:
    """Compare the outputs of the first sources with those of each by itself."""
    alone = case.alone(settings)
    for number, outputs in enumerate(found):
        source, expected = case.sources[number], alone[number]
        gap = partial(case.gap, source, settings, 1 + max(len(output.tokens) for output in expected))
        case.compare(worst, f"{case.place(source)}, {name}", outputs, expected, gap)


def beam_of_one(case: Case) -> CheckResult:
    """4. A beam of 1 takes the most probable token at every step."""
    worst = Worst()
    for penalty, alpha in PENALTIES:
        settings = {**GREEDY, "length_penalty": penalty, "length_alpha": alpha, "max_length": case.few_limit}
        _against_reference(case, worst, penalty, settings)
    checked = f"{count(len(case.few), 'source')}, {len(PENALTIES)} length penalties"
    return worst.result(4, "a beam of 1 is greedy", checked, case.tolerance)


def best_of_n(case: Case) -> CheckResult:
    """4. The first of the n best is the one best; the list is sorted and distinct."""
    worst = Worst()
    lists = case.alone(BEAM)
    singles = case.generate(case.sources, **{**BEAM, "n_best": 1})
    for number, (outputs, single) in enumerate(zip(lists, singles, strict=True)):
        place = f"source {number + 1}"
        scores = [output.score for output in outputs]
        if not 1 <= len(outputs) <= BEAM["n_best"] or len(single) != 1:
            worst.complain(f"{place}: {len(outputs)} hypotheses, and {len(single)} where one was asked for")
            continue
        if scores != sorted(scores, reverse=True):
            worst.complain(f"{place}: the scores are not sorted: {scores}")
        if len({(output.tokens, output.finish_reason) for output in outputs}) < len(outputs):
            worst.complain(f"{place}: the list has the same hypothesis twice")
        gap = scores[0] - scores[1] if len(scores) > 1 else float("inf")
        case.compare(worst, place, single, outputs[:1], gap)
    checked = count(len(lists), "list") + f" of up to {BEAM['n_best']}"
    return worst.result(4, "n-best: first, sorted, distinct", checked, case.tolerance)


def scores_are_forced_scores(case: Case) -> CheckResult:
    """4. Every score is reproduced by forcing the model to say these tokens, under every length penalty."""
    worst = Worst()
    checked = 0
    for penalty, alpha in PENALTIES:
        chosen = {"length_penalty": penalty, "length_alpha": alpha}
        default = all(case.neutral[name] == value for name, value in chosen.items())
        sources = case.sources if default else case.few
        lists = case.alone(BEAM) if default else case.generate(sources, **BEAM, **chosen, max_length=case.few_limit)
        pairs = [(source, o) for source, outputs in zip(sources, lists, strict=True) for o in outputs]
        expected = forced(case.way, [source for source, _ in pairs], [output.tokens for _, output in pairs])
        checked += len(pairs)
        for (_, output), logprobs in zip(pairs, expected, strict=True):
            worst.measure(deviation(np.array(output.token_logprobs), logprobs, case.scale))
            score = penalised(float(logprobs[case.free_tokens({}) :].sum()), len(output.tokens), penalty, alpha)
            worst.measure(abs(output.score - score) / max(case.scale, abs(score)))
    return worst.result(4, "n-best scores = forced scores", f"{checked:,} hypotheses", case.tolerance)


def exhaustive_search(case: Case) -> CheckResult:
    """5. On three words and </s>, a beam as wide as all prefixes finds what trying everything finds."""
    worst = Worst()
    limit, searches = 4, 0
    words = _likely_words(case, 3)
    sources = case.few[:3]
    for tokens in ([*words, case.way.eos_id], words):
        with case.way.restricted(tokens):
            for penalty, alpha in PENALTIES:
                for n_best in (1, 5):
                    chosen = {"n_best": n_best, "length_penalty": penalty, "length_alpha": alpha}
                    wide = {"beam_size": len(words) ** limit + 40, "max_length": limit, "prefix_tokens": ()}
                    found = case.generate(sources, **wide, **chosen)
                    for source, outputs in zip(sources, found, strict=True):
                        reference = exhaustive(
                            case.way, source, tokens, max_length=limit, n_best=n_best, penalty=penalty, alpha=alpha
                        )
                        place = f"{case.place(source)}, {penalty}, {n_best} best"
                        case.compare(worst, place, outputs, reference.outputs, reference.gap)
                        searches += 1
    checked = f"{searches} searches of 3 words, {limit} steps, {len(PENALTIES)} penalties"
    return worst.result(5, "a wide beam = exhaustive search", checked, case.tolerance)


def _likely_words(case: Case, wanted: int) -> list[int]:
    """The words that are generated most often, and others if there are too few."""
    tokens = [token for found in case.alone(GREEDY) for token in found[0].tokens]
    vocabulary = case.way.parallel(case.few[:1], [[case.way.eos_id]])[0].shape[-1]
    often = sorted(set(tokens), key=lambda token: (-tokens.count(token), token))
    never = {case.way.eos_id, *case.way.suppressed}
    return [token for token in dict.fromkeys([*often, *range(vocabulary)]) if token not in never][:wanted]


def exact_stopping(case: Case) -> CheckResult:
    """6. Stopping early changes nothing: the same lists as a search that always goes on to the limit."""
    worst = Worst()
    for penalty, alpha in PENALTIES:
        for n_best in (1, 4):
            chosen = {"length_penalty": penalty, "length_alpha": alpha, "max_length": case.few_limit}
            _against_reference(case, worst, f"{penalty}, {n_best} best", {"beam_size": 4, "n_best": n_best, **chosen})
    checked = f"{count(len(case.few), 'source')}, {len(PENALTIES)} penalties, 1 and 4 best"
    return worst.result(6, "stopping is exact", checked, case.tolerance)


def model_decides_length(case: Case) -> CheckResult:
    """7. Generation ends at </s>; a limit that is hit is reported and cuts without changing what comes before."""
    worst = Worst()
    whole = case.alone(GREEDY)
    for number, (output,) in enumerate(whole):
        ends = [place for place, token in enumerate(output.tokens, 1) if token == case.way.eos_id]
        if ends != ([len(output.tokens)] if output.finish_reason == "eos" else []):
            worst.complain(f"source {number + 1}: finish_reason {output.finish_reason}, but </s> at {ends}")
    cuts = 0
    for source, (output,) in zip(case.sources[:FEW], whole[:FEW], strict=True):
        shortest = len(case.way.prefix(case.neutral)) + 1  # one token of its own
        for limit in {limit for limit in (shortest, len(output.tokens) - 1, len(output.tokens)) if limit >= shortest}:
            (cut,) = case.generate([source], **GREEDY, max_length=limit)[0]
            reason = output.finish_reason if limit == len(output.tokens) else "length"
            expected = Output(output.tokens[:limit], output.token_logprobs[:limit], cut.score, reason)
            cuts += 1
            gap = partial(case.gap, source, GREEDY, limit)
            case.compare(worst, f"{case.place(source)}, max_length {limit}", [cut], [expected], gap)
    checked = f"{count(len(whole), 'output')}, {cuts} with a limit"
    ended = sum(output.finish_reason == "eos" for (output,) in whole)
    return worst.result(
        7, "the model decides the length", checked, case.tolerance, [f"{ended} of {len(whole)} ended in </s>"]
    )


def same_again(case: Case) -> CheckResult:
    """12. The same call gives the same answer, to the last bit; samples too, under the same seed."""
    worst = Worst()
    for name, settings in (*SETTINGS, ("samples", SAMPLES)):
        first, second = (case.generate(case.sources, **settings) for _ in range(2))
        for source, one, other in zip(case.sources, first, second, strict=True):
            if one != other:
                worst.complain(f"{case.place(source)}, {name}: another answer the second time")
    checked = f"{count(len(case.sources), 'source')}: greedy, beam 4, samples"
    return worst.result(12, "the same again", checked, None)


def samples_keep_to_their_source(case: Case) -> CheckResult:
    """3. Samples belong to (seed, input index): no batch changes them; and their log p is the model's."""
    worst = Worst()
    alone = case.alone(SAMPLES)
    for size in BATCH_SIZES:
        for source, outputs, expected in zip(
            case.sources, case.generate(case.sources, **SAMPLES, batch_size=size), alone, strict=True
        ):
            # How near a number drawn came to the edge between two tokens is known to the way alone: no near-ties here.
            case.compare(worst, f"{case.place(source)}, batch {size} against 1", outputs, expected, float("inf"))
    for source, outputs in zip(case.few, case.generate(case.few, **SAMPLES), strict=True):
        logprobs = forced(case.way, [source] * len(outputs), [output.tokens for output in outputs])
        for output, own in zip(outputs, logprobs, strict=True):
            worst.measure(deviation(np.array(output.token_logprobs), own, case.scale))
    if len(case.sources) > 2 and case.alone({**SAMPLES, "seed": SAMPLES["seed"] + 1}) == alone:
        worst.complain("another seed gives the same samples")
    return worst.result(3, "samples", f"{count(len(case.sources), 'source')}, 2 samples each", case.tolerance)


OUTSIDE: tuple[Callable[[Case], CheckResult], ...] = (
    parallel_is_serial,
    cached_is_uncached,
    batch_size,
    batch_order,
    batch_padding,
    thread_count,
    samples_keep_to_their_source,
    beam_of_one,
    best_of_n,
    scores_are_forced_scores,
    exhaustive_search,
    exact_stopping,
    model_decides_length,
    same_again,
)
"""Every check of this file, in the contract's order."""
