"""What the explorer's server answers, without a server: requests as values in, documents out, every error a sentence.

Knows traces; knows nothing of HTTP but the numbers of its statuses. May be called from many threads.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pellucid import __version__
from pellucid.errors import LengthError, PellucidError
from pellucid.tracing.json_form import encode_live, find
from pellucid.tracing.request import MAX_BEAM, MAX_PADDING, MAX_TOP_K, TraceRequest
from pellucid.tracing.trace import Trace

__all__ = ["MAX_BODY", "MAX_CHARS", "MAX_SOURCE_TOKENS", "Api", "ApiError", "Live", "Tracing"]

MAX_BODY = 64 << 10
MAX_CHARS = 2000
MAX_SOURCE_TOKENS = 256
KEPT_TRACES = 16
EXAMPLES_FILE = "examples.json"
RECORDED_ENDING = ".json.gz"
_FIGURES = ("beam", "score", "chrf")


@runtime_checkable
class Live(Protocol):
    """A trace that is computed as far as someone asks: a :class:`~pellucid.tracer.tracer.LiveTrace`."""

    trace: Trace

    def fill(self, path: str) -> None:
        """Compute what is missing on the way to a part."""
        ...

    def complete(self) -> Trace:
        """The trace with everything in it."""
        ...


@runtime_checkable
class Tracing(Protocol):
    """What makes traces of one model: a :class:`~pellucid.tracer.tracer.Tracer`."""

    translator: Any
    name: Any
    checkpoint_sha: Any
    sizes: Any

    def start(self, request: Mapping[str, Any], source: Literal["live", "recorded"] = "live") -> Live:
        """A trace of which the first writing is there."""
        ...


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        code: for the page.
        message: one sentence with the way out.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message

    def body(self) -> dict[str, Any]:
        """As a value for JSON."""
        return {"error": {"code": self.code, "message": self.message}}


class Api:
    """The answers for one model, or for none.

    Args:
        tracer: of the model; None where none could be loaded.
        reason: then, why not.
        recorded: folder with traces that came with pellucid, each as ``NAME.json.gz``.
    """

    def __init__(self, tracer: Tracing | None, reason: str = "", recorded: Path | None = None) -> None:
        self._tracer, self._reason, self._recorded = tracer, reason, recorded
        self._traces: OrderedDict[str, Live] = OrderedDict()
        self._starting: dict[str, Future[Live]] = {}  # what is being computed, by its request
        self._lock = threading.Lock()

    def model(self) -> dict[str, Any]:
        """What the page has to know before anything is traced."""
        tracer = self._tracer
        fault = self._fault()
        return {
            "model": None if tracer is None else _describe(tracer),
            "error": None if fault is None else fault.body()["error"],
            "limits": {
                "text_chars": MAX_CHARS,
                "source_tokens": MAX_SOURCE_TOKENS,
                "beam_size": MAX_BEAM,
                "top_k": MAX_TOP_K,
                "padding": MAX_PADDING,
            },
            "examples": [] if tracer is None else _examples(tracer.translator.folder),
            "recorded": [
                {"name": name, "url": f"/recorded/{name}.json"} for name in map(_recorded_name, self._recorded_files())
            ],
        }

    def start(self, body: bytes) -> dict[str, Any]:
        """Trace what the body of a request asks for.

        What is being computed already is waited for: a page asks for its first example, and who types the same then
        (which aborts that question, but not its computation) must not wait for both, one after the other.
        """
        request = _read(body)
        tracer = self._present()
        _check_text(tracer, request.text)
        asked = request.model_dump_json()
        with self._lock:
            coming = self._starting.get(asked)
            if is_first := coming is None:
                coming = self._starting[asked] = Future()
        if is_first:
            try:
                coming.set_result(tracer.start(request.model_dump(), "live"))
            except BaseException as error:
                coming.set_exception(error)
            with self._lock:
                del self._starting[asked]
        try:
            live = coming.result()
        except LengthError as error:
            raise ApiError(422, "too_long", str(error)) from None
        except PellucidError as error:
            raise ApiError(422, "input", str(error)) from None
        with self._lock:
            # The same question again is the same document: a reference that was given out stays true.
            live = self._traces.setdefault(live.trace.id, live)
            self._traces.move_to_end(live.trace.id)
            while len(self._traces) > KEPT_TRACES:
                self._traces.popitem(last=False)
        return _document(live)

    def trace(self, identity: str) -> dict[str, Any]:
        """A trace that was made before."""
        return _document(self._kept(identity))

    def part(self, identity: str, path: str) -> Any:
        """What a reference stands for."""
        live = self._kept(identity)
        live.fill(path)
        try:
            value = find(live.trace, path)
        except KeyError:
            raise ApiError(404, "not_found", f"this trace has no part {path}: follow the references it gives") from None
        # What was asked for comes whole; what is below it may be referred to again.
        return value.encode() if hasattr(value, "encode") and hasattr(value, "axes") else encode_live(value, path)

    def saved(self, identity: str) -> Trace:
        """A trace with everything in it."""
        return self._kept(identity).complete()

    def recorded(self, name: str) -> str:
        """The text of a trace that came with pellucid."""
        for path in self._recorded_files():
            if _recorded_name(path) + ".json" == name:
                return gzip.decompress(path.read_bytes()).decode()
        raise ApiError(404, "not_found", f"no recorded trace is called {name}")

    def _recorded_files(self) -> list[Path]:
        return (
            []
            if self._recorded is None or not self._recorded.is_dir()
            else sorted(self._recorded.glob(f"*{RECORDED_ENDING}"))
        )

    def _fault(self) -> ApiError | None:
        """Why nothing can be traced now, if so."""
        if self._tracer is None:
            return ApiError(503, "no_model", self._reason)
        folder = self._tracer.translator.folder
        if folder is None or folder.is_dir():
            return None
        sentence = f"the model folder {folder} has disappeared: put it back, or start pellucid explore with another one"
        return ApiError(503, "model_gone", sentence)

    def _present(self) -> Tracing:
        fault = self._fault()
        if fault is not None or self._tracer is None:
            raise fault or ApiError(503, "no_model", self._reason)
        return self._tracer

    def _kept(self, identity: str) -> Live:
        with self._lock:
            live = self._traces.get(identity)
            if live is None:
                raise ApiError(404, "trace_gone", "the server has forgotten this trace: send its request again")
            self._traces.move_to_end(identity)
            return live


def _recorded_name(path: Path) -> str:
    return path.name.removesuffix(RECORDED_ENDING)


def _read(body: bytes) -> TraceRequest:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "bad_request", 'the body is not JSON: send an object such as {"text": "..."}') from None
    if not isinstance(values, dict):
        raise ApiError(400, "bad_request", 'the body is not an object: send one such as {"text": "..."}')
    try:
        return TraceRequest.read(values)
    except PellucidError as error:
        raise ApiError(400, "bad_request", str(error)) from None


def _check_text(tracer: Tracing, text: str) -> None:
    if not text.strip():
        raise ApiError(422, "empty", "nothing to trace: the text is blank, type a sentence")
    if len(text) > MAX_CHARS:
        raise ApiError(
            422, "too_long", f"{len(text)} characters are more than the {MAX_CHARS} that are traced: shorten it"
        )
    try:
        text.encode()
        tokens = len(tracer.translator.source_ids(text, tracer.translator.decoding)) + 1
    except UnicodeEncodeError:
        raise ApiError(
            422, "input", "the text holds half of a surrogate pair, which is no character: remove it"
        ) from None
    except LengthError as error:
        raise ApiError(422, "too_long", str(error)) from None
    except PellucidError as error:
        raise ApiError(422, "input", str(error)) from None
    if tokens > MAX_SOURCE_TOKENS:
        raise ApiError(
            422, "too_long", f"{tokens} tokens are more than the {MAX_SOURCE_TOKENS} that are traced: shorten the text"
        )


def _document(live: Live) -> dict[str, Any]:
    document: dict[str, Any] = encode_live(live.trace)
    return document


def _describe(tracer: Tracing) -> dict[str, Any]:
    model, decoding = tracer.translator.model, tracer.translator.decoding
    defaults = TraceRequest(text="").model_dump(mode="json") | {
        "beam_size": min(decoding.beam_size, MAX_BEAM),
        "n_best": min(decoding.beam_size, MAX_BEAM),
        "length_penalty": decoding.length_penalty,
        "length_alpha": decoding.length_alpha,
        "max_length": decoding.max_length,
    }
    return {
        "name": tracer.name,
        "checkpoint_sha": tracer.checkpoint_sha,
        "engine_version": __version__,
        "device": str(model.output.weight.device),
        "dtype": str(model.output.weight.dtype).removeprefix("torch."),
        "config": {"model": model.config.model_dump(mode="json"), "decoding": decoding.model_dump(mode="json")},
        "sizes": tracer.sizes.model_dump(),
        "position": {
            "scheme": model.config.positions,
            "max_length": model.encoder.embedder.positions.max_length,
        },
        "defaults": defaults,
    }


def _beam(value: Any) -> int | None:
    return value if isinstance(value, int) and 1 <= value <= MAX_BEAM else None


def _outputs(values: Any) -> list[dict[str, Any]]:
    """What beams of several widths made of an example; none where one of them does not say all that it should."""
    outputs = [one for one in values if isinstance(one, Mapping)] if isinstance(values, list) else []
    whole = all(
        isinstance(one.get("text"), str) and all(isinstance(one.get(name), (int, float)) for name in _FIGURES)
        for one in outputs
    )
    return [{name: one[name] for name in ("text", *_FIGURES)} for one in outputs] if whole else []


def _examples(folder: Path | None) -> list[dict[str, Any]]:
    """Sentences worth a look, from the model folder; none where there is no such file, or no list in it."""
    try:
        values = json.loads(((folder or Path()) / EXAMPLES_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    names = ("text", "kind", "reference", "credit")
    examples = values if isinstance(values, list) else []
    return [
        {name: str(example.get(name, "")) for name in names}
        | {"beam_size": _beam(example.get("beam_size")), "outputs": _outputs(example.get("outputs"))}
        for example in examples
        if isinstance(example, Mapping) and example.get("text")
    ]
