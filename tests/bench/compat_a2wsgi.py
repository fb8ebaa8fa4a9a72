"""Measure ``sidecar.compat.a2wsgi`` and ``sidecar.adapters`` against a2wsgi; print tables.

As in bridge.py: interleaved short samples in one process; "of it" is the median of the rounds' own ratios to a2wsgi.
An operation is one request of a server that is played: no socket, so that what is measured is the adapters.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fnmatch
import io
import os
import platform
from collections.abc import Callable, Iterator
from typing import Any

import a2wsgi
import bridge_case
from bridge_case import Case, Measure, Opened, Sampler, stopwatch

import sidecar
from sidecar.adapters import ASGIApp, WSGIApp
from sidecar.compat import a2wsgi as compat

PART = b"x" * 1000
PARTS = 200
HEADERS = [
    (b"host", b"example.org"),
    (b"user-agent", b"a browser's long name for itself"),
    (b"accept", b"text/html,application/xhtml+xml"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"cookie", b"session=0123456789abcdef"),
    (b"content-type", b"application/octet-stream"),
]


# -- WSGI as ASGI --------------------------------------------------------------------


def hello_wsgi(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]


def closing_wsgi(environ: Any, start_response: Any) -> Any:
    """As Flask has it: one part, in an iterator with a close()."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    yield b"hello"


def stream_wsgi(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])
    for _ in range(PARTS):
        yield PART


def read_wsgi(environ: Any, start_response: Any) -> Any:
    size = 0
    while True:
        part = environ["wsgi.input"].read(4096)
        if not part:
            break
        size += len(part)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % size]


async def ask(app: Any, parts: int) -> None:
    left = parts

    async def receive() -> Any:
        nonlocal left
        if left < 0:
            await asyncio.sleep(60)
        left -= 1
        return {"type": "http.request", "body": PART if parts else b"", "more_body": left > 0}

    async def send(message: Any) -> None:
        pass

    headers = [*HEADERS, (b"content-length", b"%d" % (parts * len(PART)))] if parts else HEADERS
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST" if parts else "GET",
        "scheme": "http",
        "path": "/path",
        "raw_path": b"/path",
        "query_string": b"a=b",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1234),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)


def asking(loop: asyncio.AbstractEventLoop, app: Any, parts: int) -> Sampler:
    async def sample(times: int) -> Any:
        stop = stopwatch()
        for _ in range(times):
            await ask(app, parts)
        return stop()

    return lambda times: {"": loop.run_until_complete(sample(times))}


def of_wsgi(name: str, what: str, app: Any, parts: int = 0) -> Case:
    @contextlib.contextmanager
    def opened() -> Iterator[Opened]:
        loop = asyncio.new_event_loop()
        try:
            apps = {
                "a2wsgi": a2wsgi.WSGIMiddleware(app),
                "sidecar.compat.a2wsgi": compat.WSGIMiddleware(app),
                "sidecar.adapters.WSGIApp": WSGIApp(app),
            }
            samplers = {each: asking(loop, made, parts) for each, made in apps.items()}
            yield Opened(samplers, "a2wsgi", {"": Measure(f"{what}, of a2wsgi", targets(apps))})
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    return Case(name, what, opened)


# -- ASGI as WSGI --------------------------------------------------------------------


async def start(send: Any, *headers: tuple[bytes, bytes]) -> None:
    headers = ((b"content-type", b"text/plain"), *headers)
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def hello_asgi(scope: Any, receive: Any, send: Any) -> None:
    await start(send, (b"content-length", b"5"))
    await send({"type": "http.response.body", "body": b"hello"})


async def stream_asgi(scope: Any, receive: Any, send: Any) -> None:
    await start(send)
    for _ in range(PARTS):
        await send({"type": "http.response.body", "body": PART, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def read_asgi(scope: Any, receive: Any, send: Any) -> None:
    size = 0
    while True:
        message = await receive()
        size += len(message["body"])
        if not message["more_body"]:
            break
    await start(send)
    await send({"type": "http.response.body", "body": b"%d" % size})


def only_http(app: Any) -> Any:
    async def served(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        await app(scope, receive, send)

    return served


def calling(app: Any, size: int) -> Sampler:
    body = b"x" * size

    def call() -> None:
        environ = {
            "REQUEST_METHOD": "POST" if size else "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/path",
            "QUERY_STRING": "a=b",
            "CONTENT_TYPE": "application/octet-stream",
            "CONTENT_LENGTH": str(size),
            "SERVER_NAME": "example.org",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "REMOTE_PORT": "1234",
            "HTTP_HOST": "example.org",
            "HTTP_USER_AGENT": "a browser's long name for itself",
            "HTTP_ACCEPT": "text/html,application/xhtml+xml",
            "HTTP_COOKIE": "session=0123456789abcdef",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
        }
        parts = app(environ, lambda status, headers, exc_info=None: None)
        for _ in parts:
            pass
        close = getattr(parts, "close", None)
        if close is not None:
            close()

    def sample(times: int) -> Any:
        stop = stopwatch()
        for _ in range(times):
            call()
        return {"": stop()}

    return sample


def of_asgi(name: str, what: str, app: Any, size: int = 0) -> Case:
    @contextlib.contextmanager
    def opened() -> Iterator[Opened]:
        apps = {
            "a2wsgi": a2wsgi.ASGIMiddleware(app),
            "sidecar.compat.a2wsgi": compat.ASGIMiddleware(app),
            "sidecar.adapters.ASGIApp": ASGIApp(only_http(app)),
        }
        samplers = {each: calling(made, size) for each, made in apps.items()}
        yield Opened(samplers, "a2wsgi", {"": Measure(f"{what}, of a2wsgi", targets(apps))})

    return Case(name, what, opened)


def targets(names: Any) -> dict[str, float]:
    return {name: 1.0 for name in names if name != "a2wsgi"}


CASES = [
    of_wsgi("wsgi-list", "WSGI as ASGI: a small answer in a list", hello_wsgi),
    of_wsgi("wsgi-generator", "WSGI as ASGI: a small answer by a generator", closing_wsgi),
    of_wsgi("wsgi-stream", f"WSGI as ASGI: {PARTS} parts of {len(PART)} bytes", stream_wsgi),
    of_wsgi("wsgi-small-body", f"WSGI as ASGI: a request's body of {len(PART)} bytes", read_wsgi, 1),
    of_wsgi("wsgi-body", f"WSGI as ASGI: a request's body in {PARTS} parts of {len(PART)} bytes", read_wsgi, PARTS),
    of_asgi("asgi-small", "ASGI as WSGI: a small answer", hello_asgi),
    of_asgi("asgi-stream", f"ASGI as WSGI: {PARTS} parts of {len(PART)} bytes", stream_asgi),
    of_asgi("asgi-small-body", f"ASGI as WSGI: a request's body of {len(PART)} bytes", read_asgi, len(PART)),
    of_asgi("asgi-body", "ASGI as WSGI: a request's body of 1 MB", read_asgi, 1_000_000),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each case (default: 20)")
    parser.add_argument("--slice", type=float, default=0.02, help="seconds of a sample (default: 0.02)")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cases by name ('asgi-*')")
    arguments = parser.parse_args()
    print(f"CPython {platform.python_version()}, {os.cpu_count()} cores; a2wsgi {a2wsgi.__version__}")
    chosen: Callable[[Case], bool] = lambda case: fnmatch.fnmatch(case.name, arguments.only)  # noqa: E731
    for case in filter(chosen, CASES):
        bridge_case.run(case, arguments.rounds, arguments.slice)
    sidecar.shutdown()


if __name__ == "__main__":
    main()
