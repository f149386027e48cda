"""What becomes of <unk>, through the public face: it is forced here, since a toy vocabulary has nothing unknown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import pellucid
from pellucid import alignment, copying
from pellucid.copying import copy_unknown
from pellucid.errors import ConfigError
from pellucid.translator import Generation, Translator
from toys import SYMBOLS

UNKNOWN = {"prefix_tokens": ["<unk>"], "max_length": 4}


@pytest.fixture(scope="module")
def translator(tiny_run: Path) -> Translator:
    return pellucid.load(tiny_run, device="cpu")


def test_each_policy(translator: Translator) -> None:
    texts = {}
    for policy in ("keep", "drop", "copy"):
        found, blank = translator.generate(["Zürich ba da", " "], unknown=policy, **UNKNOWN)
        texts[policy] = found.text
        assert found.hypotheses[0].tokens[0] == "<unk>"
        assert blank.hypotheses == []
    rest = texts["keep"].removeprefix("⁇")
    assert rest != texts["keep"]
    assert texts["drop"] == rest.strip()
    (copied,) = {texts["copy"].removesuffix(rest).strip()} - {""} or {""}
    assert copied in ("Zürich", "ba", "da", "")


def test_what_is_copied_is_what_attention_aligns_it_to(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    source = " ".join(["Zürich", *SYMBOLS[:2], "Genève"])
    generations = translator.generate([source, "ba"], n_best=2, beam_size=2, prefix_tokens=["<unk>", "BA", "<unk>"])
    for first, second, start in ((0, 3, "Zürich BA Genève"), (3, 0, "Genève BA Zürich"), (None, 0, "BA Zürich")):
        links = [(place, target) for place, target in ((first, 0), (1, 1), (second, 2)) if place is not None]

        def aligned(
            translator: Translator, generations: list[Generation], units: str, links: list[tuple[int, int]] = links
        ) -> list[list[alignment.Alignment]]:
            assert units == "tokens"
            given = alignment.align_generations(translator, generations, units=units)
            return [
                [replace(one, links=[link for link in links if link[0] < len(one.source_units)]) for one in many]
                for many in given
            ]

        monkeypatch.setattr(copying, "align_generations", aligned)
        for hypothesis in copy_unknown(translator, generations)[0].hypotheses:
            assert hypothesis.text == start or hypothesis.text.startswith(f"{start} ")


def test_only_texts_change_and_only_where_something_is_unknown(translator: Translator) -> None:
    plain = translator.generate(["ba da", "ga"])
    assert copy_unknown(translator, plain) == plain
    assert translator.generate(["ba da", "ga"], unknown="copy") == plain
    kept = translator.generate(["Zürich ba"], **UNKNOWN)
    (before,), (after,) = kept[0].hypotheses, copy_unknown(translator, kept)[0].hypotheses
    assert before.text.startswith("⁇") and "⁇" not in after.text
    assert replace(after, text=before.text) == before


def test_a_stream_can_leave_out_but_not_copy(translator: Translator) -> None:
    with pytest.raises(ConfigError, match="unknown: copy needs the whole output and cannot be streamed"):
        translator.stream("ba", unknown="copy")
    for policy in ("keep", "drop"):
        (whole,) = translator.generate(["Zürich ba da"], unknown=policy, **UNKNOWN)
        assert "".join(translator.stream("Zürich ba da", unknown=policy, **UNKNOWN)) == whole.text
