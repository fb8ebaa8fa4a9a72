"""A server for the tests of the request scope: it calls the middleware as PEP 3333 says, with a client that can go."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import sidecar

App = Callable[[Any, Any], Any]
HEADERS = [("Content-Type", "text/plain")]


class Answer:
    """What reached the server."""

    def __init__(self) -> None:
        self.starts: list[tuple[str, list[tuple[str, str]]]] = []
        self.body: list[bytes] = []
        self.sent = False

    @property
    def status(self) -> str | None:
        return self.starts[-1][0] if self.starts else None

    @property
    def ids(self) -> list[str]:
        return [value for name, value in self.starts[-1][1] if name == "X-Request-ID"]

    @property
    def text(self) -> str:
        return b"".join(self.body).decode()

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        if exc_info is not None and self.sent:
            raise exc_info[1]
        assert exc_info is not None or not self.starts, "started twice"
        self.starts.append((status, list(headers)))
        return self.write

    def write(self, block: bytes) -> None:
        assert self.starts, "a block before start_response"
        if block:
            self.sent = True
            self.body.append(block)


def serve(app: App, environ: dict[str, Any] | None = None, **options: Any) -> Answer:
    """One request: the call, each step, and the close; an error of the application's comes out."""
    answer = Answer()
    body = sidecar.WSGIMiddleware(app, **options)({} if environ is None else environ, answer.start_response)
    try:
        for block in body:
            answer.write(block)
    finally:
        if hasattr(body, "close"):
            body.close()
    return answer


def view(function: Callable[[], Any]) -> Any:
    """An application with a whole body around a function, whose results are in its ``results``."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        app.results.append(function())  # type: ignore[attr-defined]
        start_response("200 OK", HEADERS)
        return [b"served"]

    app.results = []  # type: ignore[attr-defined]
    return app


def call(function: Callable[[], Any], environ: dict[str, Any] | None = None, **options: Any) -> Any:
    """The function's result, as a request's."""
    app = view(function)
    assert serve(app, environ, **options).status == "200 OK"
    (result,) = app.results
    return result


@contextlib.contextmanager
def client() -> Iterator[tuple[dict[str, Any], socket.socket]]:
    """An environ with a connection, and the client's end of it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield {"gunicorn.socket": ours}, theirs


class Work:
    """A coroutine that waits, and tells how it began and ended."""

    def __init__(self, cleanup: float = 0.0) -> None:
        self.begun = threading.Event()
        self.ends: list[str] = []
        self.cleanup = cleanup

    async def run(self, seconds: float = 60.0) -> str:
        self.begun.set()
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            await self._clean_up()
            raise
        self.ends.append("done")
        return "done"

    async def _clean_up(self) -> None:
        try:
            await asyncio.sleep(self.cleanup)
        except asyncio.CancelledError:
            self.ends.append("cut short")
            raise
        self.ends.append("cancelled")

    async def leave(self) -> asyncio.Task[str]:
        """Leave it behind as a task, begun."""
        task = asyncio.create_task(self.run())
        await asyncio.sleep(0)
        return task


class Stubborn:
    """A coroutine that swallows its cancellations until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.cancelled = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        while not self.let_go.is_set():
            try:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                self.cancelled += 1

    async def leave(self) -> None:
        self.tasks.append(asyncio.create_task(self.run()))
        await asyncio.sleep(0)
