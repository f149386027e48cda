"""The page in a headless Chromium shows what the document says: its numbers, one step everywhere, and nothing else.

That the document is what the engine computed is tested where it is made; here it is made up (`sample.py`).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from explorer.chromium import Pages
from explorer.sample import LAYERS, TARGET, array, sample, values

pytestmark = pytest.mark.slow

Json = dict[str, Any]
NUMBER = re.compile(r"[-−]?\d+(?:[.,]\d+)?")


@pytest.fixture
def document() -> Json:
    return sample()


def shown_matrix(page: Any, use: str) -> np.ndarray:
    """The values that a matrix's table shows."""
    page.click(f"#matrix-{use} button[aria-expanded=false]")
    rows = page.eval_on_selector_all(
        f"#matrix-{use} table tbody tr",
        "rows => rows.map(row => [...row.querySelectorAll('td')].map(c => c.textContent))",
    )
    return np.array([[float(cell.replace("−", "-")) for cell in row] for row in rows], np.float32)


def test_matrices_show_the_documents_float32_numbers(pages: Pages, document: Json) -> None:
    page = pages.draw(pages.open(document, "layer=1&head=2"))
    written = document["writings"][0]
    for use, side in (("encoder", document["encoder"]), ("decoder", written["decoder"]), ("cross", written["cross"])):
        assert np.array_equal(shown_matrix(page, use), values(side["attn"][1])[2]), use
    assert pages.complaints == []


def test_masked_cells_are_0_because_the_document_says_so(pages: Pages, document: Json) -> None:
    page = pages.draw(pages.open(document))
    future = np.triu(np.ones((len(TARGET), len(TARGET)), bool), 1)
    assert (shown_matrix(page, "decoder")[future] == 0).all()
    assert page.locator("#matrix-decoder .cell.masked").count() == future.sum()

    leaking = values(document["writings"][0]["decoder"]["attn"][LAYERS - 1]).copy()
    leaking[0, 0, 1] = 0.25
    document["writings"][0]["decoder"]["attn"][LAYERS - 1] = array(leaking)
    page = pages.draw(pages.open(document))
    assert shown_matrix(page, "decoder")[0, 1] == 0.25
    assert "0.25" in page.inner_text("#mask .figures")


def test_every_panel_shows_the_same_step(pages: Pages, document: Json) -> None:
    page = pages.draw(pages.open(document))
    for step in (1, 3):
        page.fill("input[type=range]", str(step))
        row = f"{(['<s>', *TARGET])[step]} ▸ {TARGET[step]}"
        page.wait_for_function("n => document.querySelector('output.step').dataset.step == n", arg=str(step))
        pages.settle(page)
        assert page.inner_text("#now").startswith(f"step {step + 1}: {row}, strongest ")
        for selector in ("#mask .matrix-rows .on", "#cross .matrix-rows .on"):
            assert page.inner_text(selector) == row
        assert page.text_content("#cross .arcs text.target.on") == TARGET[step]
        assert page.locator("#forcing .lane-calls.apart .later").count() == len(TARGET) - step - 1
        assert f"new at this step: 1\nreused: {step}" in page.inner_text("#cache .keys")
        assert page.inner_text("#search .lattice-step.on") == str(step + 1)


def test_the_address_brings_the_same_view_back(pages: Pages, document: Json) -> None:
    page = pages.draw(pages.open(document, "t=2&layer=0&head=3&use=cross&cell=2.1"))
    before = page.inner_text("#cross")
    assert "love ▸ China" in page.inner_text("#cross .cell-product")
    page.click("[aria-label='One step forward']")
    page.wait_for_function("() => location.hash.includes('t=3')")
    page.click("[aria-label='One step back']")
    page.wait_for_function("() => location.hash.includes('t=2')")
    page.reload()
    page.wait_for_selector(".panel")
    assert pages.draw(page).inner_text("#cross") == before


