"""The page with its server, as people use it: sentences, forced tokens, settings, undo, and all that goes wrong."""

from __future__ import annotations

import gzip
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from explorer.chromium import Pages
from explorer.live import TEXT, exploring, serving
from pellucid.explorer import api as api_module
from pellucid.explorer.api import Api
from pellucid.loading import load
from pellucid.tracing.trace import Trace
from pellucid.translator import Translator

pytestmark = pytest.mark.slow

TARGET = ".sentence-target"
SLACK = 5.0  # seconds more than a page needs, for a busy machine


@pytest.fixture(scope="module")
def translator(grouped_run: Path) -> Translator:
    found = load(grouped_run)
    assert isinstance(found, Translator)
    return found


@pytest.fixture(scope="module")
def api(translator: Translator) -> Api:
    return Api(translator.tracer)


@pytest.fixture(scope="module")
def address(api: Api) -> Iterator[str]:
    with serving(api) as found:
        yield found


def type_in(page: Any, text: str) -> None:
    page.fill("#source-text", text)
    page.click(".ask button[type=submit]")


def shown(page: Any, trace: Trace) -> None:
    """Wait until the page shows this trace's best hypothesis, and all of its tokens."""
    page.wait_for_function(
        "([source, target]) => document.querySelector('.sentence-source')?.textContent === source"
        " && document.querySelector('.sentence-target')?.textContent === target"
        " && !document.querySelector('main.stale')",
        arg=[trace.request["text"], trace.search.nbest[0].text],
    )


def best_score(page: Any) -> str:
    found: str = page.inner_text("#search table.best tbody tr:first-child td:last-child")
    return found.replace("−", "-")


def test_a_sentence_is_typed_and_everything_is_of_this_model(
    pages: Pages, address: str, translator: Translator
) -> None:
    page = pages.visit(address, ready="#source-text")
    type_in(page, TEXT)
    trace = translator.trace(TEXT)
    shown(page, trace)
    assert page.inner_text(TARGET) == translator.generate([TEXT])[0].text
    assert "live" in page.inner_text(".badges") and trace.checkpoint_sha[:8] in page.inner_text(".badges")
    pages.draw(page)
    assert page.input_value("#beam-size") == str(translator.decoding.beam_size)
    assert all(url.startswith((address, "data:")) for url in pages.requests)
    assert pages.complaints == []


def test_a_forced_token_is_written_scored_as_such_and_undone(
    pages: Pages, address: str, translator: Translator
) -> None:
    page = pages.visit(address, ready="#source-text")
    type_in(page, TEXT)
    plain = translator.trace(TEXT)
    shown(page, plain)
    page.fill("input[type=range]", "1")
    pages.settle(pages.draw(page))
    before = page.inner_text("#search")
    page.click("#search .topk button >> nth=0")
    page.wait_for_selector(".chip.forced")
    first = plain.writings[0]
    assert first is not None
    special = translator.target_tokenizer.eos_id
    other = next(one.token for one in first.topk[1] if one.token.id not in (first.tgt[1].id, special))
    prefix = [first.tgt[0].id, other.id]
    forced = translator.trace(TEXT, prefix_ids=prefix)
    shown(page, forced)
    chips = page.eval_on_selector_all(".chip.forced", "all => all.map(one => one.textContent.trim())")
    assert chips == [first.tgt[0].text, other.text]
    pages.settle(page)
    writing = forced.writings[0]
    assert writing is not None and best_score(page) == f"{writing.score:.4f}"
    target = " ".join(token.text for token in writing.tgt if token.id != special)
    score = translator.score([TEXT], [target])[0].token_logprobs
    assert sum(score) == pytest.approx(writing.sum_logp, abs=1e-4)

    page.reload()  # the address holds the request
    page.wait_for_selector(".chip.forced")
    type_in(page, TEXT + " ma")
    page.wait_for_selector(".chip.forced", state="detached")
    page.click("text=Undo")
    shown(page, forced)

    fresh = pages.visit(address, ready="#source-text")
    type_in(fresh, TEXT)
    shown(fresh, plain)
    fresh.fill("input[type=range]", "1")
    pages.settle(pages.draw(fresh))
    assert fresh.inner_text("#search") == before
    fresh.click("#search .topk button >> nth=0")
    fresh.wait_for_selector(".chip.forced")
    fresh.click("text=Undo")
    fresh.wait_for_selector(".chip.forced", state="detached")
    pages.settle(fresh)
    assert fresh.inner_text("#search") == before
    assert pages.complaints == []


