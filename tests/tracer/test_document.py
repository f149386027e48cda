"""The trace as a file and as figures, and what is said to those who ask for what there is not."""

from __future__ import annotations

import base64
import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_models import TEXT, make_translator

from pellucid.errors import ConfigError, DataError, LengthError, MissingExtraError
from pellucid.tracing.arrays import Array
from pellucid.tracing.figures import CHINESE_FONTS
from pellucid.tracing.json_form import dumps, encode, encode_live, find
from pellucid.tracing.trace import Trace
from pellucid.translator import Translator


@pytest.fixture(scope="module")
def translator() -> Translator:
    return make_translator()


@pytest.fixture(scope="module")
def trace(translator: Translator) -> Trace:
    return translator.trace(TEXT, beam_size=2)


# -- arrays


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
def test_an_array_keeps_its_bits(dtype: torch.dtype) -> None:
    tensor = (torch.randn(2, 3) * 5).to(dtype)
    if dtype.is_floating_point:
        tensor[0, 0], tensor[0, 1], tensor[0, 2] = float("nan"), float("-inf"), -0.0
    array = Array.of(tensor, "a", "b")
    again = Array.decode(json.loads(json.dumps(array.encode())))
    assert (again.dtype, again.axes, again.shape) == (str(dtype).removeprefix("torch."), ("a", "b"), (2, 3))
    raw = base64.b64decode(again.encode()["b64"])
    assert raw == bytes(tensor.view(torch.uint8).flatten().tolist())
    assert np.array_equal(again.values, tensor.double().numpy(), equal_nan=dtype.is_floating_point)


def test_the_page_of_the_format_has_an_example_that_is_right() -> None:
    value = {"dtype": "float32", "shape": [1, 2, 2], "axes": list("abc"), "b64": "AACAPwAAAAAAAAA/AAAAPw=="}
    assert Array.decode(value).values.tolist() == [[[1.0, 0.0], [0.5, 0.5]]]
    assert Array.decode({"dtype": "bool", "shape": [3], "axes": ["a"], "b64": "AQAB"}).values.tolist() == [
        True,
        False,
        True,
    ]


# -- files


def test_a_saved_trace_is_read_as_it_was(trace: Trace) -> None:
    trace.save("t.json")
    again = Trace.load("t.json")
    assert encode(again) == encode(trace)
    assert isinstance(again, Trace) and np.array_equal(again.encoder.attn[1].values, trace.encoder.attn[1].values)
    assert "NaN" not in Path("t.json").read_text() or json.loads(Path("t.json").read_text())


def test_numbers_that_json_does_not_have_are_strings() -> None:
    assert dumps(encode([float("nan"), float("inf"), -float("inf"), 0.1])) == '["NaN","Infinity","-Infinity",0.1]'


