"""Texts of mixed languages in one call: each comes out as if its languages had been given when the model was loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hf_twins import TEXTS, make_twin

import pellucid
from pellucid import languages
from pellucid.decoding.search import Sentence
from pellucid.errors import ConfigError, DataError, GenerationError, LengthError
from pellucid.loading import with_languages
from pellucid.translator import Translator

PAIRS = [("eng_Latn", "deu_Latn"), ("fra_Latn", "eng_Latn"), ("eng_Latn", "deu_Latn"), ("deu_Latn", "fra_Latn")]
SOURCES, TARGETS = zip(*PAIRS, strict=True)


@pytest.mark.parametrize("sampling", [False, True])
def test_each_text_has_its_languages(tmp_path: Path, sampling: bool) -> None:
    make_twin("nllb", tmp_path)
    ours = pellucid.load(tmp_path, "cpu")
    settings = {"sampling": True, "seed": 3} if sampling else {"beam_size": 3, "n_best": 2}
    found = ours.generate(TEXTS[:4], source_language=SOURCES, target_language=TARGETS, **settings)
    for place, ((source, target), generation) in enumerate(zip(PAIRS, found, strict=True)):
        alone = pellucid.load(tmp_path, "cpu", source_language=source, target_language=target)
        [expected] = alone.generate([TEXTS[place]], first_index=place, **settings)
        assert [h.token_ids for h in generation.hypotheses] == [h.token_ids for h in expected.hypotheses]
    texts = {
        generation.text for generation in ours.generate(["she"] * 4, source_language=SOURCES, target_language=TARGETS)
    }
    assert len(texts) > 1
    assert ours.stats.sentences == 8


def test_one_language_for_all_and_errors_by_the_texts_number(tmp_path: Path) -> None:
    make_twin("mbart50", tmp_path)
    ours = pellucid.load(tmp_path, "cpu")
    alone = pellucid.load(tmp_path, "cpu", target_language="pl_PL")
    assert ours.generate(TEXTS, target_language="pl_PL", beam_size=2) == alone.generate(TEXTS, beam_size=2)
    texts = ["she", "she " * 80, "she"]
    with pytest.raises(LengthError, match="source 2: "):
        ours.generate(texts, source_language=["en_XX", "de_DE", "en_XX"], target_language="pl_PL")
    with pytest.raises(ConfigError, match="no token for the language 'xx_XX'"):
        ours.generate(texts, target_language="xx_XX")
    with pytest.raises(DataError, match="3 sources and 2 target languages: give one for all, or one for each"):
        ours.generate(texts, target_language=["pl_PL", "de_DE"])


def test_nothing_is_computed_before_all_texts_are_in_order(tmp_path: Path) -> None:
    make_twin("mbart50", tmp_path)
    ours = pellucid.load(tmp_path, "cpu")
    texts, targets = ["she", "she", "she " * 80], ["pl_PL", "de_DE", "de_DE"]
    with pytest.raises(LengthError, match="source 3: "):
        ours.generate(texts, target_language=targets)
    with pytest.raises(ConfigError, match="text 2: the forced prefix has"):
        ours.generate(["she"] * 3, target_language=targets, prefixes=["", "she " * 8, ""], max_length=4)
    with pytest.raises(ConfigError, match="no token for the language 'xx_XX'"):
        ours.generate(["she"] * 2, target_language=["pl_PL", "xx_XX"])
    assert ours.stats.sentences == 0


def test_samples_of_a_pair_are_drawn_together_and_tokenizers_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_twin("nllb", tmp_path)
    ours = pellucid.load(tmp_path, "cpu")
    read: list[tuple[str | None, ...]] = []
    batches: list[int] = []
    start = Translator._start

    def reading(translator: Translator, *pair: str | None) -> Translator:
        read.append(pair)
        return with_languages(translator, *pair)

    def starting(translator: Translator, sources: list[list[int]], *rest: Any) -> Any:
        batches.append(len(sources))
        return start(translator, sources, *rest)

    monkeypatch.setattr(languages, "with_languages", reading)
    monkeypatch.setattr(Translator, "_start", starting)
    for _ in range(2):
        ours.generate(TEXTS[:4], source_language=SOURCES, target_language=TARGETS, sampling=True)
    assert read == [PAIRS[0], PAIRS[1], PAIRS[3]]
    assert batches == [2, 1, 1] * 2


def test_an_error_of_the_search_has_the_number_of_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_twin("nllb", tmp_path)
    ours = pellucid.load(tmp_path, "cpu")

    def failing(model: Translator, sources: Any, sentences: Sequence[Sentence], *rest: Any) -> Any:
        raise GenerationError("no token is left", number=sentences[-1].index + 1)  # as the search counts

    monkeypatch.setattr(Translator, "_search", failing)
    with pytest.raises(GenerationError, match=r"^text 3: no token is left$"):
        ours.generate(["", "", "she"], target_language=["eng_Latn", "eng_Latn", "deu_Latn"], first_index=7)


def test_models_without_languages(tmp_path: Path, tiny_run: Path) -> None:
    with pytest.raises(ConfigError, match="the languages of this model cannot be chosen"):
        pellucid.load(tiny_run, "cpu").generate(["ba"], target_language="de")
    make_twin("bart", tmp_path)
    with pytest.raises(ConfigError, match="has no codes for languages"):
        pellucid.load(tmp_path, "cpu").generate(["she"], target_language="de")