def test_beam_width_and_length_penalty_are_settings_of_the_page(
    pages: Pages, address: str, translator: Translator
) -> None:
    page = pages.visit(address, ready="#source-text")
    type_in(page, TEXT)
    page.wait_for_selector("#beam-size")
    for beam in ("4", "1"):
        trace = translator.trace(TEXT, beam_size=int(beam))
        assert len(trace.search.nbest) == int(beam)
        listed = {one.writing for one in trace.search.nbest} | {trace.search.greedy.writing}
        page.fill("#beam-size", beam)
        page.press("#beam-size", "Tab")
        page.wait_for_function(
            "n => document.querySelectorAll('#search table.best tbody tr').length == n"
            " || !document.querySelector('#search table') && !document.querySelector('main.stale')",
            arg=len(listed),
        )
        pages.settle(pages.draw(page))
        assert page.locator("#search table.best tbody tr").count() == len(listed)
        assert best_score(page) == f"{trace.search.nbest[0].score:.4f}"
    page.select_option("#length-penalty", "gnmt")
    page.wait_for_selector("#length-alpha")
    pages.settle(page)
    trace = translator.trace(TEXT, beam_size=1, length_penalty="gnmt")
    assert best_score(page) == f"{trace.search.nbest[0].score:.4f}"
    page.fill("#beam-size", "99")  # more than there may be: the most that there may be
    page.press("#beam-size", "Tab")
    page.wait_for_function("() => document.querySelector('#beam-size').value === '16'")
    assert page.locator(".failure").count() == 0


SENTENCES = {
    "en": {
        "empty": "There is no text to translate.",
        "too_long": "The text is too long for this page.",
        "server_gone": "The server does not answer any more.",
        "model_gone": "The model's folder has disappeared",
        "schema": "This trace has schema 99",
    },
    "zh": {
        "empty": "没有可翻译的文本",
        "too_long": "文本太长",
        "server_gone": "服务器不再应答",
        "model_gone": "模型文件夹不见了",
        "schema": "格式版本是 99",
    },
}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_cannot_be_traced_is_said_and_what_is_shown_stays(
    pages: Pages, address: str, translator: Translator, language: str
) -> None:
    page = pages.visit(address, ready="#source-text")
    type_in(page, TEXT)
    shown(page, translator.trace(TEXT))
    page.click(f"button[lang={language}]")
    for code, text in (("empty", "   "), ("too_long", "ba " * 400), ("empty", "")):
        type_in(page, text)
        page.wait_for_selector(".failure")
        assert SENTENCES[language][code] in page.inner_text(".failure")
        assert page.inner_text(".sentence-source") == TEXT and page.locator(".panel").count() == 9
        page.click(".failure button")
    assert pages.complaints == []


@pytest.mark.parametrize(
    "text", ["。！？…", "👩‍👩‍👧 ba 🎉", "مرحبا", "ба да", "我爱你", "<b>ba</b> & \"da\" 'ga'", "ba\u0301 ba", "{ba}"]
)
def test_any_script_is_traced_and_drawn(pages: Pages, address: str, translator: Translator, text: str) -> None:
    page = pages.visit(address, ready="#source-text")
    type_in(page, text)
    shown(page, translator.trace(text))
    pages.draw(page)
    assert page.locator(".error-line").count() == 0 and "\ufffd" not in page.inner_text("main")
    page.reload()
    page.wait_for_selector(".sentence-source")
    assert page.inner_text(".sentence-source") == text
    assert pages.complaints == []


def test_two_browsers_at_once_each_see_their_own(pages: Pages, address: str, translator: Translator) -> None:
    one, other = (pages.visit(address, ready="#source-text") for _ in range(2))
    for _ in range(2):
        type_in(one, "ba da ga")
        type_in(other, "ka la ma na")
    shown(one, translator.trace("ba da ga"))
    shown(other, translator.trace("ka la ma na"))
    assert pages.complaints == []


def test_a_trace_that_the_server_has_forgotten(
    pages: Pages, translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "KEPT_TRACES", 1)
    with serving(Api(translator.tracer)) as address:
        page = pages.visit(address, ready="#source-text")
        type_in(page, TEXT)
        shown(page, translator.trace(TEXT))
        other = pages.visit(address, ready="#source-text")
        type_in(other, "ma")
        shown(other, translator.trace("ma"))
        pages.draw(page)
        page.click("#search table.best tbody tr:nth-child(2) .pick")  # a part that is not here yet
        second = translator.trace(TEXT).search.nbest[1].text
        page.wait_for_function("text => document.querySelector('.sentence-target').textContent === text", arg=second)
        assert page.locator(".failure").count() == 0
    # Who forgets at once is not asked for ever.
    with serving(Api(translator.tracer)) as address:
        page = pages.visit(address, ready="#source-text")
        type_in(page, TEXT)
        shown(page, translator.trace(TEXT))
        pages.draw(page)
        gone = {"error": {"code": "trace_gone", "message": "forgotten"}}
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.method))
        page.route("**/parts/**", lambda route: route.fulfill(status=404, json=gone))
        page.click("#search table.best tbody tr:nth-child(2) .pick")
        page.wait_for_selector(".failure")
        assert "forgotten" in page.inner_text(".failure")
        page.wait_for_timeout(1000)
        assert asked.count("POST") == 1


