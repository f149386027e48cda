"""Beam search against exhaustive search, a slow beam search and a greedy loop; and what it asks of a step function."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_steps import (
    BOS,
    EOS,
    SUPPRESSED,
    Found,
    Logprobs,
    Toy,
    ToyStep,
    beam_to_the_limit,
    exhaustive,
    greedy,
    penalised,
)

from pellucid.config import DecodingConfig
from pellucid.decoding.hypothesis import Hypothesis
from pellucid.decoding.rules import TokenRules
from pellucid.decoding.scoring import force
from pellucid.decoding.search import SearchStats, Sentence, search
from pellucid.errors import ConfigError, PellucidError

PENALTIES = [
    ("average", 1.0),
    ("power", 0.6),
    ("power", 0.0),
    ("power", 1.7),
    ("gnmt", 0.6),
    ("gnmt", 2.0),
    ("none", 1.0),
]

RULES = TokenRules(BOS, EOS, forbidden=SUPPRESSED)

toys = st.builds(
    Toy,
    seed=st.integers(0, 10_000),
    vocab_size=st.integers(4, 8),
    sharpness=st.sampled_from([0.0, 0.5, 2.0, 6.0, 30.0]),
    impossible=st.sampled_from([0.0, 0.0, 0.4]),
    eos_bias=st.sampled_from([-4.0, 0.0, 0.0, 3.0]),
    exact=st.booleans(),
)


def run(
    logprobs: Logprobs,
    limits: Sequence[int],
    config: DecodingConfig,
    *,
    vocab_size: int | None = None,
    sentences: Sequence[int] | None = None,
    stats: SearchStats | None = None,
) -> tuple[list[list[Hypothesis]], ToyStep]:
    size = vocab_size or logprobs.vocab_size
    step = ToyStep(logprobs, range(len(limits)) if sentences is None else sentences, size)
    return search(step, [Sentence(limit, index) for index, limit in enumerate(limits)], config, RULES, stats), step


def configured(beam_size: int, n_best: int = 1, penalty: tuple[str, float] = ("average", 1.0)) -> DecodingConfig:
    return DecodingConfig(beam_size=beam_size, n_best=n_best, length_penalty=penalty[0], length_alpha=penalty[1])


def found(hypotheses: Sequence[Hypothesis]) -> list[Found]:
    return [(hypothesis.score, tuple(hypothesis.tokens), hypothesis.finish_reason) for hypothesis in hypotheses]


def table(rows: dict[tuple[int, ...], dict[int, float]], size: int = 6) -> Logprobs:
    """Probabilities by prefix; what is not mentioned is impossible, and a prefix that is not mentioned ends."""

    def logprobs(_sentence: int, prefix: tuple[int, ...]) -> np.ndarray:
        values = np.full(size, -np.inf, np.float32)
        for token, probability in rows.get(prefix, {EOS: 1.0}).items():
            values[token] = math.log(probability)
        return values

    return logprobs


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("n_best", [1, 3, 20])
@pytest.mark.parametrize(("sharpness", "eos_bias"), [(1.0, 0.0), (4.0, -2.0), (12.0, 0.0)])
def test_a_beam_as_wide_as_the_number_of_prefixes_is_exhaustive(
    penalty: tuple[str, float], n_best: int, sharpness: float, eos_bias: float
) -> None:
    limits = [4, 1, 3, 4, 2]
    for seed in range(4):
        toy = Toy(seed, 6, sharpness, eos_bias=eos_bias)  # three ordinary tokens and </s>
        results, _ = run(
            toy, limits, configured(27 * 4, n_best, penalty)
        )  # prefixes of 4 tokens: 3³ live ones, 4 ways on
        for sentence, limit in enumerate(limits):
            expected = exhaustive(toy, sentence, limit, *penalty)[:n_best]
            assert found(results[sentence]) == [(pytest.approx(score, rel=1e-12), *rest) for score, *rest in expected]


@given(toy=toys, limit=st.integers(1, 3), n_best=st.integers(1, 8), penalty=st.sampled_from(PENALTIES))
@settings(max_examples=150)
def test_wide_beams_are_exhaustive_for_any_model(toy: Toy, limit: int, n_best: int, penalty: tuple[str, float]) -> None:
    expected = exhaustive(toy, 0, limit, *penalty)
    if not expected:
        with pytest.raises(PellucidError, match="no token"):
            run(toy, [limit], configured(250, n_best, penalty))
        return
    results, _ = run(toy, [limit], configured(250, n_best, penalty))
    # Among equal scores any choice is right, so scores are compared, and that each entry is one of the sequences.
    assert [h.score for h in results[0]] == pytest.approx([score for score, _, _ in expected[:n_best]], rel=1e-12)
    assert {one[1:] for one in found(results[0])} <= {one[1:] for one in expected}


@given(
    toy=toys,
    limits=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    beam_size=st.integers(1, 6),
    n_best=st.integers(1, 6),
    penalty=st.sampled_from(PENALTIES),
)
@settings(max_examples=400)
def test_stopping_early_changes_nothing(
    toy: Toy, limits: list[int], beam_size: int, n_best: int, penalty: tuple[str, float]
) -> None:
    """The same as a plain Python beam search that goes on to the limit; exactly, ties included."""
    n_best = min(n_best, beam_size)
    expected = [beam_to_the_limit(toy, i, limit, beam_size, *penalty)[:n_best] for i, limit in enumerate(limits)]
    if not all(expected):
        with pytest.raises(PellucidError, match="no token"):
            run(toy, limits, configured(beam_size, n_best, penalty))
        return
    results, step = run(toy, limits, configured(beam_size, n_best, penalty))
    assert [found(hypotheses) for hypotheses in results] == expected
    assert max(step.widths) <= beam_size and step.widths[0] == 1


@given(toy=toys, limits=st.lists(st.integers(1, 30), min_size=1, max_size=5), penalty=st.sampled_from(PENALTIES))
def test_a_beam_of_one_is_greedy(toy: Toy, limits: list[int], penalty: tuple[str, float]) -> None:
    expected = [greedy(toy, sentence, limit) for sentence, limit in enumerate(limits)]
    if any(-math.inf in scores for _, scores, _ in expected):
        with pytest.raises(PellucidError, match="no token"):
            run(toy, limits, configured(1, 1, penalty))
        return
    results, step = run(toy, limits, configured(1, 1, penalty))
    for (hypothesis,), (tokens, scores, reason) in zip(results, expected, strict=True):
        assert (hypothesis.tokens, hypothesis.token_logprobs, hypothesis.finish_reason) == (tokens, scores, reason)
        assert hypothesis.score == pytest.approx(penalised(math.fsum(scores), len(scores), *penalty), rel=1e-12)
    assert "reorder" not in step.calls
    assert step.widths == [1] * max(len(scores) for _, scores, _ in expected)  # and no step more than needed


def test_greedy_compares_tokens_not_rounded_sums() -> None:
    """After 400 tokens of log p = -1 a sum in float32 no longer tells 1e-5 apart; greedy search does."""

    def logprobs(_sentence: int, prefix: tuple[int, ...]) -> np.ndarray:
        close = [-1.00001, -1.0] if len(prefix) % 2 else [-1.0, -1.00001]
        return np.array([-50, -50, -50, -50, *close], np.float32)

    results, _ = run(logprobs, [400], configured(1), vocab_size=6)
    assert results[0][0].tokens == [4, 5] * 200
    assert results[0][0].finish_reason == "length"


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_sentence_does_not_depend_on_its_batch(beam_size: int) -> None:
    config = configured(beam_size, n_best=beam_size, penalty=("gnmt", 0.8))
    toy = Toy(7, 12, sharpness=2.0)
    sentences = list(range(40))
    limits = [1 + (i * 7) % 15 for i in sentences]
    alone = [run(toy, [limits[i]], config, sentences=[i])[0][0] for i in sentences]
    together, step = run(toy, limits, config)
    assert together == alone
    assert step.calls.count("select") > 3  # sentences left one after another
    backwards, _ = run(toy, limits[::-1], config, sentences=sentences[::-1])
    assert backwards == alone[::-1]
    some = [31, 2, 17, 5]
    assert run(toy, [limits[i] for i in some], config, sentences=some)[0] == [alone[i] for i in some]


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_first_of_n_best_is_the_one_best_and_the_lists_are_prefixes_of_each_other(
    penalty: tuple[str, float],
) -> None:
    for seed in range(5):
        toy = Toy(seed, 9, sharpness=2.0, exact=seed % 2 == 0)
        limits = [8, 3, 12, 5]
        longest, _ = run(toy, limits, configured(6, 6, penalty))
        for n_best in range(1, 6):
            shorter, _ = run(toy, limits, configured(6, n_best, penalty))
            assert shorter == [hypotheses[:n_best] for hypotheses in longest]


@given(toy=toys, limits=st.lists(st.integers(1, 10), min_size=1, max_size=3), penalty=st.sampled_from(PENALTIES))
def test_n_best_is_sorted_distinct_and_reproduced_by_forced_scoring(
    toy: Toy, limits: list[int], penalty: tuple[str, float]
) -> None:
    toy = dataclasses.replace(toy, impossible=0.0)
    results, _ = run(toy, limits, configured(5, 5, penalty))
    for sentence, hypotheses in enumerate(results):
        scores = [hypothesis.score for hypothesis in hypotheses]
        assert scores == sorted(scores, reverse=True) and 1 <= len(hypotheses) <= 5
        assert len({(tuple(h.tokens), h.finish_reason) for h in hypotheses}) == len(hypotheses)
        generated = [h.tokens + [EOS] * (h.finish_reason == "eos") for h in hypotheses]
        forced = force(ToyStep(toy, [sentence] * len(hypotheses), toy.vocab_size), generated, bos_id=BOS)
        assert forced == [h.token_logprobs for h in hypotheses]
        for hypothesis, logprobs in zip(hypotheses, forced, strict=True):
            assert hypothesis.sum_logprob == math.fsum(logprobs)
            expected = penalised(math.fsum(logprobs), len(logprobs), *penalty)
            assert hypothesis.score == pytest.approx(expected, rel=1e-12, abs=1e-300)


def test_finished_hypotheses_leave_the_beam_and_it_grows_again() -> None:
    model = table(
        {
            (): {4: 0.5, EOS: 0.3, 5: 0.2},
            (4,): {EOS: 0.9, 4: 0.06, 5: 0.04},
            (5,): {EOS: 0.1, 4: 0.45, 5: 0.45},
            (4, 4): {4: 0.5, 5: 0.4, EOS: 0.1},
        }
    )
    results, step = run(model, [4], configured(2, 2, ("average", 1.0)), vocab_size=6)
    # Step 1 keeps 4 (0.5) and </s> (0.3): one row lives. Step 2 keeps 4 </s> (0.45) and 4 4 (0.03): one row.
    # Step 3 keeps 4 4 4 (0.015) and 4 4 5 (0.012): two rows, which end with certainty.
    assert step.widths == [1, 1, 1, 2]
    (first, second) = results[0]
    assert (first.tokens, first.score) == ([4], pytest.approx(math.log(0.45) / 2))
    assert (second.tokens, second.score) == ([4, 4, 4], pytest.approx(math.log(0.015) / 4))


def test_average_prefers_what_only_the_exact_rule_waits_for() -> None:
    """A hypothesis that ends first, and a better one that has fallen far behind by then."""
    rows = {(): {EOS: 0.6, 4: 0.4}, **{(4,) * n: {4: 0.99, EOS: 0.01} for n in range(1, 9)}}
    results, _ = run(table(rows), [10], configured(2), vocab_size=6)
    assert results[0][0].tokens == [4] * 9 and results[0][0].finish_reason == "eos"
    assert results[0][0].score == pytest.approx((math.log(0.4) + 8 * math.log(0.99)) / 10)
    shorter, _ = run(table(rows), [10], configured(2, penalty=("none", 1.0)), vocab_size=6)
    assert shorter[0][0].tokens == []


@pytest.mark.parametrize("beam_size", [1, 4])
def test_the_limit_cuts_and_says_so(beam_size: int) -> None:
    never = table({(): {4: 0.6, 5: 0.4}, (4,): {4: 0.6, 0: 0.4}, (5,): {5: 1.0}, (4, 4): {4: 1.0}, (5, 5): {5: 1.0}})
    results, step = run(never, [3], configured(beam_size, beam_size), vocab_size=6)
    best = ([4, 4, 4], 0.36) if beam_size == 1 else ([5, 5, 5], 0.4)
    assert (results[0][0].tokens, results[0][0].score) == (best[0], pytest.approx(math.log(best[1]) / 3))
    assert [h.finish_reason for h in results[0]] == ["length"] * min(beam_size, 2)
    assert len(step.widths) == 3


def test_a_cut_hypothesis_never_competes_with_a_finished_one() -> None:
    model = table({(): {4: 0.99, EOS: 0.01}, (4,): {4: 1.0}, (4, 4): {4: 1.0}})
    results, _ = run(model, [3], configured(3, 3), vocab_size=6)
    assert found(results[0]) == [(pytest.approx(math.log(0.01)), (), "eos")]


@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_limit_of_one(beam_size: int) -> None:
    model = table({(): {4: 0.5, EOS: 0.3, 5: 0.2}})
    results, step = run(model, [1, 1], configured(beam_size, beam_size), vocab_size=6)
    expected = [((4,), "length")] if beam_size == 1 else [((), "eos")]
    assert [one[1:] for one in found(results[1])] == expected
    assert step.calls == ["step"]


@pytest.mark.parametrize("beam_size", [1, 5])
def test_all_mass_on_eos(beam_size: int) -> None:
    results, step = run(table({}), [50, 50], configured(beam_size, beam_size), vocab_size=6)
    assert results == [[Hypothesis([], [0.0], 0.0, "eos")]] * 2
    assert step.calls == ["step"]


def test_suppressed_tokens_are_never_generated_and_the_others_keep_their_log_p() -> None:
    model = table({(): {0: 0.5, BOS: 0.3, 4: 0.15, EOS: 0.05}, (4,): {0: 0.9, EOS: 0.1}})
    results, _ = run(model, [5], configured(4, 4), vocab_size=6)
    assert [h.tokens for h in results[0]] == [[4], []]
    assert results[0][0].token_logprobs == pytest.approx([math.log(0.15), math.log(0.1)])
    step = ToyStep(model, [0], 6)
    free = search(step, [Sentence(5)], configured(4, 4), TokenRules(BOS, EOS))
    assert [0] in [h.tokens for h in free[0]]


def test_a_sentence_without_any_possible_token_is_an_error() -> None:
    with pytest.raises(
        PellucidError,
        match="text 1: after 1 tokens no token with a probability above 0 may follow: check the checkpoint",
    ):
        run(table({(): {4: 1.0}, (4,): {0: 1.0}}), [5], configured(3), vocab_size=6)


def test_a_dead_end_beside_a_finished_hypothesis_is_none() -> None:
    results, _ = run(table({(): {4: 0.9, EOS: 0.1}, (4,): {0: 1.0}}), [5], configured(3), vocab_size=6)
    assert [h.tokens for h in results[0]] == [[]]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nan_is_an_error(sign: float) -> None:
    def broken(_sentence: int, prefix: tuple[int, ...]) -> np.ndarray:
        values = np.full(6, -1.0, np.float32)
        values[5] = np.copysign(np.nan, sign) if prefix else -1.0
        return values

    with pytest.raises(PellucidError, match="NaN"):
        run(broken, [5], configured(2), vocab_size=6)


def test_logits_are_refused() -> None:
    with pytest.raises(AssertionError, match="not logits"):
        run(lambda _sentence, _prefix: np.arange(6, dtype=np.float32), [5], configured(2), vocab_size=6)


def test_rounding_above_zero_does_not_count() -> None:
    def sure(_sentence: int, prefix: tuple[int, ...]) -> np.ndarray:
        values = np.full(6, -20, np.float32)
        values[EOS if len(prefix) == 3 else 4] = 1e-7
        return values

    results, _ = run(sure, [9], configured(2), vocab_size=6)
    assert results[0][0] == Hypothesis([4, 4, 4], [0.0] * 4, 0.0, "eos")


def test_empty_batch_and_impossible_limit() -> None:
    assert run(table({}), [], configured(2), vocab_size=6)[0] == []
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        run(table({}), [3, 0], configured(2), vocab_size=6)


def test_statistics_count_what_was_computed_and_what_exactness_cost() -> None:
    # All have their best after two steps. The first and the third are sure of it at once; in the second a live row
    # could still beat it, until the limit cuts that.
    open_ended = {(): {4: 1.0}, (4,): {EOS: 0.5, 4: 0.5}, **{(4,) * n: {4: 0.9, EOS: 0.1} for n in (2, 3)}}
    models = [table({(): {4: 1.0}}), table(open_ended), table({(): {4: 0.6, 5: 0.4}})]
    stats = SearchStats()
    results, step = run(
        lambda sentence, prefix: models[sentence](0, prefix), [9, 4, 9], configured(2), vocab_size=6, stats=stats
    )
    assert [h.tokens for (h,) in results] == [[4], [4], [4]]
    assert step.calls == ["step", "reorder", "step", "select", "reorder", "step", "step"]
    assert step.widths == [1, 2, 1, 1]
    assert stats == SearchStats(
        sentences=3,
        steps=4,
        rows=3 + 6 + 1 + 1,
        live_rows=3 + 4 + 1 + 1,
        sentence_steps=2 + 4 + 2,
        settled_steps=2 + 2 + 2,
    )
    run(models[0], [9], configured(2), vocab_size=6, stats=stats)
    assert (stats.sentences, stats.steps, stats.settled_steps) == (4, 6, 8)
