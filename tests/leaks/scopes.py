"""Scenarios: requests, by WSGI and ASGI: by each way that one can begin, go on and end."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from leaks.calls import fail, nap, refused
from leaks.measure import Scenarios

import sidecar
from sidecar import _core

scenario = Scenarios()

bridge = sidecar.Sidecar(name="scopes", workers=2, cleanup_timeout=60).start()
run: Any = bridge.run_sync
TRACED = {
    "REMOTE_ADDR": "127.0.0.1",
    "HTTP_X_REQUEST_ID": "theirs",
    "HTTP_TRACEPARENT": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "HTTP_TRACESTATE": "congo=t61",
    "HTTP_BAGGAGE": "userId=alice",
}


def serve(app: Any, environ: dict[str, Any] | None = None, **options: Any) -> list[bytes]:
    """As a server would, to the end."""
    return answer(sidecar.WSGIMiddleware(app, **options), environ)


def answer(app: Any, environ: dict[str, Any] | None = None) -> list[bytes]:
    body: Iterable[bytes] = app(dict(environ or {}), lambda *started: None)
    try:
        return list(body)
    finally:
        getattr(body, "close", lambda: None)()


def view(work: Callable[[], object]) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        work()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    return app


# -- WSGI ---------------------------------------------------------------------------


@scenario()
def a_list() -> None:
    assert serve(view(lambda: None)) == [b"ok"]


@scenario()
def a_generator() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"1"
        run(nap(0))
        yield b"2"

    assert serve(app) == [b"1", b"2"]


@scenario()
def a_generator_left_early() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"1"
        yield b"2"

    body = sidecar.WSGIMiddleware(app)({}, lambda *started: None)
    assert next(iter(body)) == b"1"


@scenario()
def a_trusted_trace() -> None:
    def work() -> None:
        request = sidecar.current()
        assert request is not None and request.id == "theirs" and request.baggage == {"userId": "alice"}
        assert request.headers()["tracestate"] == "congo=t61"

    assert serve(view(work), TRACED, trust="always") == [b"ok"]


@scenario()
def a_trace_that_is_not() -> None:
    def work() -> None:
        request = sidecar.current()
        assert request is not None and request.links and request.headers()["traceparent"]

    assert serve(view(work), TRACED) == [b"ok"]
    assert serve(view(work), {**TRACED, "HTTP_BAGGAGE": "=,;", "HTTP_TRACESTATE": "="}) == [b"ok"]


@scenario()
def an_error() -> None:
    refused(ValueError, serve, view(lambda: run(fail(ValueError([])))))


@scenario(20)
def a_deadline() -> None:
    assert b"deadline" in serve(view(lambda: run(nap(60))), deadline=0.0005)[0]


@scenario(20)
def a_deadline_in_a_step() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield run(nap(60))

    assert b"deadline" in serve(app, deadline=0.0005)[0]


@scenario()
def an_overload() -> None:
    def work() -> None:
        raise sidecar.Overloaded("no room")

    assert b"too much" in serve(view(work))[0]


@scenario()
def as_the_plugin_has_it() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"1"

    def refuses(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        raise sidecar.Overloaded("no room")
        yield b""

    assert serve(_core._guard(app)) == [b"1"]
    assert b"too much" in serve(_core._guard(refuses))[0]


@scenario(5)
def a_client_that_goes() -> None:
    server_end, client = socket.socketpair()
    with server_end:
        with client:
            pass
        refused(sidecar.ClientDisconnected, serve, view(lambda: run(nap(60))), {"gunicorn.socket": server_end})


@scenario(5)
def a_client_that_stays() -> None:
    server_end, client = socket.socketpair()
    with server_end, client:
        assert serve(view(lambda: run(nap(0.015))), {"gunicorn.socket": server_end}) == [b"ok"]


# -- what a request begins ------------------------------------------------------------


@scenario(20)
def tasks_left_behind() -> None:
    async def leave() -> None:
        asyncio.create_task(nap(60))
        await asyncio.sleep(0)

    assert serve(view(lambda: run(leave()))) == [b"ok"]


@scenario(20)
def submitted_work() -> None:
    kept: list[Any] = []

    def work() -> None:
        kept.append(bridge.submit(nap, 60))
        kept.append(bridge.submit(os.getpid))
        kept.append(bridge.submit(os.getpid, detach=True))

    assert serve(view(work)) == [b"ok"]
    assert kept[2].result(20) == os.getpid()
    assert kept[0].cancelled()


@scenario(20)
def streams_left_open() -> None:
    async def lines() -> Any:
        yield b"1"
        await asyncio.sleep(60)

    assert serve(view(lambda: next(bridge.stream(lines())))) == [b"ok"]


# -- ASGI -----------------------------------------------------------------------------


def drive(app: Any, **options: Any) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "headers": [(b"host", b"x")]}
    coroutine = sidecar.ASGIMiddleware(app, **options)(scope, receive, send)
    try:
        while True:
            coroutine.send(None)
    except StopIteration:
        return sent


@scenario()
def of_asgi() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    assert len(drive(app)) == 2


@scenario()
def of_asgi_answered() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise sidecar.Overloaded("no room")

    assert drive(app)[0]["status"] == 503


@scenario()
def of_asgi_never_begun_and_closed() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    sidecar.ASGIMiddleware(app)({"type": "http", "headers": []}, None, None).close()
