"""The bundled model itself: small, translating, and everything beside it made from it and from nothing else."""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import pellucid
from conftest import ROOT
from pellucid.bundled import BUNDLED, MODELS, RECORDED
from pellucid.data import chinese
from pellucid.tracing.json_form import parse
from pellucid.tracing.trace import Trace
from pellucid.translator import Translator
from test_packaging import PYPROJECT
from toys import Run

FOLDER = MODELS / BUNDLED
PACKAGE = ROOT / "src" / "pellucid"
FORMS = ["我爱中国", "我愛中國", "我爱中国。", "我愛中國。"]
CARDS = [(FOLDER / f"MODEL_CARD{suffix}").read_text(encoding="utf-8") for suffix in (".md", ".zh.md")]
EXAMPLES: list[dict[str, Any]] = json.loads((FOLDER / "examples.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model() -> Translator:
    return pellucid.load(device="cpu")


@pytest.fixture(scope="module")
def recorded() -> Trace:
    return parse(gzip.decompress((RECORDED / f"{BUNDLED}.json.gz").read_bytes()).decode(), Trace)


def files() -> list[Path]:
    return [path for place in (FOLDER, RECORDED) for path in place.rglob("*") if path.is_file()]


def test_it_is_at_most_ten_megabytes_and_all_of_it_is_in_the_wheel() -> None:
    assert sum(path.stat().st_size for path in files()) <= 10_000_000
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["pellucid"]
    for path in [*files(), chinese.TABLE]:
        name = path.relative_to(PACKAGE).as_posix()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name


def test_it_translates_both_scripts_with_and_without_a_full_stop_and_without_opencc(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opencc", None)
    chinese._opencc.cache_clear()
    result = run("translate", *FORMS)
    lines = result.out.splitlines()
    assert (result.status, len(lines)) == (0, 4)
    assert lines[0] == lines[1] and lines[2] == lines[3]
    for line in lines:
        assert re.fullmatch(r"(I|We) love Chin\w+[.!]", line), line
    chinese._opencc.cache_clear()


def test_it_has_grouped_queries_chosen_heads_and_weights_in_few_bytes(run: Run) -> None:
    facts = json.loads(run("info", "--json").out)
    assert facts["weights"]["storage"] == "int8"
    assert facts["weights"]["bytes"] < 1.1 * facts["parameters"]["total"]
    assert facts["model"]["num_kv_heads"] < facts["model"]["num_heads"]
    assert (FOLDER / "alignment.json").is_file()


def test_the_recorded_trace_is_this_models_and_what_it_does_today(model: Translator, recorded: Trace) -> None:
    assert recorded.checkpoint_sha == hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert (recorded.source, recorded.model, recorded.request["text"]) == ("recorded", BUNDLED, FORMS[0])
    again = model.generate([FORMS[0]], beam_size=4, n_best=4)[0].hypotheses
    assert [one.text for one in recorded.search.nbest] == [one.text for one in again]
    for one, other in zip(recorded.search.nbest, again, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_examples_do_what_they_are_examples_of(model: Translator) -> None:
    kinds = [example["kind"] for example in EXAMPLES]
    assert {kind: kinds.count(kind) for kind in kinds} == {"plain": 4, "greedy_loses": 3, "wide_worse": 3}
    assert EXAMPLES[0]["text"] == FORMS[0]
    for example in EXAMPLES[1:]:
        assert "Attribution: tatoeba.org #" in example["credit"] and example["reference"]
        scores, chrfs = [], []
        for said in example["outputs"]:
            best = model.generate([example["text"]], beam_size=said["beam"])[0].hypotheses[0]
            assert (best.text, best.score) == (said["text"], pytest.approx(said["score"], abs=2e-3))
            scores.append(best.score)
            chrfs.append(said["chrf"])
        assert example["outputs"][-1]["beam"] == example["beam_size"]
        if example["kind"] != "plain":
            assert scores[1] > scores[0]
            assert (chrfs[1] > chrfs[0]) == (example["kind"] == "greedy_loses")


def test_the_card_says_the_same_in_both_languages_and_names_what_must_be_named(model: Translator) -> None:
    english, chinese_card = CARDS
    tables = [[line for line in card.splitlines() if "beam" in line and line.startswith("|")] for card in CARDS]
    assert tables[0] == tables[1] and len(tables[0]) == 7
    for card in CARDS:
        assert not re.search(r"\{\w+\}", card)
        for part in ("CC BY 2.0 FR", "CC BY-SA 4.0", "AUTHORS.txt", "nrefs:1|", "scripts/bundle.py runs/zh-en"):
            assert part in card, part
        count = sum(parameter.numel() for parameter in model.model.parameters())
        assert f"{count:,}" in card and f"{(FOLDER / 'model.safetensors').stat().st_size:,}" in card
        best, second = (one.text for one in model.generate([FORMS[0]], n_best=2)[0].hypotheses)
        assert f"→ {best}" in card and f"*{second}*" in card
    authors = (FOLDER / "AUTHORS.txt").read_text(encoding="utf-8")
    assert re.search(r"^CK \d+$", authors, re.MULTILINE) and "CC BY 2.0 FR" in authors
    assert f"{len(re.findall(r'^.+ [0-9]+$', authors, re.MULTILINE))}" in english
    assert "[中文](MODEL_CARD.zh.md)" in english and "[English](MODEL_CARD.md)" in chinese_card
