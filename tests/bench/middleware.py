"""Measure what ``sidecar.WSGIMiddleware`` adds to a request, in process, interleaved; print a table.

One request is: a fresh ``environ``, the call of the application, every block of its body, ``close()``. The
peer is Python that does the same: an id, a context for the request, the id in environ and in the header.

"Watched" is a request with a deadline and a client's connection, beside one that has neither. The watch
begins where a call has to sleep, so the last table's application has one that does, for 0.1 ms.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import platform
import random
import socket
import statistics
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import works

import sidecar

ROUNDS = 100
SLICE = 0.004
# Most that is added, us a request (docs/design).
LIST, TEN_STEPS, WATCH = 1.5, 5.0, 1.0

Environ = dict[str, Any]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

ENVIRON: Environ = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/items/17",
    "QUERY_STRING": "page=2",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "8000",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "127.0.0.1",
    "HTTP_HOST": "localhost:8000",
    "HTTP_USER_AGENT": "bench/1",
    "HTTP_ACCEPT": "*/*",
    "HTTP_ACCEPT_ENCODING": "gzip, deflate",
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
}

HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "2")]


def list_app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", list(HEADERS))
    return [b"ok"]


def generator_app(environ: Environ, start_response: Callable[..., Any]) -> Iterator[bytes]:
    start_response("200 OK", list(HEADERS))
    yield b"ok"


def ten_steps_app(environ: Environ, start_response: Callable[..., Any]) -> Iterator[bytes]:
    start_response("200 OK", list(HEADERS))
    for _ in range(10):
        yield b"ok"


def sleeping_app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    sidecar.run_sync(asyncio.sleep(0.0001))
    return list_app(environ, start_response)


request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id")


class InPython:
    """By hand: copy_context, uuid4, a wrapped start_response, each step of the body in the context."""

    def __init__(self, app: App) -> None:
        self.app = app

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        ident = str(uuid.uuid4())
        context = contextvars.copy_context()
        environ["HTTP_X_REQUEST_ID"] = ident

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            kept = [header for header in headers if header[0].lower() != "x-request-id"]
            return start_response(status, [*kept, ("X-Request-ID", ident)], *rest)

        context.run(request_id.set, ident)
        body = context.run(self.app, environ, start)
        return body if isinstance(body, (list, tuple)) else self.steps(context, body)

    @staticmethod
    def steps(context: contextvars.Context, body: Iterable[bytes]) -> Iterator[bytes]:
        iterator = context.run(iter, body)
        try:
            while True:
                try:
                    block = context.run(next, iterator)
                except StopIteration:
                    return
                yield block
        finally:
            if hasattr(body, "close"):
                context.run(body.close)


def serve(app: App, environ: Environ = ENVIRON) -> None:
    body = app(dict(environ), lambda status, headers, exc_info=None: None)
    for _ in body:
        pass
    close = getattr(body, "close", None)
    if close is not None:
        close()


def report(title: str, contestants: dict[str, Callable[[], None]], target: float | None) -> None:
    """The first one is what the others are measured against; the target is the second one's."""
    times = {name: works.calls_in(call, SLICE) for name, call in contestants.items()}
    found: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    base, measured, *_ = names
    for _ in range(ROUNDS):
        random.shuffle(names)
        for name in names:
            found[name].append(works.time_of(contestants[name], times[name]))
    print(f"\n{title}")
    for name in contestants:
        added = statistics.median(a - b for a, b in zip(found[name], found[base])) * 1e6
        line = f"  {name:31}{statistics.median(found[name]) * 1e6:9.2f}"
        if name != base:
            line += f"   adds {added:.2f}"
        if name == measured and target is not None:
            line += f"  target <= {target}" + ("" if added <= target else "   missed")
        print(line)


def report_body(title: str, app: App, target: float | None) -> None:
    kinds: dict[str, App] = {
        "bare": app,
        "sidecar.WSGIMiddleware": sidecar.WSGIMiddleware(app),
        "the same in Python": InPython(app),
    }
    report(title, {name: functools.partial(serve, made) for name, made in kinds.items()}, target)


def report_watch(title: str, app: App, client: socket.socket) -> None:
    """A connection of gunicorn's, as its workers show it in environ."""
    watched = sidecar.WSGIMiddleware(app, deadline=60.0)
    contestants = {
        "neither": functools.partial(serve, sidecar.WSGIMiddleware(app, disconnect="off")),
        "watched": functools.partial(serve, watched, {**ENVIRON, "gunicorn.socket": client}),
    }
    report(title, contestants, WATCH)


if __name__ == "__main__":
    print(f"\nCPython {platform.python_version()}, middleware")
    report_body("list body, us a request", list_app, LIST)
    report_body("generator body, us a request", generator_app, None)
    report_body("body of ten steps, us a request", ten_steps_app, TEN_STEPS)
    server_end, client_end = socket.socketpair()
    with server_end, client_end:
        report_watch("list body, deadline and client's connection, us a request", list_app, server_end)
        report_watch("a call that sleeps 0.1 ms, the same, us a request", sleeping_app, server_end)
