"""One request of a WSGI server as one call of an ASGI application.

The application runs in a task of its own on the bridge's loop. The request's thread drives that loop in
``run_sync`` until there is an event for it: a part of the body to send, a part to read, the end. So it reads
``wsgi.input`` and writes to the server itself, and the loop waits for neither. What is here is the loop's,
but for ``read()`` and what is marked as the thread's.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from sidecar._serve_asgi_scope import body_length, http_scope, is_chunked, wsgi_headers
from sidecar._support import logger
from sidecar.errors import ClientDisconnected

if TYPE_CHECKING:
    from sidecar._core import Request
    from sidecar._serve_asgi_lifespan import Life

    _Message = MutableMapping[str, Any]
    _App = Callable[[MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Any]

__all__ = ["END", "ERROR", "NO_BODY", "READ", "Cycle"]

# The events that are no part of a body.
READ, END, ERROR = object(), object(), object()

# Of the request's body for one message; of the response's what an application may have sent ahead of its server.
READ_SIZE = 64 * 1024
AHEAD = 64 * 1024
# What a small part costs apart from its bytes.
PART = 1024

NO_BODY = frozenset((204, 304))


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Cycle:
    """``begin()``, ``feed()`` and ``next()`` are run by the request's thread, and return its next event."""

    __slots__ = (
        "app",
        "scope",
        "life",
        "request",
        "loop",
        "task",
        "events",
        "waiter",
        "pauser",
        "ahead",
        "status",
        "headers",
        "has_length",
        "mute",
        "sent",
        "last",
        "complete",
        "cut",
        "error",
        "held",
        "input",
        "left",
        "chunked",
        "parts",
        "readers",
        "watchers",
        "told",
        "gone",
    )

    def __init__(self, app: _App, environ: dict[str, Any], life: Life) -> None:
        self.app = app
        self.life = life
        self.scope = http_scope(environ, life.state)
        self.request: Request | None = environ.get("sidecar.request")
        self.task: asyncio.Task[None] | None = None
        # The thread takes from its left what is there, and comes to the loop only where nothing is.
        self.events: deque[Any] = deque()
        self.waiter: asyncio.Future[Any] | None = None
        self.pauser: asyncio.Future[None] | None = None
        self.ahead = 0
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.has_length = False
        self.mute = self.scope["method"] == "HEAD"
        self.sent = False
        self.last = b""
        self.complete = False
        self.cut = False
        self.error: BaseException | None = None
        self.held = False
        self.left = body_length(environ)
        self.told = False
        self.gone = False
        self.readers: deque[asyncio.Future[None]] | None = None
        if self.left:
            self.chunked = is_chunked(environ)
            self.input = environ["wsgi.input"]
            self.parts: deque[bytes] = deque()
            self.readers = deque()
        self.watchers: deque[asyncio.Future[None]] | None = None

    def name(self) -> str:
        """In the log."""
        return f"request {self.request.id}" if self.request is not None else f"a request for {self.scope['path']!r}"

    # -- the thread's --

    def read(self) -> bytes | None:
        """The next part of the request's body, empty at its end; ``None``: the client has broken off."""
        if not self.left:
            return b""
        try:
            if self.chunked:
                data: bytes = sys.modules["uwsgi"].chunked_read()
            elif self.left < 0:
                data = self.input.read(READ_SIZE)
            else:
                data = self.input.read(min(self.left, READ_SIZE))
        except OSError as error:
            logger.info("%s: its body ended early: %s", self.name(), error)
            return None
        return data if data or self.left < 0 else None

    # -- events --

    async def begin(self) -> Any:
        self.loop = loop = asyncio.get_running_loop()
        self.task = task = loop.create_task(self._serve())
        self.life.running.add(task)
        self.waiter = waiter = loop.create_future()
        try:
            return await waiter
        except asyncio.CancelledError:
            await self.cut_off()
            raise

    async def next(self) -> Any:
        if self.events:
            return self.events.popleft()
        self.ahead = 0
        pauser = self.pauser
        if pauser is not None:
            self.pauser = None
            _wake(pauser)
        self.waiter = self.loop.create_future()
        try:
            return await self.waiter
        except asyncio.CancelledError:
            await self.cut_off()
            raise

    async def feed(self, data: bytes | None) -> Any:
        """What ``read()`` gave."""
        if data is None:
            self.gone = True
        elif data:
            self.parts.append(data)
            if self.left > 0:
                self.left -= len(data)
        else:
            self.left = 0
        assert self.readers is not None
        while self.readers:
            _wake(self.readers.popleft())
        return await self.next()

    def _post(self, event: Any) -> None:
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            self.waiter = None
            waiter.set_result(event)
        else:
            self.events.append(event)

    # -- the application --

    async def _serve(self) -> None:
        try:
            await self.app(self.scope, self.receive, self.send)
        except BaseException as error:
            self._failed(error)
            # A task that is cancelled, and SystemExit, are the loop's matter too.
            if not isinstance(error, Exception):
                raise
        else:
            if not self.complete:
                self._incomplete()
        finally:
            self.life.running.discard(self.task)
            if self.held and self.request is not None:
                self.request._release()

    def _incomplete(self) -> None:
        if not self.cut:
            self._fail(
                RuntimeError(
                    "the ASGI application returned without "
                    + ("completing its response" if self.status else "starting a response")
                )
            )

    def _failed(self, error: BaseException) -> None:
        if not (self.complete or self.cut):
            if isinstance(error, asyncio.CancelledError):
                cause = error
                error = RuntimeError("the ASGI application was cancelled before its response was complete")
                error.__cause__ = cause
            self._fail(error)
        elif isinstance(error, Exception) and not self.cut:
            logger.error("%s: the ASGI application failed after its response", self.name(), exc_info=error)

    def _fail(self, error: BaseException) -> None:
        self.error = error
        self._post(ERROR)

    async def cut_off(self) -> None:
        """Nothing comes in or goes out any more: the client has gone, or the time is up.

        The application is cancelled, and its end waited for, a bounded time; unless the request's own end, or
        the bridge's, does so: a second time would cut its cleanup short.
        """
        self.cut = self.gone = True
        self._wake_all()
        task = self.task
        assert task is not None
        if not task.done() and not (self.life.closing or (self.request is not None and self.request.cancelled)):
            task.cancel()
        await asyncio.wait({task}, timeout=self.life.cleanup)
        if task.done():
            self.life.running.discard(task)  # it may never have begun

    # -- receive --

    async def receive(self) -> _Message:
        if self.readers is not None and not (self.told or self.gone):
            while not self.parts and self.left and not self.gone:
                # All who wait are told of each part; who comes too late asks for the next one.
                await self._wait_in(self.readers, READ)
            if self.parts:
                body = self.parts.popleft()
                self.told = not (self.left or self.parts)
                return {"type": "http.request", "body": body, "more_body": not self.told}
        if not (self.told or self.gone):
            self.told = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while not self.gone:
            if self.watchers is None:
                self.watchers = deque()
            await self._wait_in(self.watchers)
        return {"type": "http.disconnect"}

    async def _wait_in(self, queue: deque[asyncio.Future[None]], event: Any = None) -> None:
        future: asyncio.Future[None] = self.loop.create_future()
        queue.append(future)
        if event is not None:
            self._post(event)
        await future

    def _wake_all(self) -> None:
        """The response is complete, or cut."""
        for queue in (self.readers, self.watchers):
            while queue:
                _wake(queue.popleft())
        if self.pauser is not None:
            _wake(self.pauser)

    # -- send --

    async def send(self, message: _Message) -> None:
        kind = message["type"]
        if not self.status:
            if kind != "http.response.start":
                raise RuntimeError(f"expected the ASGI message 'http.response.start', but got {kind!r}")
            status = message["status"]
            if not isinstance(status, int) or not 200 <= status <= 999:
                raise ValueError(f"the status of a response is a number from 200 to 999, not {status!r}")
            self.headers, self.has_length = wsgi_headers(message.get("headers") or ())
            self.status = int(status)
            if status in NO_BODY:
                self.mute = True
            return
        if self.complete:
            raise RuntimeError(f"unexpected ASGI message {kind!r}: the response is complete")
        if kind != "http.response.body":
            raise RuntimeError(f"expected the ASGI message 'http.response.body', but got {kind!r}")
        if self.cut:
            raise ClientDisconnected(f"nobody takes this response any more [{ClientDisconnected.code}]")
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = bytes(memoryview(body))
        if not message.get("more_body", False):
            self._finish(body)
        elif body and not self.mute:
            await self._send_part(body)

    def _finish(self, body: bytes) -> None:
        self.complete = self.gone = True
        if self.request is not None:
            # The server ends it now, but what follows the response is the application's, and of this request.
            self.request._hold()
            self.held = True
        if not self.sent:
            self.last = body
        elif body and not self.mute:
            self._post(body)
        self._post(END)
        self._wake_all()

    async def _send_part(self, body: bytes) -> None:
        self.sent = True
        self.ahead += len(body) + PART
        self._post(body)
        if self.ahead > AHEAD and self.waiter is None:
            # Until the thread has taken all of it, and asks for more.
            self.pauser = pauser = self.loop.create_future()
            await pauser
            if self.cut:
                raise ClientDisconnected(f"nobody takes this response any more [{ClientDisconnected.code}]")