def test_a_part_that_did_not_come_is_asked_for_again_when_the_server_is_back(
    pages: Pages, address: str, translator: Translator
) -> None:
    page = pages.visit(address, ready="#source-text")
    type_in(page, TEXT)
    trace = translator.trace(TEXT)
    shown(page, trace)
    pages.draw(page)
    page.route("**/api/**", lambda route: route.abort())
    page.click("#search table.best tbody tr:nth-child(2) .pick")
    page.wait_for_selector(".failure")
    page.unroute("**/api/**")
    page.wait_for_selector(".failure", state="detached", timeout=10_000)
    page.wait_for_function(
        "text => document.querySelector('.sentence-target').textContent === text", arg=trace.search.nbest[1].text
    )


def test_another_address_in_the_same_window_is_followed(pages: Pages, address: str, translator: Translator) -> None:
    page = pages.visit(address, "trace=live%3Aba", ready=".panel")
    shown(page, translator.trace("ba"))
    page.evaluate("() => { location.hash = 'trace=live%3Ama%20ba' }")
    shown(page, translator.trace("ma ba"))


@pytest.fixture
def recorded(tmp_path: Path, translator: Translator) -> Path:
    """A folder with one recorded trace of this model."""
    folder = tmp_path / "recorded"
    folder.mkdir()
    (folder / "one.json.gz").write_bytes(gzip.compress(translator.trace(TEXT, beam_size=3).to_json().encode()))
    return folder


def test_on_a_recorded_trace_of_the_served_model_tokens_are_forced_and_settings_offered(
    pages: Pages, translator: Translator, recorded: Path
) -> None:
    with serving(Api(translator.tracer, recorded=recorded)) as address:
        page = pages.visit(address)
        pages.draw(page)
        assert "recorded" in page.inner_text(".badges") and "With pellucid explore" not in page.inner_text("#search")
        assert page.input_value("#beam-size") == str(translator.decoding.beam_size)
        page.click("#search .topk button >> nth=0")
        page.wait_for_selector(".chip.forced")
        first = translator.trace(TEXT, beam_size=3).writings[0]
        assert first is not None
        forced = next(one.token.id for one in first.topk[0] if one.token.id != first.tgt[0].id)
        shown(page, translator.trace(TEXT, beam_size=3, prefix_ids=[forced]))
        assert "live" in page.inner_text(".badges")
        page.click("text=Undo")
        page.wait_for_selector(".chip.forced", state="detached")
        page.click(".examples .chip-button >> text=Recorded")
        page.wait_for_selector(".badge.recorded")
        page.fill("#beam-size", "4")
        page.press("#beam-size", "Tab")
        shown(page, translator.trace(TEXT, beam_size=4))
        assert page.locator("#search table.best tbody tr").count() >= 4
    assert pages.complaints == []


