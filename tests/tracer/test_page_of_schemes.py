"""The page tells the truth about every way to know the order, and about models that it is not for."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from random_models import SYMBOLS, TEXT, make_translator

from explorer.chromium import Pages
from pellucid.config import DecodingConfig, ModelConfig
from pellucid.data.tokenizer_kinds import SymbolTokenizer
from pellucid.errors import ConfigError
from pellucid.language_model import LanguageModel
from pellucid.model.alone import DecoderOnly
from pellucid.tracing.json_form import encode

T5 = {"scale_attention": False, "norm": "rmsnorm", "activation": "geglu"}

SAYS = {
    "sinusoidal": ("adds a fixed wave", "加上固定的波"),
    "learned": ("adds a learned row", "加上学来的一行"),
    "rotary": ("nothing is added", "什么也不加"),
    "relative": ("nothing is added", "什么也不加"),
    "none": ("no positions", "没有位置"),
}
PLANES = {"sinusoidal": ["+", "="], "learned": ["+", "=", "≠"]}


def cells(page: Any, row: int) -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        f"#position table.sum tr:nth-child({row}) td", "all => all.map(one => one.textContent)"
    )
    return found


def value(text: str) -> float:
    found = re.fullmatch(r"(-?[\d.]+)(?:·10(.+))?", text.replace("−", "-"))
    assert found is not None, text
    raised = (found[2] or "0").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    return float(found[1]) * 10.0 ** int(raised)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SAYS)
def test_what_is_added_and_what_is_not(pages: Pages, scheme: str) -> None:
    translator = make_translator(positions=scheme, **(T5 if scheme == "relative" else {}))
    page = pages.draw(pages.open(encode(translator.trace(TEXT, beam_size=2))))
    assert SAYS[scheme][0] in page.inner_text("#position .finding")
    signs = page.eval_on_selector_all("#position .plane .sign", "all => all.map(one => one.textContent)")
    assert signs == ["", *PLANES.get(scheme, ["="])]
    if scheme in PLANES:
        assert page.locator("#position table.sum tr").count() == 3 and cells(page, 1) != cells(page, 3)
    else:
        assert page.locator("#position table.sum tr").count() == 2 and cells(page, 1) == cells(page, 2)

    beyond = page.inner_text("#position .panel-body > .note >> nth=1")
    if scheme == "learned":
        assert "41 positions are refused" in beyond and "41 tokens does not fit the 40 learned positions" in beyond
    else:
        assert "513 positions is computed" in beyond
    figures = page.eval_on_selector_all("#position .card .figure-value", "all => all.map(one => one.textContent)")
    on, off = value(figures[1]), value(figures[3])
    assert off < 1e-4 and (on > 1e-3) == (scheme != "none")

    question = page.inner_text(".question >> nth=0")
    assert ("This model has no positions" in question) == (scheme == "none")
    assert f"This model is {scheme}" in page.inner_text(".question >> nth=1")
    assert ("refuses" in page.inner_text(".question >> nth=1 >> css=.evidence")) == (scheme == "learned")
    page.click("button[lang=zh]")
    page.wait_for_selector("html[lang=zh-Hans]")
    assert SAYS[scheme][1] in page.inner_text("#position .finding")
    assert page.locator(".error-line").count() == 0 and pages.complaints == []


@pytest.mark.slow
@pytest.mark.parametrize("panel", ["encoder", "mask"])
def test_a_score_with_a_bias_and_without_a_division_is_shown_as_such(pages: Pages, panel: str) -> None:
    translator = make_translator(positions="relative", **T5)
    trace = translator.trace(TEXT)
    use = {"encoder": "encoder", "mask": "decoder"}[panel]
    page = pages.draw(pages.open(encode(trace), f"layer=1&head=3&use={use}&cell=4.1"))
    equation = page.inner_text(f"#{panel} .equation")
    shown = [float(found.replace("−", "-")) for found in re.findall(r"[-−]?\d+\.\d+", equation)]
    writing = trace.writings[0]
    assert writing is not None
    side, bias = (trace.encoder, trace.position.bias) if use == "encoder" else (writing.decoder, writing.decoder.bias)
    assert bias is not None
    dot = float(side.q[1].values[3, 4].astype(np.float64) @ side.k[1].values[1, 1])
    added = float(bias.values[3, 4, 1])
    table = getattr(translator.model, "encoder" if use == "encoder" else "decoder").embedder.positions
    with torch.inference_mode():
        assert added == float(table.bias(5 if use == "decoder" else 6)[0, 3, 4, 1])
    assert "√d" not in equation
    expected = [dot, added, float(side.scores[1].values[3, 4, 1]), float(side.attn[1].values[3, 4, 1])]
    assert shown == pytest.approx(expected, abs=2e-3) and dot + added == pytest.approx(expected[2], abs=1e-3)
    if use == "encoder":
        page.click("#encoder .choice button >> text=scores")
        assert "q·k + bias" in page.inner_text("#encoder .matrix-caption")
        page.click("#cross .choice button >> text=scores")
        assert "Scores: q·k, before" in page.inner_text("#cross .matrix-caption")


def test_a_decoder_alone_is_refused_in_a_sentence() -> None:
    tokenizer = SymbolTokenizer(SYMBOLS)
    config = ModelConfig(hidden_size=32, decoder_layers=1, num_heads=4, ff_size=64)
    alone = LanguageModel(DecoderOnly(config, tokenizer.vocab_size).eval(), tokenizer, DecodingConfig())
    with pytest.raises(ConfigError, match="trace looks at an encoder and a decoder, and this model is a decoder alone"):
        alone.trace("w1")
