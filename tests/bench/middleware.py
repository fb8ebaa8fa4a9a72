"""Measure what ``sidecar.WSGIMiddleware`` adds to a request, in process, interleaved; print a table.

One request is: a fresh ``environ``, the call of the application, every block of its body, ``close()``. The
peer is Python that does the same: an id, a context for the request, the id in environ and in the header.
"""

from __future__ import annotations

import contextvars
import functools
import platform
import random
import statistics
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import works

import sidecar

ROUNDS = 100
SLICE = 0.004
TARGET = 1.5  # us, list body (docs/design)

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


def serve(app: App) -> None:
    body = app(dict(ENVIRON), lambda status, headers, exc_info=None: None)
    for _ in body:
        pass
    close = getattr(body, "close", None)
    if close is not None:
        close()


def report(title: str, app: App, target: float | None) -> None:
    kinds: dict[str, App] = {
        "bare": app,
        "sidecar.WSGIMiddleware": sidecar.WSGIMiddleware(app),
        "the same in Python": InPython(app),
    }
    times = {name: works.calls_in(functools.partial(serve, made), SLICE) for name, made in kinds.items()}
    found: dict[str, list[float]] = {name: [] for name in kinds}
    names = list(kinds)
    for _ in range(ROUNDS):
        random.shuffle(names)
        for name in names:
            found[name].append(works.time_of(functools.partial(serve, kinds[name]), times[name]))
    print(f"\n{title}")
    for name in kinds:
        added = statistics.median(a - b for a, b in zip(found[name], found["bare"])) * 1e6
        line = f"  {name:31}{statistics.median(found[name]) * 1e6:9.2f}"
        if name != "bare":
            line += f"   adds {added:.2f}"
        if name == "sidecar.WSGIMiddleware" and target is not None:
            line += f"  target <= {target}" + ("" if added <= target else "   missed")
        print(line)


if __name__ == "__main__":
    print(f"\nCPython {platform.python_version()}, middleware")
    report("list body, us a request", list_app, TARGET)
    report("generator body, us a request", generator_app, None)
