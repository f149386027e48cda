"""The explorer's server over real connections to this machine: what it gives, what it refuses, two clients at once."""

from __future__ import annotations

import gzip
import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from pellucid.errors import ConfigError, MissingExtraError
from pellucid.explorer import api as api_module
from pellucid.explorer.api import Api
from pellucid.explorer.server import bind, create_app
from pellucid.loading import load
from pellucid.tracing.json_form import encode, parse
from pellucid.tracing.trace import Trace
from toys import Run

Ask = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def api(tiny_run: Path) -> Api:
    return Api(load(tiny_run).tracer)


@pytest.fixture(scope="module")
def ask(api: Api) -> Iterator[Ask]:
    listening = bind(None)
    port = listening.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(api, port), log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()

    def call(path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read().decode()
        return status, json.loads(text) if text.startswith(("{", "[")) else text

    for _ in range(200):
        if server.started:
            break
        time.sleep(0.05)
    yield call
    server.should_exit = True
    thread.join(10)
    listening.close()


def test_the_page_is_there_and_nothing_beside_it(ask: Ask) -> None:
    assert ask("/")[1].lstrip().lower().startswith("<!doctype html>")
    assert ask("/style.css")[0] == 200
    for path in ("/../page.py", "/%2e%2e/page.py", "/nothing", "/vendor", "/api/nothing"):
        status, answer = ask(path)
        assert (status, answer["error"]["code"]) == (404, "not_found"), path


def test_a_trace_comes_in_parts_and_as_a_whole(ask: Ask, api: Api) -> None:
    status, model = ask("/api/model")
    assert status == 200 and model["model"]["sizes"]["heads"] == 2 and model["error"] is None
    status, trace = ask("/api/traces", {"text": "ba da ga", "beam_size": 2})
    assert status == 200 and trace["source"] == "live" and trace["writings"][1] == {"ref": "writings/1"}
    path = f"/api/traces/{trace['id']}"
    assert ask(f"{path}/parts/writings/1")[1]["text"] == trace["search"]["nbest"][1]["text"]
    assert ask(f"{path}/parts/encoder/attn/0")[1] == trace["encoder"]["attn"][0]
    assert ask(path)[1]["writings"][1]["text"] == trace["search"]["nbest"][1]["text"]
    whole = parse(json.dumps(ask(f"{path}/trace.json")[1]), Trace)
    assert whole.source == "recorded" and None not in whole.writings
    assert "pellucid-trace" in ask(f"{path}/trace.html")[1]
    assert ask(f"{path}/parts/encoder/nope")[1]["error"]["code"] == "not_found"
    again = ask("/api/traces", {"text": "ba da ga", "beam_size": 2})[1]
    assert again == ask(path)[1]  # undo: the same document, clock readings and all


CASES = [
    (b"x", 400, "bad_request"),
    (b"[]", 400, "bad_request"),
    (b'{"text": 1}', 400, "bad_request"),
    (b'{"beam_size": 2}', 400, "bad_request"),
    (b'{"text": "ba", "nope": 1}', 400, "bad_request"),
    (b'{"text": "ba", "beam_size": 17}', 400, "bad_request"),
    (b'{"text": " "}', 422, "empty"),
    (json.dumps({"text": "x" * 2001}).encode(), 422, "too_long"),
    (json.dumps({"text": "ba " * 256}).encode(), 422, "too_long"),
    (b'{"text": "\\ud800"}', 422, "input"),
    (b'{"text": "ba", "prefix_ids": [999]}', 422, "input"),
    (b"x" * 70_000, 413, "too_large"),
]


@pytest.mark.parametrize(("body", "status", "code"), CASES)
def test_bad_input_is_a_sentence(ask: Ask, body: bytes, status: int, code: str) -> None:
    found, answer = ask("/api/traces", body)
    assert (found, answer["error"]["code"]) == (status, code)
    assert set(answer["error"]) == {"code", "message"} and len(answer["error"]["message"]) > 20


def test_other_hosts_and_origins_are_refused(ask: Ask) -> None:
    for headers, code in (({"Host": "evil.example"}, "bad_host"), ({"Origin": "http://evil.example"}, "bad_origin")):
        status, answer = ask("/api/model", **headers)
        assert (status, answer["error"]["code"]) == (403, code)
        assert ask("/", **headers)[0] == 403


def test_two_clients_at_once_get_what_each_alone_gets(ask: Ask, api: Api) -> None:
    texts = ["ba da", "ga ka la", "ma", "na pa ra ta"]

    def outcome(text: str) -> Any:
        status, trace = ask("/api/traces", {"text": text, "beam_size": 2, "top_k": 3})
        calls = trace["writings"][0]["ar"]["calls"], len(trace["writings"][0]["tgt"])
        return status, trace["search"]["nbest"], calls[0] == calls[1]

    with ThreadPoolExecutor(4) as clients:
        together = list(clients.map(outcome, texts * 2))
    assert together == [outcome(text) for text in texts * 2]
    assert all(status == 200 and counted for status, _, counted in together)


def test_old_traces_are_forgotten(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "KEPT_TRACES", 1)
    fresh = Api(load(tiny_run).tracer)
    first = fresh.start(b'{"text": "ba"}')["id"]
    fresh.start(b'{"text": "da"}')
    with pytest.raises(api_module.ApiError) as caught:
        fresh.trace(first)
    assert (caught.value.status, caught.value.code) == (404, "trace_gone")


def test_a_model_folder_that_disappears(tiny_run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny_run / "best", tmp_path / "m")
    fresh = Api(load(tmp_path / "m").tracer)
    identity = fresh.start(b'{"text": "ba"}')["id"]
    shutil.rmtree(tmp_path / "m")
    with pytest.raises(api_module.ApiError, match="has disappeared: put it back") as caught:
        fresh.start(b'{"text": "da"}')
    assert (caught.value.status, caught.value.code) == (503, "model_gone")
    assert fresh.trace(identity)["id"] == identity  # what was traced stays


def test_without_a_model_the_page_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"{}"))
    none = Api(None, "there is no model", tmp_path)
    answer = none.model()
    assert answer["model"] is None and answer["error"] == {"code": "no_model", "message": "there is no model"}
    assert answer["recorded"] == [{"name": "a", "url": "/recorded/a.json"}] and none.recorded("a.json") == "{}"
    with pytest.raises(api_module.ApiError) as caught:
        none.start(b'{"text": "ba"}')
    assert caught.value.status == 503
    with pytest.raises(api_module.ApiError):
        none.recorded("../a.json")


