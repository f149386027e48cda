"""The explorer's server: FastAPI around ``api.py``, on this machine only.

The one file about FastAPI and uvicorn. Refuses requests that a page of another origin, or a name that leads here from
outside (DNS rebinding), might make.
"""

from __future__ import annotations

import socket
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from pellucid.errors import ConfigError, MissingExtraError
from pellucid.explorer.api import MAX_BODY, Api, ApiError
from pellucid.explorer.page import STATIC
from pellucid.tracing.json_form import dumps

__all__ = ["HOST", "bind", "create_app", "serve"]

HOST = "127.0.0.1"

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".json": "application/json"}
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}

Handler = Callable[[Any], Awaitable[Any]]


def bind(port: int | None) -> socket.socket:
    """A socket on this machine's own address; a free port where none is given.

    Raises:
        ConfigError: the port is taken, or may not be used.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port or 0))
    except OSError as error:
        listening.close()
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"port {port} cannot be used ({reason}): choose another --port, or leave it out") from None
    return listening


def serve(api: Api, listening: socket.socket) -> None:
    """Answer until interrupted.

    Raises:
        MissingExtraError: FastAPI or uvicorn is not installed.
    """
    try:
        import uvicorn
    except ImportError:
        raise MissingExtraError("explorer", "the explorer's server") from None
    app = create_app(api, listening.getsockname()[1])
    config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1, ws="none")
    uvicorn.Server(config).run(sockets=[listening])


def create_app(api: Api, port: int) -> Any:
    """The application, as an ASGI callable, for a server at that port.

    Raises:
        MissingExtraError: FastAPI is not installed.
    """
    try:
        from fastapi import FastAPI
        from starlette.concurrency import run_in_threadpool
        from starlette.exceptions import HTTPException
        from starlette.responses import Response
    except ImportError:
        raise MissingExtraError("explorer", "the explorer's server") from None

    def respond(status: int, text: str, kind: str = "application/json", **headers: str) -> Response:
        return Response(text, status, {**HEADERS, **headers}, media_type=kind)

    def failed(error: ApiError) -> Response:
        return respond(error.status, dumps(error.body()))

    def answering(compute: Callable[[Any, bytes], Response]) -> Handler:
        async def handle(request: Any) -> Response:
            try:
                _check_origin(request.headers, port)
                body = await _body(request)
                return await run_in_threadpool(compute, request.path_params, body)
            except ApiError as error:
                return failed(error)
            except Exception:
                traceback.print_exc(file=sys.stderr)
                return failed(
                    ApiError(500, "internal", "a bug of pellucid: its terminal says more; the server goes on")
                )

        return handle

    def page(path: Any, body: bytes) -> Response:
        text, kind = _static(path.get("file", "index.html"))
        return respond(200, text, kind)

    def saved(path: Any, body: bytes) -> Response:
        trace, name = api.saved(path["id"]), f"trace-{path['id']}.{path['form']}"
        disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
        if path["form"] == "html":
            # A page of its own, with scripts inside, is for saving and not for being shown from here.
            return respond(200, trace.to_html(), "text/html", **disposition)
        return respond(200, trace.to_json(), **disposition)

    def saved_form(form: str) -> Callable[[Any, bytes], Response]:
        return lambda path, body: saved({**path, "form": form}, body)

    app = FastAPI(title="pellucid", docs_url=None, redoc_url=None, openapi_url=None)
    answers: list[tuple[str, str, Callable[[Any, bytes], Response]]] = [
        ("GET", "/api/model", lambda path, body: respond(200, dumps(api.model()))),
        ("POST", "/api/traces", lambda path, body: respond(200, dumps(api.start(body)))),
        ("GET", "/api/traces/{id}/parts/{ref:path}", lambda p, body: respond(200, dumps(api.part(p["id"], p["ref"])))),
        ("GET", "/api/traces/{id}/trace.json", saved_form("json")),
        ("GET", "/api/traces/{id}/trace.html", saved_form("html")),
        ("GET", "/api/traces/{id}", lambda path, body: respond(200, dumps(api.trace(path["id"])))),
        ("GET", "/recorded/{name}", lambda path, body: respond(200, api.recorded(path["name"]))),
        ("GET", "/", page),
        ("GET", "/{file:path}", page),
    ]
    for method, path, compute in answers:
        app.add_route(path, answering(compute), methods=[method])

    async def refuse(request: Any, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == 405:
            return failed(ApiError(405, "bad_method", f"{request.method} is not for {request.url.path}"))
        return failed(ApiError(404, "not_found", f"there is nothing at {request.url.path}"))

    app.add_exception_handler(HTTPException, refuse)
    return app


def _check_origin(headers: Any, port: int) -> None:
    """Let in only what was asked from a page of this very server, or from no page at all.

    Raises:
        ApiError: another host or origin.
    """
    hosts = [f"{name}:{port}" for name in (HOST, "localhost")]
    host, origin = headers.get("host", ""), headers.get("origin")
    if host not in hosts:
        raise ApiError(403, "bad_host", f"this server answers to {' and '.join(hosts)} only")
    if origin is not None and origin not in [f"http://{name}" for name in hosts]:
        raise ApiError(403, "bad_origin", "this server answers to its own page only, not to one from elsewhere")


async def _body(request: Any) -> bytes:
    """The body, read no further than may be.

    Raises:
        ApiError: there is more.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise ApiError(413, "too_large", f"the request has more than {MAX_BODY:,} bytes: shorten it")
    return body


def _static(name: str) -> tuple[str, str]:
    """A file of the page and its type.

    Raises:
        ApiError: there is none of that name.
    """
    path = (STATIC / name).resolve()
    if not path.is_relative_to(STATIC) or not path.is_file() or path.suffix not in TYPES:
        raise ApiError(404, "not_found", f"there is nothing at /{name}")
    return path.read_text(encoding="utf-8"), TYPES[path.suffix]
