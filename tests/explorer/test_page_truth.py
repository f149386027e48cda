"""What the page shows of a trained model is what that model computes: read off the page, against runs of its own.

The checks 2 to 12 of the explorer's design; the engine's side of them, for every position scheme, is in tests/tracer/.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pellucid.model.transformer
from explorer.chromium import Pages
from explorer.live import TEXT
from pellucid.loading import load
from pellucid.model.positions import NoPositions
from pellucid.trace import AttentionEvent, Observer
from pellucid.tracing.document import Writing
from pellucid.tracing.json_form import encode
from pellucid.tracing.trace import Trace
from pellucid.translator import Translator
from toys import Run

pytestmark = pytest.mark.slow

RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def number(text: str) -> float:
    """What the page means by a number such as −3.1·10⁻⁷ or 18 KiB."""
    plain = text.replace("−", "-").replace("\u00a0", " ").replace("\u2009", "").strip()
    if found := re.fullmatch(r"(-?[\d.]+)·10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", plain):
        return float(found[1]) * 10.0 ** int(found[2].translate(RAISED))
    if found := re.fullmatch(r"(-?[\d.]+) (B|KiB|MiB)", plain):
        return float(found[1]) * {"B": 1, "KiB": 1024, "MiB": 1024**2}[found[2]]
    return float(plain.split(" ")[0])


def numbers(page: Any, selector: str) -> list[float]:
    return [number(text) for text in page.eval_on_selector_all(selector, "all => all.map(one => one.textContent)")]


def shown_matrix(page: Any, use: str) -> np.ndarray:
    page.click(f"#matrix-{use} button[aria-expanded=false]")
    rows = page.eval_on_selector_all(
        f"#matrix-{use} table tbody tr",
        "rows => rows.map(row => [...row.querySelectorAll('td')].map(cell => cell.textContent))",
    )
    return np.array([[float(cell.replace("−", "-")) for cell in row] for row in rows], np.float32)


class Keeper(Observer):
    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], AttentionEvent] = {}

    def attention(self, event: AttentionEvent) -> None:
        self.seen[event.use, event.layer] = event


@pytest.fixture(scope="module")
def translator(grouped_run: Path) -> Translator:
    found = load(grouped_run)
    assert isinstance(found, Translator)
    return found


@pytest.fixture(scope="module")
def trace(translator: Translator) -> Trace:
    return translator.trace(TEXT, beam_size=4)


@pytest.fixture(scope="module")
def document(trace: Trace) -> dict[str, Any]:
    found: dict[str, Any] = encode(trace)
    return found


def first(trace: Trace) -> Writing:
    writing = trace.writings[0]
    assert writing is not None
    return writing


def source_and_target(translator: Translator) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens, by the public face and not by the tracer."""
    tokenizer = translator.source_tokenizer
    ids = translator.generate([TEXT], beam_size=4)[0].hypotheses[0].token_ids
    source = [*translator.source_ids(TEXT, translator.decoding), tokenizer.eos_id]
    return torch.tensor([source]), torch.tensor([[translator.target_tokenizer.bos_id, *ids[:-1]]])


@pytest.mark.parametrize(("layer", "head"), [(0, 1), (1, 3)])
@torch.inference_mode()
def test_matrices_are_the_engines_bit_by_bit(
    pages: Pages, translator: Translator, document: dict[str, Any], layer: int, head: int
) -> None:
    page = pages.draw(pages.open(document, f"layer={layer}&head={head}"))
    source, target = source_and_target(translator)
    keeper, model = Keeper(), translator.model
    mask = torch.ones_like(source, dtype=torch.bool)
    model.encode(source, mask, keeper)
    cross = model.decoder.source_keys_values(model.encode(source, mask))  # as the fused path that translates has them
    model.decoder(target, cross, mask[:, None, None], None, keeper)
    for use in ("encoder", "decoder", "cross"):
        shown = shown_matrix(page, use)
        assert np.array_equal(shown, keeper.seen[use, layer].weights[0, head].numpy()), use  # type: ignore[index]
        assert np.abs(shown.sum(1) - 1).max() < 1e-5
    upper = np.triu(np.ones((len(target[0]),) * 2, bool), 1)
    assert (shown_again(page, "decoder")[upper] == 0).all()
    assert (np.triu(shown_again(page, "encoder"), 1).max()) > 0
    for use in ("encoder", "decoder", "cross"):
        page.click(f"#matrix-{use} button[aria-expanded=true]")
        page.click(f"{'#mask' if use == 'decoder' else f'#{use}'} .choice button >> text=scores")
        assert np.array_equal(shown_matrix(page, use), keeper.seen[use, layer].scores[0, head].numpy()), use  # type: ignore[index]


def shown_again(page: Any, use: str) -> np.ndarray:
    page.click(f"#matrix-{use} button[aria-expanded=true]")
    return shown_matrix(page, use)


