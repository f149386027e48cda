"""What holds of models made here holds of checkpoints: decoders that start with </s>, language codes in front."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hf_twins import TEXTS, TWINS, make_twin

import pellucid
from pellucid import alignment, copying
from pellucid.contract.model_way import ModelWay
from pellucid.contract.run import check
from pellucid.copying import copy_unknown
from pellucid.data.unknown import source_parts
from pellucid.results import GeneratedText, Generation
from pellucid.translator import Translator


def load_twin(name: str, folder: Path) -> Translator:
    make_twin(name, folder)
    source, target = TWINS[name].languages or (None, None)
    return pellucid.load(folder, "cpu", source_language=source, target_language=target)


@pytest.mark.parametrize("name", ["bart", "nllb", "marian"])
def test_the_contract_holds_of_a_checkpoint(name: str, tmp_path: Path) -> None:
    translator = load_twin(name, tmp_path)
    way = ModelWay(translator)
    assert way.eos_id not in way.suppressed
    if name == "marian":
        assert way.suppressed == (translator.target_tokenizer.pad_id,)
    results = list(check(way, TEXTS[2:3], items={2}))
    assert [result for result in results if result.holds is not True] == []
    if name != "marian":  # what the checkpoint forces comes first in what was checked
        first = way.generate(TEXTS[2:3], beam_size=1, n_best=1, prefix_tokens=way.own.prefix_tokens)
        assert first[0][0].tokens[0] == way.prefix(way.own.model_dump())[0]


def test_an_unknown_word_copies_its_own_source_behind_a_language_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    translator = load_twin("nllb", tmp_path)
    tokenizer = translator.target_tokenizer
    source = TEXTS[0]
    parts = source_parts(translator.source_tokenizer, source)
    assert translator.source_tokenizer.prefix_ids and tokenizer.prefix_ids and len({*parts[:4]}) == 4
    word = tokenizer.encode("dogs")[:1]
    ids = [*tokenizer.prefix_ids, tokenizer.unk_id, *word, tokenizer.unk_id, tokenizer.eos_id]
    given = GeneratedText("", tokenizer.pieces(ids), ids, [-1.0] * len(ids), -1.0, "eos")

    def diagonal(translator: Translator, generations: list[Generation], units: str) -> list[list[Any]]:
        found = alignment.align_generations(translator, generations, units=units)
        assert [len(one.target_units) for one in found[0]] == [3]  # the code is no unit
        return [[replace(one, links=[(0, 0), (1, 1), (2, 2)]) for one in many] for many in found]

    monkeypatch.setattr(copying, "align_generations", diagonal)
    (after,) = copy_unknown(translator, [Generation(source, [given])])[0].hypotheses
    assert after.text.replace(" ", "") == parts[0] + tokenizer.decode(word) + parts[2]
