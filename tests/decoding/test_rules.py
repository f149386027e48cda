"""What is forbidden, demanded or discouraged, in search over toys, against definitions in plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_steps import BOS, EOS, SUPPRESSED, Toy, ToyStep

from pellucid.config import DecodingConfig
from pellucid.decoding.hypothesis import Hypothesis
from pellucid.decoding.rules import TokenRules, repeated
from pellucid.decoding.search import Sentence, search
from pellucid.errors import ConfigError, GenerationError


def run(
    toy: Toy, sentences: list[Sentence], rules: dict[str, Any] | None = None, **config: Any
) -> list[list[Hypothesis]]:
    token_rules = TokenRules(BOS, EOS, **{"forbidden": SUPPRESSED, **(rules or {})})
    step = ToyStep(toy, range(len(sentences)), toy.vocab_size)
    return search(step, sentences, DecodingConfig(**config), token_rules)


def written(results: list[list[Hypothesis]]) -> list[tuple[int, ...]]:
    return [tuple(hypothesis.tokens) for hypotheses in results for hypothesis in hypotheses]


WAYS = [{"beam_size": 1}, {"beam_size": 4, "n_best": 4}, {"sampling": True, "n_best": 3}]
ways = pytest.mark.parametrize("way", WAYS)


@ways
def test_min_length(way: dict[str, Any]) -> None:
    toy = Toy(1, 8, eos_bias=3.0)
    assert min(map(len, written(run(toy, [Sentence(9)] * 20, **way)))) < 4
    assert min(map(len, written(run(toy, [Sentence(9)] * 20, min_length=4, **way)))) == 4


@ways
def test_forbidden_and_allowed_tokens(way: dict[str, Any]) -> None:
    toy = Toy(2, 12)
    found = written(run(toy, [Sentence(9)] * 20, {"forbidden": (*SUPPRESSED, 5, 6)}, **way))
    assert not {5, 6} & {token for tokens in found for token in tokens}
    found = written(run(toy, [Sentence(9)] * 20, {"allowed": (5, 6)}, **way))
    assert {token for tokens in found for token in tokens} == {5, 6}


@ways
def test_forbidden_sequences(way: dict[str, Any]) -> None:
    toy = Toy(3, 8, eos_bias=-2.0)  # tokens 1, 4, 5, 6, 7
    sequences = ((4, 4), (5, 6, 5), (1, 7))

    def has(tokens: tuple[int, ...]) -> bool:
        return any(tokens[i : i + len(s)] == s for s in sequences for i in range(len(tokens)))

    assert any(has(tokens) for tokens in written(run(toy, [Sentence(15)] * 20, **way)))
    found = written(run(toy, [Sentence(15)] * 20, {"forbidden_sequences": sequences}, **way))
    assert not any(has(tokens) for tokens in found)
    assert {4, 5, 6, 1, 7} == {token for tokens in found for token in tokens}


@ways
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_repeat_ngram(way: dict[str, Any], size: int) -> None:
    toy = Toy(4, 10, eos_bias=-3.0)

    def repeats(tokens: tuple[int, ...]) -> bool:
        grams = [tokens[i : i + size] for i in range(len(tokens) - size + 1)]
        return len(set(grams)) < len(grams)

    assert any(repeats(tokens) for tokens in written(run(toy, [Sentence(20)] * 10, **way)))
    found = written(run(toy, [Sentence(20)] * 10, no_repeat_ngram=size, **way))
    assert not any(repeats(tokens) for tokens in found)
    assert max(map(len, found)) > 4


@given(
    seed=st.integers(0, 1000),
    penalty=st.sampled_from([0.5, 1.3, 4.0]),
    limit=st.integers(2, 4),
    alpha=st.sampled_from([0.0, 0.6, 1.0]),
)
@settings(max_examples=40)
def test_repetition_penalty_is_exhaustive_too(seed: int, penalty: float, limit: int, alpha: float) -> None:
    """A wide beam maximises the penalised score exactly, and reports the model's own log p beside it."""
    toy = Toy(seed, 6)

    def best(prefix: tuple[int, ...], total: float) -> tuple[float, tuple[int, ...]]:
        found = (-math.inf, ())
        for token, logprob in enumerate(toy(0, prefix).tolist()):
            if token in SUPPRESSED or (token != EOS and len(prefix) + 1 == limit):
                continue
            scaled = total + (logprob * np.float32(penalty) if token in prefix else logprob)
            if token == EOS:
                found = max(found, (scaled / (len(prefix) + 1) ** alpha, prefix))
            else:
                found = max(found, best((*prefix, token), scaled))
        return found

    config = {"beam_size": 250, "length_penalty": "power", "length_alpha": alpha, "repetition_penalty": penalty}
    ((hypothesis,),) = run(toy, [Sentence(limit)], **config)
    score, tokens = best((), 0.0)
    assert hypothesis.score == pytest.approx(score, rel=1e-6)
    assert tuple(hypothesis.tokens) == tokens
    model = [float(toy(0, tokens[:t])[token]) for t, token in enumerate((*tokens, EOS))]
    assert hypothesis.token_logprobs == pytest.approx(model, abs=1e-6)


