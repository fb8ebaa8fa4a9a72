"""The middleware by others' measure: wsgiref's validator and werkzeug's lint, around it and inside it."""

from __future__ import annotations

import asyncio
import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

import sidecar

lint = pytest.importorskip("werkzeug.middleware.lint", reason="werkzeug is not installed")

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
PLAIN = [("Content-Type", "text/plain")]
SIZED = [*PLAIN, ("Content-Length", "4")]


def a_list(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", list(SIZED))
    return [b"body"]


def two_blocks(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", list(SIZED))
    return [b"bo", b"dy"]


def a_generator(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    start_response("200 OK", list(SIZED))
    yield b"bo"
    yield b"dy"


def starts_late(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    start_response("200 OK", list(PLAIN))
    yield b""
    yield b"body"


class Closing:
    """A body with a close()."""

    def __init__(self, blocks: list[bytes]) -> None:
        self.blocks = iter(blocks)
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self.blocks)

    def close(self) -> None:
        self.closed += 1


bodies: list[Closing] = []


def an_iterator(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", list(SIZED))
    bodies.append(Closing([b"bo", b"dy"]))
    return bodies[-1]


def by_write(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    write = start_response("200 OK", list(SIZED))
    write(b"bo")
    return [b"dy"]


def nothing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("204 No Content", [("Content-Length", "0")])
    return []


def not_modified(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("304 Not Modified", [("ETag", '"one"')])
    return []


def an_error(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", list(SIZED))
    try:
        raise ValueError("after the headers, before the body")
    except ValueError:
        import sys

        start_response("500 Internal Server Error", list(SIZED), sys.exc_info())
    return [b"oops"]


def reads_input(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read(4)
    start_response("200 OK", list(SIZED))
    return [body]


def calls_the_loop(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    async def blocks() -> Any:
        yield b"bo"
        yield b"dy"

    start_response("200 OK", list(SIZED))
    yield from sidecar.stream(blocks())


APPS: list[App] = [
    a_list,
    two_blocks,
    a_generator,
    starts_late,
    an_iterator,
    by_write,
    nothing,
    not_modified,
    an_error,
    reads_input,
    calls_the_loop,
]

# Around the middleware, inside it, both; and the middleware twice.
ARRANGEMENTS: dict[str, Callable[[App], App]] = {
    "validator outside": lambda app: validator(sidecar.WSGIMiddleware(app)),
    "validator inside": lambda app: sidecar.WSGIMiddleware(validator(app)),
    "validator on both sides": lambda app: validator(sidecar.WSGIMiddleware(validator(app))),
    "lint outside": lambda app: lint.LintMiddleware(sidecar.WSGIMiddleware(app)),
    "lint inside": lambda app: sidecar.WSGIMiddleware(lint.LintMiddleware(app)),
    "validator, the middleware twice": lambda app: validator(sidecar.WSGIMiddleware(sidecar.WSGIMiddleware(app))),
}


def serve(app: App, method: str) -> tuple[str, list[tuple[str, str]], bytes]:
    """As a server does it (PEP 3333), strictly."""
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ.update(
        {
            "REQUEST_METHOD": method,
            "CONTENT_LENGTH": "4",
            "wsgi.input": io.BytesIO(b"body"),
            "wsgi.errors": io.StringIO(),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "QUERY_STRING": "",
            "REMOTE_ADDR": "192.0.2.7",
            "HTTP_HOST": "localhost:80",
        }
    )
    del environ["HTTP_HOST"]
    started: list[Any] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        assert exc_info is not None or not started
        started[:] = [status, headers]
        return written.append

    result = app(environ, start_response)
    try:
        for block in result:
            assert isinstance(block, bytes)
            assert started
            written.append(block)
    finally:
        close = getattr(result, "close", None)
        if close is not None:
            close()
    return started[0], started[1], b"".join(written)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("app", APPS, ids=lambda app: app.__name__)
def test_no_complaint(app: App, arrangement: str) -> None:
    with_body = app not in (nothing, not_modified)
    for method in ("GET", "HEAD", "POST"):
        # werkzeug's lint wants the application to leave a HEAD's body out.
        if not (method == "HEAD" and with_body and arrangement.startswith("lint")):
            check(app, arrangement, method)


def check(app: App, arrangement: str, method: str) -> None:
    bodies.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        status, headers, body = serve(ARRANGEMENTS[arrangement](app), method)
    names = [name.lower() for name, _ in headers]
    assert names.count("x-request-id") == 1
    assert body == {nothing: b"", not_modified: b"", an_error: b"oops"}.get(app, b"body")
    assert [each.closed for each in bodies] == [1] * len(bodies)


def test_the_measures_do_complain() -> None:
    """Else nothing above would mean anything."""

    def bad(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(200, list(SIZED))
        return ["body"]  # type: ignore[list-item]

    for name in ("validator outside", "validator inside"):
        with pytest.raises(AssertionError):
            serve(ARRANGEMENTS[name](bad), "GET")
    for name in ("lint outside", "lint inside"):
        with pytest.raises(Exception), warnings.catch_warnings():  # noqa: B017
            warnings.simplefilter("error")
            serve(ARRANGEMENTS[name](bad), "GET")


# -- asgiref's adapter, which calls the application on a thread ------------------------------


@pytest.fixture(scope="module")
def asgirefs_thread() -> None:
    """It is kept."""
    sync = pytest.importorskip("asgiref.sync", reason="asgiref is not installed")
    asyncio.run(sync.sync_to_async(int)())


@pytest.mark.parametrize("app", [app for app in APPS if app is not by_write], ids=lambda app: app.__name__)
def test_by_asgirefs_adapter(asgirefs_thread: None, app: App) -> None:
    """The same messages as without the middleware, and the id. It has no write(), and closes nothing."""
    wsgi = pytest.importorskip("asgiref.wsgi", reason="asgiref is not installed")
    testing = pytest.importorskip("asgiref.testing", reason="asgiref is not installed")
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [], "http_version": "1.1"}

    async def messages_of(application: App) -> list[dict[str, Any]]:
        communicator = testing.ApplicationCommunicator(wsgi.WsgiToAsgi(application), dict(scope))
        await communicator.send_input({"type": "http.request", "body": b"body"})
        await communicator.wait(20)
        return [communicator.output_queue.get_nowait() for _ in range(communicator.output_queue.qsize())]

    bare, (start, *rest) = asyncio.run(messages_of(app)), asyncio.run(messages_of(sidecar.WSGIMiddleware(app)))
    assert rest == bare[1:] and start["status"] == bare[0]["status"]
    added = [header for header in start["headers"] if header not in bare[0]["headers"]]
    assert [name.lower() for name, _ in added] == [b"x-request-id"]