def test_what_an_example_shows_stands_beside_it_with_its_credit(
    pages: Pages, grouped_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(grouped_run / "best", folder)
    outputs = [{"beam": k, "text": f"text {k}", "score": -k / 10, "chrf": 40 - k} for k in (2, 4)]
    example = {"text": TEXT, "kind": "wide_worse", "beam_size": 4, "outputs": outputs}
    written = [example | {"reference": "the reference", "credit": "the credit"}]
    (folder / "examples.json").write_text(json.dumps(written), encoding="utf-8")
    with serving(Api(load(folder).tracer)) as address:
        page = pages.visit(address, ready="#source-text")
        type_in(page, TEXT)
        page.wait_for_selector(".panel")
        for language in ("en", "zh"):
            page.click(f"button[lang={language}]")
            pages.settle(pages.draw(page))
            text = page.inner_text("#search .example")
            for part in ("text 2", "text 4", "−0.200", "−0.400", "38", "36", "the reference", "the credit"):
                assert part in text, part
        type_in(page, "ba")
        page.wait_for_selector("#search .example", state="detached")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_model_folder_that_disappears_is_noticed(
    pages: Pages, grouped_run: Path, tmp_path: Path, language: str
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(grouped_run / "best", folder)
    with serving(Api(load(folder).tracer)) as address:
        page = pages.visit(address, ready="#source-text")
        type_in(page, TEXT)
        page.wait_for_selector(".panel")
        page.click(f"button[lang={language}]")
        shutil.move(folder, tmp_path / "away")
        page.wait_for_selector(".failure", timeout=10_000)  # before anyone asks for anything
        assert SENTENCES[language]["model_gone"] in page.inner_text(".failure")
        type_in(page, "ma")
        page.wait_for_selector(".failure button")
        assert SENTENCES[language]["model_gone"] in page.inner_text(".failure")
        assert page.inner_text(".sentence-source") == TEXT
        page.click(".failure button")
        shutil.move(tmp_path / "away", folder)
        page.wait_for_selector(".failure", state="detached", timeout=10_000)
        type_in(page, "ma")
        page.wait_for_function("() => document.querySelector('.sentence-source').textContent === 'ma'")


def test_a_server_that_is_killed_is_noticed_and_what_is_shown_stays(pages: Pages, grouped_run: Path) -> None:
    with exploring(grouped_run) as (address, process):
        page = pages.visit(address, ready="#source-text")
        type_in(page, TEXT)
        page.wait_for_selector(".panel")
        pages.draw(page)
        target = page.inner_text(TARGET)
        process.kill()
        start = time.monotonic()
        page.wait_for_selector(".failure", timeout=10_000)
        assert time.monotonic() - start < 3 + SLACK
        for language in ("en", "zh"):
            page.click(f"button[lang={language}]")
            assert SENTENCES[language]["server_gone"] in page.inner_text(".failure")
        assert page.inner_text(TARGET) == target and page.locator(".panel").count() == 9
        page.keyboard.press("]")  # and it can still be looked into
        page.wait_for_function("() => document.querySelector('output.step').dataset.step === '1'")
        page.click(".failure button")
        type_in(page, "ma")
        page.wait_for_selector(".failure")
        assert SENTENCES["zh"]["server_gone"] in page.inner_text(".failure")


def test_a_server_killed_while_it_computes_is_an_error_within_three_seconds(
    pages: Pages, grouped_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with exploring(grouped_run) as (address, process):
        page = pages.visit(address, ready="#source-text")
        page.evaluate("fetch('/api/model')")
        type_in(page, " ".join(["ba da ga ka la"] * 40))
        process.kill()
        page.wait_for_selector(".failure", timeout=5_000)
        assert SENTENCES["en"]["server_gone"] in page.inner_text(".failure")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_recorded_trace_of_another_schema_is_refused(
    pages: Pages, translator: Translator, tmp_path: Path, language: str
) -> None:
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    document = json.loads(translator.trace("ba").to_json())
    (recorded / "old.json.gz").write_bytes(gzip.compress(json.dumps({**document, "schema": 99}).encode()))
    with serving(Api(None, "no model is here", recorded)) as address:
        page = pages.visit(address, ready=".failure")
        page.click(f"button[lang={language}]")
        assert SENTENCES[language]["schema"] in page.inner_text(".failure")
        assert page.locator(".panel").count() == 0


def test_without_a_model_a_recorded_trace_is_shown_and_the_page_says_so(
    pages: Pages, translator: Translator, tmp_path: Path
) -> None:
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    (recorded / "one.json.gz").write_bytes(gzip.compress(translator.trace(TEXT).to_json().encode()))
    with serving(Api(None, "no model is here", recorded)) as address:
        page = pages.visit(address)
        assert "recorded" in page.inner_text(".badges")
        assert "No model could be loaded" in page.inner_text(".status") and "no model is here" in page.inner_text(
            ".status"
        )
        assert page.locator("#source-text").count() == 0
    assert pages.complaints == []


@pytest.mark.parametrize("kind", ["plain", "wide_worse"])
def test_the_first_example_is_shown_where_nothing_is_recorded(
    pages: Pages, grouped_run: Path, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(grouped_run / "best", folder)
    outputs = [{"beam": k, "text": f"text {k}", "score": -k / 10, "chrf": 40 - k} for k in (2, 4)]
    example = {"text": TEXT, "kind": kind, "beam_size": 4, "outputs": outputs, "reference": "r", "credit": "c"}
    (folder / "examples.json").write_text(json.dumps([example]), encoding="utf-8")
    tracer = load(folder).tracer
    begun: list[Any] = []
    start = tracer.start

    def slow(*arguments: Any, **named: Any) -> Any:
        begun.append(arguments)
        time.sleep(2)
        return start(*arguments, **named)

    tracer.start = slow
    with serving(Api(tracer)) as address:
        page = pages.visit(address, ready=".panel")
        assert page.inner_text(".sentence-source") == TEXT
        assert len(begun) == 1
        impatient = pages.visit(address, ready="#source-text")
        type_in(impatient, TEXT)  # while the example is being computed
        impatient.wait_for_selector(".panel")
        assert len(begun) == 2
    assert pages.complaints == []