def test_a_cells_dot_product_is_the_documents(pages: Pages, document: Json) -> None:
    page = pages.draw(pages.open(document, "layer=1&head=3&use=cross&cell=2.1"))
    cross = document["writings"][0]["cross"]
    q, k = values(cross["q"][1])[3, 2], values(cross["k"][1])[1, 1]
    shown = [float(found.replace("−", "-")) for found in NUMBER.findall(page.inner_text("#cross .equation"))]
    dot = float(q.astype(np.float64) @ k)
    expected = [dot, cross["divisor"], dot / cross["divisor"], float(values(cross["attn"][1])[3, 2, 1])]
    assert np.allclose(shown, expected, atol=1e-3)


def test_the_language_changes_words_and_no_number(pages: Pages, document: Json) -> None:
    page = pages.draw(pages.open(document, "t=2"))
    read = "all => all.map(one => one.textContent.replace(/\\s/g, ''))"
    selector = ".figure-value, td, .bar-value, .equation > span, .node small"
    english, words = page.eval_on_selector_all(selector, read), page.inner_text("main")
    page.click("button[lang=zh]")
    page.wait_for_selector("html[lang=zh-Hans]")
    chinese, translated = page.eval_on_selector_all(selector, read), page.inner_text("main")
    digits = [NUMBER.findall(one) for one in english]
    assert [NUMBER.findall(one) for one in chinese] == digits and any(digits)
    assert words != translated
    assert "⟨" not in words + translated


def test_a_hypothesis_swaps_the_decoders_panels(pages: Pages, document: Json) -> None:
    page = pages.draw(pages.open(document))
    page.click(f"#search .pick >> text={document['writings'][1]['text']}")
    page.wait_for_function("() => document.querySelectorAll('.chip.target').length === 4")
    pages.settle(page)
    assert np.array_equal(shown_matrix(page, "cross"), values(document["writings"][1]["cross"]["attn"][LAYERS - 1])[0])


def test_what_is_not_a_number_says_so(pages: Pages, document: Json) -> None:
    cross = document["writings"][0]["cross"]
    broken = values(cross["attn"][LAYERS - 1]).copy()
    broken[0, 0] = np.nan
    cross["attn"][LAYERS - 1] = array(broken)
    document["writings"][0]["tf"]["logp"][0] = "NaN"
    page = pages.draw(pages.open(document))
    assert page.locator("#matrix-cross .cell.nan >> text=NaN").count() == values(cross["attn"][0]).shape[2]
    assert "NaN" in page.inner_text("#forcing table")


def test_keys_alone_move_the_step_and_pin_a_cell(pages: Pages, document: Json) -> None:
    page = pages.draw(pages.open(document))
    page.focus("#matrix-cross .grid")
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#cross .cell-product")
    assert page.inner_text("#cross .cell-title").endswith("I ▸ love × 爱")
    page.keyboard.press("]")
    page.wait_for_function("() => document.querySelector('output.step').dataset.step === '2'")


def test_practice_hides_every_answer(pages: Pages, document: Json) -> None:
    page = pages.draw(pages.open(document))
    questions = page.locator(".question").count()
    assert questions >= 12 and page.locator(".question .evidence").count() == questions
    page.check(".switch input")
    page.wait_for_function("() => !document.querySelector('.question .evidence')")
    page.click(".question >> nth=0 >> text=Show the answer")
    page.wait_for_selector(".question .evidence")
    assert page.locator(".question .evidence").count() == 1


def test_another_schema_is_refused_in_a_sentence(pages: Pages, document: Json) -> None:
    document["schema"] = 99
    page = pages.open(document)
    assert "schema 99" in page.inner_text(".failure")
    assert page.locator(".panel").count() == 0


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_nothing_is_wider_than_the_window_and_nothing_leaves_it(
    pages: Pages, document: Json, width: int, language: str
) -> None:
    page = pages.draw(pages.open(document, f"lang={language}&use=cross&cell=1.1", width))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert all(url.startswith(("file:", "data:")) for url in pages.requests)
    assert pages.complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(pages: Pages, document: Json, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'pellucid[dev]'")
    page = pages.draw(pages.open(document, f"theme={theme}&use=cross&cell=1.1"))
    found = axe.Axe().run(page).response["violations"]
    serious = [
        (one["id"], [node["target"] for node in one["nodes"]][:4])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []
