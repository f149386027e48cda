"""What a page asks first: a question that is being answered already is not computed a second time."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from pellucid.errors import LengthError
from pellucid.explorer import api as api_module
from pellucid.explorer.api import Api, ApiError


class SlowTracer:
    """Computes one trace after the other, as the real one does, and waits for ``go`` in each."""

    def __init__(self) -> None:
        self.translator: Any = SimpleNamespace(folder=None, decoding=None, source_ids=lambda text, decoding: [1, 2])
        self.name, self.checkpoint_sha, self.sizes = "slow", "", None
        self.begun: list[str] = []
        self.lock, self.go = threading.Lock(), threading.Event()

    def start(self, request: Any, source: str = "live") -> Any:
        with self.lock:
            self.begun.append(request["text"])
            assert self.go.wait(30)
            if request["text"] == "long":
                raise LengthError("too long")
            return SimpleNamespace(trace=SimpleNamespace(id=request["text"]), fill=None, complete=None)


def test_the_same_question_twice_at_once_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "_document", lambda live: {"id": live.trace.id})
    tracer = SlowTracer()
    api = Api(tracer)
    example = json.dumps({"text": "example"}).encode()  # as the page asks for its first example
    typed = json.dumps({"text": "example", "prefix_ids": [], "permutation": None, "n_best": None}).encode()
    wrong = json.dumps({"text": "long"}).encode()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(api.start, body) for body in (example, typed, typed)]
        refused = [pool.submit(api.start, wrong) for _ in range(2)]
        time.sleep(0.5)
        tracer.go.set()
        assert [one.result(30) for one in asked] == [{"id": "example"}] * 3
        for one in refused:
            with pytest.raises(ApiError, match="too long"):
                one.result(30)
    assert sorted(tracer.begun) == ["example", "long"]
    api.start(example)  # nothing stays behind
    with pytest.raises(ApiError, match="too long"):
        api.start(wrong)
