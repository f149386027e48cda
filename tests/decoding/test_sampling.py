"""Samples follow the distribution that was asked for, and their random numbers belong to the input line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from toy_steps import BOS, EOS, SUPPRESSED, Toy, ToyStep

from pellucid.config import DecodingConfig
from pellucid.decoding import sampling
from pellucid.decoding.rules import TokenRules
from pellucid.decoding.sampling import draws, sample
from pellucid.decoding.search import Sentence, search


def config(**settings: Any) -> DecodingConfig:
    return DecodingConfig(sampling=True, **settings)


def cut(p: np.ndarray, settings: DecodingConfig) -> np.ndarray:
    """The distribution that is drawn from, by the definitions, one filter after the other."""
    p = p ** (1 / settings.temperature)
    p = p / p.sum()
    order = np.argsort(-p, kind="stable")

    def keep(kept: np.ndarray) -> None:
        nonlocal p
        p = np.where(np.isin(np.arange(len(p)), kept), p, 0)
        p = p / p.sum()

    if settings.top_k:
        keep(order[: settings.top_k])
    if settings.top_p < 1:
        sums = np.cumsum(p[order])
        keep(order[: int(np.argmax(sums >= settings.top_p)) + 1])
    if settings.min_p:
        keep(np.flatnonzero(p >= settings.min_p * p.max()))
    if settings.typical_p < 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.abs(-np.log(p) + np.nansum(p * np.log(p)))
        by_distance = np.argsort(np.where(p > 0, distance, np.inf), kind="stable")
        keep(by_distance[: int(np.argmax(np.cumsum(p[by_distance]) >= settings.typical_p)) + 1])
    return p


FILTERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_p": 0.8},
    {"top_p": 0.999},
    {"min_p": 0.1},
    {"typical_p": 0.6},
    {"temperature": 2.0, "top_k": 50, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.9},
]


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("vocab_size", [40, 700])
@pytest.mark.parametrize("sharpness", [0.3, 2.0])
def test_the_distribution_is_the_one_asked_for(filters: dict[str, Any], vocab_size: int, sharpness: float) -> None:
    """Inversion with evenly spaced numbers gives every token as many times as it is probable, give or take one."""
    settings = config(**filters)
    logits = np.random.default_rng(vocab_size).normal(size=vocab_size) * sharpness
    p = np.exp(logits) / np.exp(logits).sum()
    N = 4000
    logprobs = np.tile(np.log(p).astype(np.float32), (N, 1))
    tokens = sample(logprobs, (np.arange(N) + 0.5) / N, settings)
    counts = np.bincount(tokens, minlength=vocab_size)
    assert np.abs(counts - N * cut(p, settings)).max() <= 1.01


def test_the_first_candidates_are_only_a_short_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    logprobs = np.random.default_rng(1).normal(size=(30, 500)).astype(np.float32) - 7
    uniform = np.random.default_rng(2).random(30)
    for filters in FILTERS:
        expected = sample(logprobs, uniform, config(**filters))
        for count in (1, 3, 500):
            monkeypatch.setattr(sampling, "FIRST_CANDIDATES", count)
            assert np.array_equal(sample(logprobs, uniform, config(**filters)), expected)


def test_the_ends_of_the_range() -> None:
    logprobs = np.log(np.array([[0.0, 0.25, 0.75, 0.0]] * 2, np.float32) + 1e-30)
    logprobs[:, [0, 3]] = -np.inf
    assert sample(logprobs, np.array([0.0, 1 - 2**-53]), config()).tolist() == [1, 2]
    nothing = np.full((1, 5), -np.inf, np.float32)
    assert sample(nothing, np.array([0.5]), config(top_p=0.5, typical_p=0.5)).shape == (1,)  # search then says so


def test_random_numbers_belong_to_seed_input_and_sample() -> None:
    assert np.array_equal(draws(1, 2, 0, 5), draws(1, 2, 0, 9)[:5])
    others = [draws(2, 2, 0, 5), draws(1, 3, 0, 5), draws(1, 2, 1, 5)]
    assert not any(np.array_equal(draws(1, 2, 0, 5), other) for other in others)


def run(indices: list[int], **settings: Any) -> list[Any]:
    toy = Toy(9, 30)
    step = ToyStep(toy, [index % 7 for index in indices], 30)
    sentences = [Sentence(5 + index % 6, index) for index in indices]
    return search(step, sentences, config(**settings), TokenRules(BOS, EOS, SUPPRESSED))


def test_a_sample_does_not_depend_on_its_batch() -> None:
    together = run(list(range(25)), n_best=3, top_p=0.9)
    assert [run([index], n_best=3, top_p=0.9)[0] for index in range(25)] == together
    assert run(list(range(25))[::-1], n_best=3, top_p=0.9) == together[::-1]
    assert run(list(range(25)), n_best=3, top_p=0.9, seed=2) != together


def test_samples_are_sorted_scored_and_include_those_that_were_cut() -> None:
    results = run(list(range(40)), n_best=4)
    reasons = set()
    for hypotheses in results:
        assert len(hypotheses) == 4
        scores = [hypothesis.score for hypothesis in hypotheses]
        assert scores == sorted(scores, reverse=True)
        reasons |= {hypothesis.finish_reason for hypothesis in hypotheses}
        for hypothesis in hypotheses:
            assert hypothesis.score == pytest.approx(hypothesis.sum_logprob / len(hypothesis.token_logprobs))
    assert reasons == {"eos", "length"}
    fewer = run(list(range(40)), n_best=1)
    for one, four in zip(fewer, results, strict=True):
        assert one[0] in four  # sample 0 is the same, however many are drawn