def test_an_engine_without_a_mask_shows_on_the_page(
    pages: Pages, grouped_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everything(new: int, past: int, device: torch.device | None = None) -> torch.Tensor:
        return torch.ones(1, 1, new, past + new, dtype=torch.bool)

    monkeypatch.setattr(pellucid.model.transformer, "causal_mask", everything)
    page = pages.draw(pages.open(encode(load(grouped_run).trace(TEXT))))
    assert number(page.inner_text("#mask .figure-value >> nth=0")) > 0
    assert page.locator("#matrix-decoder .cell.masked").count() == 0
    assert (np.triu(shown_matrix(page, "decoder"), 1) > 0).any()


def test_padding_is_hatched_and_gets_nothing(pages: Pages, translator: Translator) -> None:
    page = pages.draw(pages.open(encode(translator.trace(TEXT, padding=2))))
    weights = shown_matrix(page, "encoder")
    size = len(weights)
    assert (weights[:, -2:] == 0).all() and page.locator("#matrix-encoder .cell.masked").count() == 2 * size
    assert (shown_matrix(page, "cross")[:, -2:] == 0).all()


@torch.inference_mode()
def test_the_input_is_the_embedding_with_its_position(
    pages: Pages, translator: Translator, document: dict[str, Any]
) -> None:
    page = pages.draw(pages.open(document))
    tok, pe, total = (np.array(numbers(page, f"#position table.sum tr:nth-child({row}) td")) for row in (1, 2, 3))
    source, _ = source_and_target(translator)
    embedder = translator.model.encoder.embedder
    rows = embedder.embedding.weight[source[0, 0]].numpy() * np.sqrt(translator.model.config.hidden_size)
    formula = np.array([[np.sin(0.0), np.cos(0.0)]] * 4).ravel()  # position 0
    assert np.abs(tok - rows[:8]).max() < 1e-4 and np.abs(pe - formula).max() < 1e-4
    assert np.abs(total - (rows[:8] + formula)).max() < 1e-4


@torch.inference_mode()
def test_without_positions_the_order_is_lost(pages: Pages, translator: Translator, document: dict[str, Any]) -> None:
    page = pages.draw(pages.open(document))
    source, _ = source_and_target(translator)
    length = source.shape[1]
    both = torch.cat((source, source[:, [*reversed(range(length - 1)), length - 1]]))
    model, positions = translator.model, translator.model.encoder.embedder.positions
    bos = torch.full((2,), translator.target_tokenizer.bos_id)
    measured = {}
    try:
        for name in ("on", "off"):
            model.encoder.embedder.positions = positions if name == "on" else NoPositions()
            mask = torch.ones_like(both, dtype=torch.bool)
            logits = model.step(bos, model.start_cache(model.encode(both, mask), mask))
            measured[name] = float((logits[0] - logits[1]).abs().max())
    finally:
        model.encoder.embedder.positions = positions
    on, off = (numbers(page, f"#position .card.{name} .figure-value")[1] for name in ("on", "off"))
    assert on == pytest.approx(measured["on"], rel=0.01) and on > 1e-2
    assert off < 1e-5 and measured["off"] < 1e-5


def test_a_cell_is_its_dot_product(pages: Pages, trace: Trace, document: dict[str, Any]) -> None:
    cases = (("encoder", "encoder", 3, 1), ("decoder", "mask", 2, 1), ("cross", "cross", 4, 2))
    writing = first(trace)
    sides = {"encoder": trace.encoder, "decoder": writing.decoder, "cross": writing.cross}
    for use, panel, row, column in cases:
        page = pages.draw(pages.open(document, f"layer=0&head=2&use={use}&cell={row}.{column}"))
        side = sides[use]
        query = side.q[0].values[2].astype(np.float64)
        key = side.k[0].values[trace.gqa.q_to_kv.self[2]].astype(np.float64)
        scores = query @ key.T / np.sqrt(query.shape[1])
        if use == "decoder":
            scores = np.where(np.tril(np.ones_like(scores)), scores, -np.inf)
        weights = np.exp(scores[row] - scores[row].max())
        shown = [number(text) for text in re.findall(r"[-−]?\d+\.\d+", page.inner_text(f"#{panel} .equation"))]
        expected = [
            query[row] @ key[column],
            np.sqrt(query.shape[1]),
            scores[row, column],
            weights[column] / weights.sum(),
        ]
        assert shown == pytest.approx(expected, abs=1e-3), use
        page.context.close()


def test_teacher_forcing_equals_one_by_one(
    pages: Pages, translator: Translator, trace: Trace, document: dict[str, Any]
) -> None:
    page = pages.draw(pages.open(document, "t=2"))
    text = translator.generate([TEXT], beam_size=4)[0].text
    logp = translator.score([TEXT], [text])[0].token_logprobs
    assert page.inner_text("#forcing .figure-value >> nth=0") == f"1 : {len(logp)}"
    assert number(page.inner_text("#forcing .figure-value >> nth=3")) <= 1e-5
    parallel, serial, apart = numbers(page, "#forcing table td")
    assert parallel == pytest.approx(logp[2], abs=1e-5) == serial and apart < 1e-4


@torch.inference_mode()
def test_the_cache_holds_what_the_formula_says(
    pages: Pages, translator: Translator, trace: Trace, document: dict[str, Any]
) -> None:
    page = pages.draw(pages.open(document))
    source, target = source_and_target(translator)
    mask = torch.ones_like(source, dtype=torch.bool)
    cache = translator.model.start_cache(translator.model.encode(source, mask), mask)
    config = translator.model.config
    position = 2 * config.decoder_layers * config.self_kv_heads * config.head_size * 4
    for t, token in enumerate(target[0]):
        translator.model.step(token[None], cache)
        page.fill("input[type=range]", str(t))
        page.wait_for_function("t => document.querySelector('output.step').dataset.step == t", arg=str(t))
        pages.settle(page)
        own, cross, allocated = numbers(page, "#cache .figure-value")[:3]
        held = cache.allocated_bytes()
        tensors = [one for pair in cache._self if pair for one in pair]
        assert held.self_attention == sum(one.numel() * one.element_size() for one in tensors)
        assert own == pytest.approx(position * (t + 1), rel=0.05, abs=60)  # shown with one decimal of KiB
        assert cross == pytest.approx(position * source.shape[1], rel=0.05)
        assert allocated == pytest.approx(held.self_attention + held.cross_attention, rel=0.05)
        cells = {kind: page.locator(f"#cache .shelf-cells i.{kind}").count() for kind in ("new", "reused", "cross")}
        lines = config.decoder_layers * config.self_kv_heads
        assert cells == {"new": lines, "reused": lines * t, "cross": lines * source.shape[1]}
    assert "the same tokens" in page.inner_text("#cache .finding")


def test_query_heads_are_wired_as_the_config_says(
    pages: Pages, translator: Translator, document: dict[str, Any]
) -> None:
    page = pages.draw(pages.open(document, "head=1"))
    config = translator.model.config
    labels = page.eval_on_selector_all("#gqa .query", "all => all.map(one => one.getAttribute('aria-label'))")
    group = config.num_heads // config.self_kv_heads
    assert labels == [
        f"Query head {head + 1} reads key/value head {head // group + 1}" for head in range(config.num_heads)
    ]
    assert "heads 1, 2" in page.inner_text("#gqa .finding") and "grouped-query" in page.inner_text("#gqa .finding")
    actual, mha, ratio = numbers(page, "#gqa .figure-value")
    assert mha == pytest.approx(2 * actual, rel=0.05) and ratio == group
    page.click("#gqa .query >> nth=3")
    page.wait_for_function("() => document.querySelector('#gqa .finding').textContent.includes('heads 3, 4')")


@pytest.mark.parametrize("beam", [4, 1])
def test_the_n_best_list_is_the_command_lines(
    pages: Pages, grouped_run: Path, translator: Translator, run: Run, beam: int
) -> None:
    lines = run("translate", "-m", grouped_run, "--beam-size", beam, "--n-best", beam, TEXT)
    printed = [line.split(" ||| ") for line in lines.out.splitlines()]
    trace = translator.trace(TEXT, beam_size=beam)
    page = pages.draw(pages.open(encode(trace)))
    rows = page.eval_on_selector_all(
        "#search table.best tbody tr",
        "rows => rows.map(row => [row.querySelector('.pick').textContent, row.lastElementChild.textContent])",
    )
    if beam == 1:
        assert lines.out.splitlines() == [rows[0][0]]
        texts = page.eval_on_selector_all("#search .node.path b", "all => all.map(one => one.textContent)")
        assert texts == [token.text for token in first(trace).tgt]
        assert page.locator("#search .node.path:not(.greedy)").count() == 0
        assert "is greedy search" in page.inner_text("#search .finding")
        return
    assert [row[0] for row in rows[:beam]] == [text for _, text, _ in printed]
    assert [number(row[1]) for row in rows[:beam]] == pytest.approx([float(score) for *_, score in printed], abs=6e-5)
    scores = [float(score) for *_, score in printed]
    assert [one.score for one in trace.search.nbest] == pytest.approx(scores, abs=1e-4)
    status = {node.id: node.status for node in trace.search.nodes}
    assert all(status[node.parent] == "kept" for node in trace.search.nodes if node.parent is not None)
    shown = page.locator("#search .node.kept, #search .node.finished").count()
    assert shown == sum(one in ("kept", "finished") for one in status.values())


def test_what_is_copied_for_an_unknown_word_is_shown_as_it_is_printed(pages: Pages, grouped_run: Path) -> None:
    translator = load(grouped_run)
    settings = {"prefix_tokens": ["<unk>"], "beam_size": 2}
    text = "Zürich ba da"
    translator.decoding = translator.settings(unknown="copy")
    printed = translator.generate([text], **settings)[0].text
    assert "⁇" not in printed
    unknown = translator.target_tokenizer.unk_id
    page = pages.open(encode(translator.trace(text, prefix_ids=[unknown], beam_size=2)))
    assert page.inner_text(".sentence-target") == (printed or "∅")
    translator.decoding = translator.settings(unknown="keep")
    page = pages.open(encode(translator.trace(text, prefix_ids=[unknown], beam_size=2)))
    assert "⁇" in page.inner_text(".sentence-target")
