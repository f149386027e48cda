"""Named stopping rules, full beams and diverse beams, against slow searches written from their definitions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_steps import BOS, EOS, SUPPRESSED, Toy, ToyStep, penalised

from pellucid.config import DecodingConfig
from pellucid.decoding.diversity import candidates_needed
from pellucid.decoding.hypothesis import Hypothesis
from pellucid.decoding.rules import TokenRules
from pellucid.decoding.search import Search, SearchStats, Sentence, search

RULES = TokenRules(BOS, EOS, SUPPRESSED)
Live = list[tuple[float, tuple[int, ...]]]
Found = tuple[float, tuple[int, ...]]


def run(
    toy: Toy, limits: list[int], stats: SearchStats | None = None, **config: Any
) -> tuple[list[list[Hypothesis]], ToyStep]:
    step = ToyStep(toy, range(len(limits)), toy.vocab_size)
    sentences = [Sentence(limit, index) for index, limit in enumerate(limits)]
    return search(step, sentences, DecodingConfig(**config), RULES, stats), step


def choices(toy: Toy, sentence: int, live: Live) -> list[tuple[float, int, int]]:
    """(sum, row, token) of every continuation, best first."""
    found = [
        (total + float(logprob), row, token)
        for row, (total, prefix) in enumerate(live)
        for token, logprob in enumerate(toy(sentence, prefix))
        if token not in SUPPRESSED and logprob > -float("inf")
    ]
    return sorted(found, key=lambda choice: (-choice[0], choice[1], choice[2]))


def full_beam(toy: Toy, sentence: int, limit: int, width: int, stop: str, alpha: float) -> list[Found]:
    """Beam search as transformers does it: always full, and what was cut competes with what ended."""
    live: Live = [(0.0, ())]
    kept: list[Found] = []
    for length in range(1, limit + 1):
        ranked = choices(toy, sentence, live)[: 2 * width]
        ended = [
            (penalised(total, length, "power", alpha), (*live[row][1], token))
            for rank, (total, row, token) in enumerate(ranked)
            if rank < width and (token == EOS or length == limit)
        ]
        kept = sorted(kept + ended, key=lambda one: -one[0])[:width]
        live = [(total, (*live[row][1], token)) for total, row, token in ranked if token != EOS][:width]
        if not live or length == limit:
            break
        if stop == "top" and ranked[0][2] == EOS:
            break
        if len(kept) < width:
            continue
        best = {"heuristic": length, "exact": limit, "first_k": None}.get(stop, limit)
        if best is None or penalised(live[0][0], best, "power", alpha) <= kept[-1][0]:
            break
    return kept


def found(hypotheses: list[Hypothesis]) -> list[Found]:
    return [(h.score, (*h.tokens, EOS) if h.finish_reason == "eos" else tuple(h.tokens)) for h in hypotheses]


@given(
    seed=st.integers(0, 10_000),
    vocab_size=st.integers(5, 9),
    eos_bias=st.sampled_from([-2.0, 0.0, 2.0]),
    limits=st.lists(st.integers(1, 10), min_size=1, max_size=3),
    width=st.integers(2, 4),
    alpha=st.sampled_from([0.0, 0.6, 1.0]),
    stop=st.sampled_from(["exact", "first_k", "heuristic"]),
)
@settings(max_examples=200)
def test_full_beams(
    seed: int, vocab_size: int, eos_bias: float, limits: list[int], width: int, alpha: float, stop: str
) -> None:
    toy = Toy(seed, vocab_size, sharpness=2.0, eos_bias=eos_bias)
    results, step = run(
        toy, limits, beam_size=width, n_best=width, length_penalty="power", length_alpha=alpha, beam="full", stop=stop
    )
    for sentence, (limit, hypotheses) in enumerate(zip(limits, results, strict=True)):
        expected = full_beam(toy, sentence, limit, width, stop, alpha)
        assert found(hypotheses) == [(pytest.approx(score, rel=1e-12), tokens) for score, tokens in expected]
    assert max(step.widths) <= width


def test_a_full_beam_of_one_is_greedy() -> None:
    toy = Toy(8, 9, sharpness=2.0)
    full, _ = run(toy, [12] * 30, beam_size=1, beam="full", length_penalty="power", length_alpha=2.0)
    plain, _ = run(toy, [12] * 30, beam_size=1, length_penalty="power", length_alpha=2.0)
    assert full == plain


def test_cheaper_rules_stop_earlier() -> None:
    steps = {}
    for stop in ("exact", "heuristic", "first_k", "top"):
        stats = SearchStats()
        run(Toy(1, 40, sharpness=3.0, eos_bias=1.0), [30] * 30, stats, beam_size=4, stop=stop)
        steps[stop] = stats.sentence_steps
    assert steps["exact"] > steps["heuristic"] > steps["first_k"] > steps["top"]


def test_top_stops_when_the_best_of_a_step_ends() -> None:
    toy = Toy(2, 12, sharpness=2.0, eos_bias=1.0)
    results, _ = run(toy, [20] * 20, beam_size=3, n_best=3, stop="top")
    for sentence, hypotheses in enumerate(results):
        live: Live = [(0.0, ())]
        ends: list[Found] = []
        for length in range(1, 21):
            ranked = choices(toy, sentence, live)[:3]
            ends += [(total / length, (*live[row][1], EOS)) for total, row, token in ranked if token == EOS]
            live = [(total, (*live[row][1], token)) for total, row, token in ranked if token != EOS]
            if ranked[0][2] == EOS or not live:
                break
        expected = sorted(ends, key=lambda one: -one[0])[:3]
        assert found(hypotheses) == [(pytest.approx(score, rel=1e-12), tokens) for score, tokens in expected]


def diverse_beam(toy: Toy, sentence: int, limit: int, groups: int, width: int, strength: float) -> list[list[Found]]:
    """Vijayakumar et al. 2018, algorithm 1, to the limit: what ended in each group."""
    live: list[Live] = [[(0.0, ())] for _ in range(groups)]
    ended: list[list[Found]] = [[] for _ in range(groups)]
    for length in range(1, limit + 1):
        taken: list[int] = []
        for group in range(groups):
            ranked = choices(toy, sentence, live[group])
            # Stable: the order of equal ones is that of their plain sums.
            ranked = sorted(ranked, key=lambda choice: -(choice[0] - strength * taken.count(choice[2])))[:width]
            taken += [token for _, _, token in ranked]
            before = live[group]
            ended[group] += [(total / length, (*before[row][1], EOS)) for total, row, token in ranked if token == EOS]
            live[group] = [(total, (*before[row][1], token)) for total, row, token in ranked if token != EOS]
    return [sorted(found, key=lambda one: -one[0])[:width] for found in ended]


@given(
    seed=st.integers(0, 10_000),
    limit=st.integers(2, 7),
    groups=st.integers(2, 4),
    width=st.integers(1, 3),
    strength=st.sampled_from([0.0, 0.7, 5.0]),
)
@settings(max_examples=100)
def test_diverse_beams(seed: int, limit: int, groups: int, width: int, strength: float) -> None:
    toy = Toy(seed, 9, sharpness=2.0, eos_bias=1.0)
    config = {"beam_size": groups * width, "diversity_groups": groups, "diversity_strength": strength}
    results, _ = run(toy, [limit] * 3, n_best=groups * width, **config)
    for sentence, hypotheses in enumerate(results):
        groups_found = diverse_beam(toy, sentence, limit, groups, width, strength)
        expected = {one for found in groups_found for one in found}
        if expected:
            assert {tokens for _, tokens in found(hypotheses)} == {tokens for _, tokens in expected}
            assert [h.score for h in hypotheses] == sorted((score for score, _ in expected), reverse=True)


def test_groups_write_different_things() -> None:
    toy = Toy(3, 60, sharpness=1.0, eos_bias=2.0)
    plain, _ = run(toy, [8] * 20, beam_size=4, n_best=4)
    spread, _ = run(toy, [8] * 20, beam_size=4, n_best=4, diversity_groups=4, diversity_strength=5.0)

    def first_tokens(results: list[list[Hypothesis]]) -> int:
        return sum(len({tuple(h.tokens[:1]) for h in hypotheses}) for hypotheses in results)

    assert first_tokens(spread) > first_tokens(plain)
    for few, many in zip(
        run(toy, [8] * 20, beam_size=4, n_best=1, diversity_groups=4)[0],
        run(toy, [8] * 20, beam_size=4, n_best=4, diversity_groups=4)[0],
        strict=True,
    ):
        assert few[0] == many[0]


def test_enough_candidates_are_asked_for() -> None:
    assert candidates_needed(1, 5) == 5
    assert candidates_needed(4, 2) == 2 + 3 * 2 * 2


@pytest.mark.parametrize("config", [{"beam_size": 1}, {"beam_size": 5}, {"beam_size": 6, "diversity_groups": 3}])
def test_what_is_settled_stays(config: dict[str, Any]) -> None:
    """Streaming shows only what the result will begin with, and in greedy search every token at once."""
    for seed in range(30):
        toy = Toy(seed, 7, sharpness=5.0)
        step = ToyStep(toy, [0], 7)
        searching = Search(step, [Sentence(15)], DecodingConfig(**config), RULES)
        shown = []
        while searching.advance():
            shown.append(searching.settled(0))
        final = searching.results[0][0].tokens
        assert searching.settled(0) == final
        for tokens in shown:
            assert final[: len(tokens)] == tokens
        if config["beam_size"] == 1:
            assert [len(tokens) for tokens in shown] == list(range(1, len(shown) + 1))
