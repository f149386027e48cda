"""The options of generation on a trained model, in text: what they promise, what they refuse, streaming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pellucid
from pellucid import text_generator as text_generator_module
from pellucid.errors import ConfigError, DataError, GenerationError, LengthError
from pellucid.translator import Translator
from toys import SYMBOLS

WAYS: list[dict[str, Any]] = [
    {"beam_size": 1},
    {"beam_size": 4},
    {"beam_size": 4, "beam": "full", "stop": "heuristic"},
    {"beam_size": 4, "diversity_groups": 2},
    {"sampling": True, "top_p": 0.9, "seed": 7},
    {"beam_size": 3, "repetition_penalty": 1.4, "no_repeat_ngram": 3},
]


@pytest.fixture(scope="module")
def translator(tiny_run: Path) -> Translator:
    return pellucid.load(tiny_run, device="cpu")


@pytest.fixture(scope="module")
def sources() -> list[str]:
    symbols = SYMBOLS[:6]
    return [" ".join(symbols[(i * j) % 6] for j in range(1, 3 + i % 5)) for i in range(20)]


@pytest.mark.parametrize("way", WAYS)
def test_batches_change_nothing(translator: Translator, sources: list[str], way: dict[str, Any]) -> None:
    """Contract 3, for every way of generating; samples belong to the place in the input."""
    together = translator.generate(sources, batch_size=64, **way)
    for size in (1, 8):
        assert [g.text for g in translator.generate(sources, batch_size=size, **way)] == [g.text for g in together]
    alone = [translator.generate([text], first_index=i, **way)[0] for i, text in enumerate(sources)]
    assert [g.text for g in alone] == [g.text for g in together]


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_is_the_text_in_parts(translator: Translator, sources: list[str], way: dict[str, Any]) -> None:
    for index, (text, generation) in enumerate(zip(sources, translator.generate(sources, **way), strict=True)):
        parts = list(translator.stream(text, index=index, **way))
        assert "".join(parts) == generation.text
        assert all(parts)


def test_a_greedy_stream_comes_token_by_token(translator: Translator, sources: list[str]) -> None:
    generation = translator.generate(sources[4:5], beam_size=1)[0]
    parts = list(translator.stream(sources[4], beam_size=1))
    assert len(parts) == len(generation.hypotheses[0].tokens) - 1 > 1  # </s> is not written


def test_streaming_refuses_at_once(translator: Translator) -> None:
    with pytest.raises(ConfigError, match=r"n_best \(2\) must be 1 to stream"):
        translator.stream("a", n_best=2)
    assert list(translator.stream("  ")) == []


def test_a_prefix_is_text_for_all_or_for_each(translator: Translator, sources: list[str]) -> None:
    a, b = SYMBOLS[0], SYMBOLS[1]
    for generation in translator.generate(sources, prefix=f"{a} {b}", beam_size=2):
        assert generation.text.startswith(f"{a} {b}")
    prefixes = [a if i % 2 else "" for i in range(len(sources))]
    plain = translator.generate(sources)
    for i, generation in enumerate(translator.generate(sources, prefixes=prefixes)):
        assert generation.text.startswith(prefixes[i])
        assert i % 2 or generation.text == plain[i].text
    pieces = translator.generate(sources, prefix_tokens=plain[0].hypotheses[0].tokens[:1])
    assert {generation.hypotheses[0].tokens[0] for generation in pieces} == {plain[0].hypotheses[0].tokens[0]}
    with pytest.raises(DataError, match="20 sources and 1 prefixes"):
        translator.generate(sources, prefixes=[a])


def test_tokens_and_phrases(translator: Translator, sources: list[str]) -> None:
    plain = translator.generate(sources)
    used = plain[3].hypotheses[0].tokens[0]
    without = translator.generate(sources, forbidden_tokens=[used])
    assert not any(used in generation.hypotheses[0].tokens for generation in without)
    only = translator.generate(sources, allowed_tokens=[used])
    assert {token for generation in only for token in generation.hypotheses[0].tokens} <= {used, "</s>"}
    phrase = " ".join(plain[4].text.split()[:2])
    assert phrase not in translator.generate(sources, forbidden_phrases=[phrase])[4].text
    with pytest.raises(ConfigError, match="forbidden_tokens: 'nowhere' is not a piece of the target vocabulary"):
        translator.generate(sources, forbidden_tokens=["nowhere"])


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.7},
        {"beam_size": 4, "n_best": 4, "length_penalty": "gnmt", "length_alpha": 0.6},
        {"prefix": SYMBOLS[2], "forced_score": "free"},
        {"sampling": True, "n_best": 3, "temperature": 1.5},
    ],
)
def test_forced_scoring_gives_the_score_of_what_was_generated(
    translator: Translator, sources: list[str], settings: dict[str, Any]
) -> None:
    for text, generation in zip(sources, translator.generate(sources, **settings), strict=True):
        for hypothesis in generation.hypotheses:
            if hypothesis.finish_reason == "eos":
                (scored,) = translator.score([text], [hypothesis.text], **settings)
                if scored.tokens == hypothesis.tokens:  # text and tokens need not be one to one
                    assert scored.score == pytest.approx(hypothesis.score, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_length": 9, "max_length": 9}, "min_length .9. leaves no room"),
        ({"temperature": 0.5}, "temperature has no effect without sampling"),
        ({"sampling": True, "stop": "top"}, "stop is about search"),
        ({"beam_size": 4, "diversity_groups": 3}, "must divide beam_size"),
        ({"forbidden_tokens": ["a"], "allowed_tokens": ["a"]}, "'a' is in forbidden_tokens and in allowed_tokens"),
        ({"prefix": " ".join(SYMBOLS[:4]), "max_length": 3}, "only 3 may be generated"),
        ({"prefix": SYMBOLS[1], "forbidden_tokens": [SYMBOLS[1]]}, "the forced prefix holds '.*', which is forbidden"),
        ({"diversity_strength": 2.0}, "diversity_strength has no effect without groups"),
        ({"length_penalty": "gnmt", "length_alpha": -1.0}, "must not be below 0"),
    ],
)
def test_contradictions_are_named(translator: Translator, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        translator.generate(["a"], **settings)


def test_what_is_wrong_for_every_text_needs_no_text(translator: Translator) -> None:
    with pytest.raises(ConfigError, match="which is forbidden") as caught:
        translator.generate([], prefix=SYMBOLS[1], forbidden_tokens=[SYMBOLS[1]])
    assert caught.value.number is None


def test_a_prefix_that_does_not_fit_is_of_its_text(translator: Translator, sources: list[str]) -> None:
    prefixes = ["", " ".join(SYMBOLS * 9), ""]
    with pytest.raises(ConfigError, match="text 2: the forced prefix has") as caught:
        translator.generate(sources[:3], prefixes=prefixes, first_index=50)
    assert caught.value.number == 2


@pytest.mark.parametrize(("name", "most"), [("MOST_POSITIONS", 200), ("MOST_LOGPROBS", 200)])
def test_batches_are_small_where_texts_are_long(
    translator: Translator, sources: list[str], monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    expected = [generation.text for generation in translator.generate(sources)]
    started: list[int] = []
    start = translator._start

    def counted(ids: list[list[int]], sentences: Any) -> Any:
        started.append(len(ids))
        return start(ids, sentences)

    monkeypatch.setattr(text_generator_module, name, most)
    monkeypatch.setattr(translator, "_start", counted)
    assert [generation.text for generation in translator.generate(sources)] == expected
    assert max(started) < 6 and sum(started) == len(sources)


def test_a_target_has_a_longest_length_too(translator: Translator) -> None:
    with pytest.raises(LengthError, match=r"target 1: a sequence of 31 tokens is longer than max_source_length \(20\)"):
        translator.score(["ba"], [" ".join(["BA"] * 30)], max_source_length=20)


def test_inspect_is_greedy_whatever_the_models_settings(tiny_run: Path, sources: list[str]) -> None:
    translator = pellucid.load(tiny_run, device="cpu")
    expected = translator.inspect(sources[3]).target_tokens
    for settings in ({"sampling": True, "temperature": 3.0}, {"beam_size": 4, "diversity_groups": 2}):
        translator.decoding = translator.settings(**settings)
        assert translator.inspect(sources[3]).target_tokens == expected
        translator.decoding = translator.settings(sampling=False, beam_size=5, diversity_groups=1)


def test_the_models_settings_of_the_other_way_are_no_contradiction(tiny_run: Path) -> None:
    searching = pellucid.load(tiny_run, device="cpu")
    searching.decoding = searching.settings(stop="heuristic", beam="full")
    assert searching.settings(sampling=True).stop == "exact"
    searching.decoding = searching.settings(sampling=True, temperature=0.5)
    assert searching.settings(sampling=False).temperature == 1.0
    assert searching.settings(seed=3).temperature == 0.5


def test_errors_name_the_text_of_the_call(translator: Translator, sources: list[str]) -> None:
    tokenizer = translator.target_tokenizer
    tokens = [piece for piece in tokenizer.pieces(list(range(tokenizer.vocab_size))) if piece != "</s>"]
    with pytest.raises(GenerationError, match=r"text \d+: after 0 tokens") as caught:
        translator.generate(sources[:2], forbidden_tokens=tokens, min_length=2, first_index=70)
    assert caught.value.number in (1, 2)