CASES: list[tuple[str, Any, str]] = [
    ("not JSON", "{", "not a trace of pellucid (it is not JSON)"),
    ("something else", {"format": "x"}, "not a trace of pellucid (it has no format: pellucid-trace)"),
    (
        "another version",
        {"schema": 2},
        "a trace of schema version 2, and this pellucid reads version 1: trace the text",
    ),
    ("a field missing", {"src": None}, "not a complete trace: src"),
    ("an unknown field", {"nope": 1}, "not a complete trace: nope"),
    ("a reference", {"encoder": {"ref": "encoder"}}, "not a complete trace: encoder"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_no_trace_is_refused(trace: Trace, change: Any, message: str) -> None:
    text = change if isinstance(change, str) else json.dumps({**encode(trace), **change})
    Path("t.json").write_text(text)
    with pytest.raises(DataError) as caught:
        Trace.load("t.json")
    assert str(caught.value).startswith("t.json: ") and message in str(caught.value)


def test_an_array_that_is_cut_short_is_refused(trace: Trace) -> None:
    value = copy.deepcopy(encode(trace))
    value["encoder"]["attn"][0]["b64"] = value["encoder"]["attn"][0]["b64"][:8]
    Path("t.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=r"encoder/attn/0: 6 bytes do not make an array of shape"):
        Trace.load("t.json")


# -- piece by piece


def test_what_is_referred_to_is_there(translator: Translator) -> None:
    text = " ".join(f"w{number % 20}" for number in range(30))
    live = translator.tracer.start({"text": text, "beam_size": 2, "top_k": 2})
    document = encode_live(live.trace)
    references = list(_references(document))
    assert {"writings/1", "writings/0/cover"} <= set(references)
    assert any(reference.startswith("encoder/attn/") for reference in references) == (4 * 31 * 31 * 4 > 16384)
    for reference in references:
        live.fill(reference)
        assert find(live.trace, reference) is not None
    assert list(_references(encode_live(live.complete(), "writings"))) is not None
    assert not list(_references(encode(live.complete())))
    for path in ("nope", "writings/9", "encoder/attn/-1", "encoder/attn/x", "encoder/__class__", ""):
        live.fill(path)
        with pytest.raises(KeyError):
            find(live.trace, path)


def _references(value: Any) -> Any:
    if isinstance(value, dict):
        if "ref" in value:
            yield value["ref"]
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


# -- what is asked


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"beem_size": 2}, "unknown setting beem_size"),
        ({"beam_size": 17}, "beam_size = 17"),
        ({"beam_size": 2, "n_best": 3}, "n_best (3) must not exceed beam_size (2)"),
        ({"n_best": 5}, "n_best (5) must not exceed beam_size (3)"),
        ({"permutation": [0, 1]}, "permutation must hold each number from 0 to 5 once"),
        ({"permutation": [5, 1, 2, 3, 4, 0]}, "permutation may change places 0 to 4 only"),
        ({"prefix_ids": [99]}, "there is no token 99: the vocabulary's numbers end at 23"),
        ({"prefix_ids": [3, 4]}, "nothing can follow </s>"),
        ({"prefix_ids": [0]}, "which is forbidden"),
        ({"prefix_ids": [4] * 9}, "the forced prefix has 9 tokens"),
        ({"corrupt": {"at": 50, "token": 4}}, "row 50 has nothing behind it"),
        ({"corrupt": {"at": 1, "token": 24}}, "there is no token 24"),
        ({"corrupt": {"at": 1}}, "corrupt.token"),
        ({"padding": 9}, "padding = 9"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(translator: Translator, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        translator.trace(TEXT, **request_)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_a_blank_text_is_refused(translator: Translator, text: str) -> None:
    with pytest.raises(DataError, match="nothing to trace: the text is blank"):
        translator.trace(text)


@pytest.mark.parametrize("text", ["👩‍👩‍👧", "。！？", "w1", "w1 w1", "مرحبا", "w1 😀 w2", "x" * 300])
def test_any_other_text_is_traced(translator: Translator, text: str) -> None:
    trace = translator.trace(text)
    assert len(trace.src) == len(trace.encoder.pad_mask)
    assert (trace.position.ablation is None) == (len({token.id for token in trace.src[:-1]}) < 2)


def test_a_text_that_is_too_long_is_refused_before_anything_is_computed() -> None:
    with pytest.raises(LengthError, match="41 tokens does not fit the 40 learned positions"):
        make_translator(positions="learned").trace(" ".join(["w1"] * 40))


def test_a_forced_end_is_an_end(translator: Translator) -> None:
    trace = translator.trace(TEXT, prefix_ids=[5, 6, 3], beam_size=2)
    assert [one.ids for one in trace.search.nbest] == [[5, 6, 3]]


# -- figures and the page


def test_figures_are_drawn_from_the_numbers(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = trace.plot_attention("cross", layer=1)
    assert [len(axis.images) for axis in figure.axes] == [1] * 4
    assert np.array_equal(figure.axes[2].images[0].get_array(), trace.writings[0].cross.attn[1].values[2])  # type: ignore[union-attr]
    assert len(trace.plot_attention("encoder", head=0).axes) == 1
    assert len(trace.plot_beam().axes[0].texts) == len(trace.search.nodes)
    assert len(trace.plot_cache().axes) == 2
    trace.plot_beam().savefig("beam.pdf")
    for arguments in (("nope",), ("cross", 0, 9), ("cross", 5)):
        names = dict(zip(("kind", "layer", "head"), arguments, strict=False))
        with pytest.raises(ConfigError, match=r"unknown kind|there is no"):
            trace.plot_attention(**names)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="there is no writing 7"):
        trace.plot_cache(writing=7)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pellucid\[plot\]'"):
        trace.plot_beam()


def test_labels_have_a_font_for_chinese_behind_the_usual_one(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import font_manager, rcParams

    usual = list(rcParams["font.family"])
    fonts = [font for font in font_manager.fontManager.ttflist if font.name not in CHINESE_FONTS]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    assert trace.plot_beam().axes[0].texts[0].get_fontfamily() == usual
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*fonts, font_manager.FontEntry(name="SimHei")])
    label = trace.plot_attention(head=0).axes[0].get_xticklabels()[0]
    assert label.get_fontfamily() == trace.plot_beam().axes[0].texts[0].get_fontfamily() == [*usual, "SimHei"]
    assert rcParams["font.family"] == usual


def test_the_page_in_one_file_holds_the_trace(trace: Trace) -> None:
    trace.save_html("t.html")
    page = Path("t.html").read_text(encoding="utf-8")
    start = page.index('<script type="application/json" id="pellucid-trace">')
    document = page[page.index(">", start) + 1 : page.index("</script>", start)]
    assert json.loads(document) == encode(trace)
    assert trace._repr_html_().startswith('<iframe sandbox="allow-scripts"')
