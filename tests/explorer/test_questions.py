"""Every figure of the questions panel is computed again here, from the trace of a trained model, in both languages."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explorer.chromium import Pages
from explorer.live import TEXT
from pellucid.loading import load
from pellucid.tracing.json_form import encode
from pellucid.tracing.trace import Trace

pytestmark = pytest.mark.slow

JUMPS = [
    *("position", "position", "encoder", "mask", "cross", "cross", "forcing", "forcing", "forcing"),
    *("cache", "cache", "gqa", "search", "search", "search", "search"),
]


def fixed(value: float, digits: int = 2) -> str:
    # JavaScript rounds halves away from 0, Python to even; both look at the exact value of the float.
    text = str(Decimal(float(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))
    return text.replace("-", "") if float(text) == 0 else text.replace("-", "−")


def tiny(value: float) -> str:
    if value == 0:
        return "0"
    if 0.001 <= abs(value) < 10000:
        return f"{float(f'{value:.3g}'):g}".replace("-", "−")
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}·10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def kibibytes(value: int) -> str:
    return f"{value}\u00a0B" if value < 1024 else f"{fixed(value / 1024, 1 if value < 10240 else 0)}\u00a0KiB"


def milliseconds(value: float) -> str:
    return f"{fixed(value, 2 if value < 10 else 1 if value < 100 else 0)}\u00a0ms"


def measured(trace: Trace) -> list[list[str]]:
    """For each question the figures that must stand below its answer."""
    w, search, gqa = trace.writings[0], trace.search, trace.gqa
    assert w is not None and trace.position.ablation is not None and w.drift is not None and w.cover is not None
    encoder, cross = (side.attn[-1].values[0] for side in (trace.encoder, w.cross))
    ahead = max(float(np.triu(layer.values, 1).max()) for layer in w.decoder.attn)
    later = float(np.triu(encoder, 1).sum() / len(trace.src)) * 100
    most = int(cross[0].argmax())
    needed = min(w.cover, key=lambda one: one.change[0])
    after = w.drift.at + 1
    uncached = sum(step.macs.uncached for step in w.kv.steps) / sum(step.macs.cached for step in w.kv.steps)
    best = search.nbest[0]
    return [
        [tiny(trace.position.ablation.on.logit_maxdiff), tiny(trace.position.ablation.off.logit_maxdiff)],
        ["513"],
        [f"{fixed(later, 0)} %", str(len(trace.encoder.attn))],
        [tiny(ahead), str(len(w.decoder.attn)), str(trace.sizes.heads), tiny(max(w.decoder.unmasked.logit_maxdiff))],
        [w.tgt[0].text, trace.src[most].text, fixed(float(cross[0, most])), str(len(w.tgt)), str(len(trace.src))],
        [trace.source_units[needed.unit].text, fixed(needed.change[0]), w.tgt[0].text],
        ["1", str(w.ar.calls), tiny(w.maxdiff.relative)],
        [milliseconds(w.tf.ms), milliseconds(w.ar.ms), str(len(w.tgt))],
        [
            *(w.drift.original.text, w.drift.replaced.text),
            *(fixed(sum(w.drift.clean_logp[after:])), fixed(sum(w.drift.logp[after:]))),
        ],
        [kibibytes(w.kv.steps[-1].bytes.self), kibibytes(w.kv.steps[-1].bytes.cross), str(len(w.tgt))],
        [fixed(uncached, 1), str(len(w.tgt))],
        [
            *(str(trace.sizes.heads), str(trace.sizes.self_kv_heads)),
            *(kibibytes(one.self + one.cross) for one in (gqa.bytes_actual, gqa.bytes_mha)),
        ],
        [str(search.beam_size), fixed(search.greedy.score, 3), fixed(best.score, 3)],
        [fixed(search.greedy.sum_logp, 3), str(search.greedy.len)],
        [fixed(best.sum_logp, 3), fixed(best.penalty, 3), fixed(best.score, 3), str(best.len), search.length_penalty],
        [str(search.limit)],
    ]


@pytest.fixture(scope="module")
def trace(grouped_run: Path) -> Trace:
    return load(grouped_run).trace(TEXT, beam_size=3)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_answer_stands_on_a_figure_of_this_model(pages: Pages, trace: Trace, language: str) -> None:
    page = pages.draw(pages.open(encode(trace), f"lang={language}"))
    expected = measured(trace)
    shown = page.eval_on_selector_all(".question .evidence", "all => all.map(one => one.textContent.trim())")
    assert len(shown) == len(expected) == 16
    for number, (text, figures) in enumerate(zip(shown, expected, strict=True), 1):
        for figure in figures:
            assert figure in text, (number, figure, text)
    assert "⟨" not in page.inner_text("#questions")


def test_every_question_leads_to_its_panel(pages: Pages, trace: Trace) -> None:
    page = pages.draw(pages.open(encode(trace)))
    for number, panel in enumerate(JUMPS):
        page.click(f".question >> nth={number} >> css=.jump")
        page.wait_for_function("id => document.activeElement?.id === `${id}-title`", arg=panel)
        top = page.evaluate("id => document.getElementById(`${id}-title`).getBoundingClientRect().top", panel)
        assert 0 < top < 700


def test_practice_hides_answers_and_figures_until_they_are_asked_for(pages: Pages, trace: Trace) -> None:
    page = pages.draw(pages.open(encode(trace), "lang=zh"))
    answers = page.eval_on_selector_all(".question p", "all => all.map(one => one.textContent)")
    page.check(".switch input")
    page.wait_for_function("() => !document.querySelector('.question p')")
    hidden = page.inner_text("#questions")
    assert not [answer for answer in answers if answer.strip() in hidden]
    for _ in range(16):
        page.click(".question .button >> nth=0")
    page.wait_for_function("n => document.querySelectorAll('.question p').length === n", arg=len(answers))
    assert page.eval_on_selector_all(".question p", "all => all.map(one => one.textContent)") == answers
    page.uncheck(".switch input")
    page.check(".switch input")  # and they are hidden again
    page.wait_for_function("() => !document.querySelector('.question p')")


def test_a_trace_without_a_figure_says_so(pages: Pages, grouped_run: Path) -> None:
    document: dict[str, Any] = encode(load(grouped_run).trace("ba", max_length=2, cover=False))
    page = pages.draw(pages.open(document))
    shown = page.eval_on_selector_all(".question .evidence", "all => all.map(one => one.textContent.trim())")
    missing = [place for place, text in enumerate(shown) if text == "This trace has no figure for it."]
    assert missing == [0, 5, 8]  # one word has no other order; nothing was covered; too short to drift
    assert pages.complaints == []