@ways
def test_forced_prefixes_belong_to_sentences(way: dict[str, Any]) -> None:
    toy = Toy(5, 9, eos_bias=-1.0)
    prefixes = [(), (4,), (7, 7, 5), (8, 1)]
    sentences = [Sentence(8, index, prefix) for index, prefix in enumerate(prefixes)]
    results = run(toy, sentences, **way)
    for sentence, hypotheses in zip(sentences, results, strict=True):
        for hypothesis in hypotheses:
            tokens = tuple(hypothesis.tokens)
            assert tokens[: len(sentence.prefix)] == sentence.prefix
            generated = [*tokens, EOS][: len(hypothesis.token_logprobs)]
            for t, (token, logprob) in enumerate(zip(generated, hypothesis.token_logprobs, strict=True)):
                assert logprob == float(toy(sentence.index, tokens[:t])[token])
    free = run(toy, sentences, forced_score="free", **way)
    for sentence, hypotheses in zip(sentences, free, strict=True):
        for hypothesis in hypotheses:
            counted = hypothesis.token_logprobs[len(sentence.prefix) :]
            assert hypothesis.score == pytest.approx(sum(counted) / len(hypothesis.token_logprobs))


@ways
def test_a_forced_prefix_comes_whatever_the_settings_say(way: dict[str, Any]) -> None:
    toy = Toy(5, 9, eos_bias=-1.0)
    sentence = Sentence(9, 0, (4, 4, 4, 5, 6))
    rules = {"forbidden_sequences": ((5, 6),)}
    for score in ("counted", "free"):
        for renormalize in (False, True):
            settings = {"no_repeat_ngram": 2, "forced_score": score, "renormalize": renormalize, **way}
            for hypothesis in run(toy, [sentence], rules, **settings)[0]:
                assert tuple(hypothesis.tokens[:5]) == sentence.prefix
                logprobs = [float(toy(0, sentence.prefix[:t])[token]) for t, token in enumerate(sentence.prefix)]
                assert hypothesis.token_logprobs[:5] == pytest.approx(logprobs)


@ways
def test_the_last_token_can_be_made_the_end(way: dict[str, Any]) -> None:
    toy = Toy(6, 8, eos_bias=-6.0)
    for sentence in run(toy, [Sentence(4), Sentence(6)], **way):
        assert {hypothesis.finish_reason for hypothesis in sentence} == {"length"}
    for limit, sentence in zip((4, 6), run(toy, [Sentence(4), Sentence(6)], force_end=True, **way), strict=True):
        assert {hypothesis.finish_reason for hypothesis in sentence} == {"eos"}
        assert {len(hypothesis.token_logprobs) for hypothesis in sentence} == {limit}


def test_rules_that_leave_nothing_are_named() -> None:
    with pytest.raises(GenerationError, match=r"text 1: after 4 tokens .* loosen min_length, no_repeat_ngram"):
        run(Toy(0, 8), [Sentence(30)], {"forbidden": (*SUPPRESSED, 1)}, no_repeat_ngram=1, min_length=20, beam_size=1)


def test_bad_prefixes() -> None:
    with pytest.raises(ConfigError, match="text 2: the forced prefix has 3 tokens, and only 3 may be generated"):
        run(Toy(0, 8), [Sentence(3), Sentence(3, 1, (4, 5, 6))])
    with pytest.raises(ConfigError, match="text 1: the forced prefix holds token 5, which is forbidden"):
        run(Toy(0, 8), [Sentence(3, 0, (5,))], {"allowed": (4, 6)})


def test_repeated_pairs_are_distinct() -> None:
    rows, tokens = repeated(np.array([[2, 5, 5, 2], [2, 7, 5, 7]]), 9)
    assert list(zip(rows.tolist(), tokens.tolist(), strict=True)) == [(0, 2), (0, 5), (1, 2), (1, 5), (1, 7)]