def test_a_bug_is_a_sentence_too(ask: Ask, api: Api, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    def broken(body: bytes) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(api, "start", broken)
    status, answer = ask("/api/traces", {"text": "ba"})
    assert (status, answer["error"]["code"]) == (500, "internal") and "secret" not in answer["error"]["message"]
    assert "KeyError" in capfd.readouterr().err
    monkeypatch.undo()
    assert ask("/api/traces", {"text": "ba"})[0] == 200


# -- commands


def test_the_command_writes_document_and_page(run: Run, tiny_run: Path) -> None:
    assert run("trace", "--model", tiny_run, "ba da", "-o", "t.json", "--html", "t.html", "--beam-size", 2).status == 0
    trace = Trace.load("t.json")
    assert trace.request["text"] == "ba da" and trace.search.beam_size == 2
    assert "pellucid-trace" in Path("t.html").read_text(encoding="utf-8")
    result = run("trace", "--model", tiny_run, "ba da", "--beam-size", 2)
    assert result.status == 0
    printed = encode(parse(result.out, Trace))
    assert printed["id"] == trace.id and printed["search"] == encode(trace)["search"]


def test_a_model_that_is_not_there_is_an_error_and_no_recorded_trace(run: Run) -> None:
    assert run("explore", "nowhere", "--no-open").err == "pellucid: error: nowhere: no such model folder\n"


def test_a_port_that_is_taken_is_named() -> None:
    with bind(None) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} cannot be used"):
            bind(port)


def test_what_is_not_installed_is_said_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pellucid\[explorer\]'"):
        create_app(Api(None), 1)
