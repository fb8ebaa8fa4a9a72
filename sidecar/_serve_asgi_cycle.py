"""One request of a WSGI server as one call of an ASGI application: what takes more than one event.

``_core.Served`` runs the application, and does all of it where the whole answer is there when the application
returns. Otherwise the request's thread drives the bridge's loop in ``run_sync`` until there is another event for
it: a part of the body to send, a part to read, the end. So it reads ``wsgi.input`` and writes to the server itself,
and the loop waits for neither. What is here is the loop's, but for ``read()`` and what is marked as the thread's.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from sidecar import _core
from sidecar._serve_asgi_scope import body_length, is_chunked
from sidecar._support import logger
from sidecar.errors import ClientDisconnected

_Message = MutableMapping[str, Any]
_App = Callable[[MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Any]

__all__ = ["END", "ERROR", "NO_BODY", "READ", "Cycle"]

# The events that are no part of a body.
READ, END, ERROR = object(), _core.SERVED_END, object()

# Of the request's body for one message; of the response's what an application may have sent ahead of its server.
READ_SIZE = 64 * 1024
AHEAD = 64 * 1024
# What a small part costs apart from its bytes.
PART = 1024

NO_BODY = frozenset((204, 304))


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Cycle(_core.Served):
    """``run()``, ``feed()`` and ``next()`` give the request's thread its next event."""

    __slots__ = ()

    def name(self) -> str:
        """In the log."""
        return f"request {self.request.id}" if self.request is not None else f"a request for {self.scope['path']!r}"

    def _expect_body(self, environ: dict[str, Any]) -> None:
        """Called while it is made, where there may be one."""
        self.left = body_length(environ)
        if self.left:
            self.has_body = True
            self.chunked = is_chunked(environ)
            self.input = environ["wsgi.input"]
            self.parts = deque()
            self.readers = deque()

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

    async def next(self) -> Any:
        if self.events:
            return self.events.popleft()
        self.ahead = 0
        pauser = self.pauser
        if pauser is not None:
            self.pauser = None
            _wake(pauser)
        self.waiter = asyncio.get_running_loop().create_future()
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
            assert self.parts is not None
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
        if self._post_first(event):
            return
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            self.waiter = None
            waiter.set_result(event)
            return
        if self.events is None:
            self.events = deque()
        self.events.append(event)

    # -- the application's end --

    def _incomplete(self) -> None:
        """It has returned."""
        if not self.cut:
            self._fail(
                RuntimeError(
                    "the ASGI application returned without "
                    + ("completing its response" if self.status else "starting a response")
                )
            )

    def _failed(self, error: BaseException) -> None:
        """It has raised."""
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

    def _tell_end(self) -> None:
        assert self.end is not None
        _wake(self.end)

    def _cut(self) -> None:
        """Nothing comes in or goes out any more: the client has gone, or the time is up."""
        self.cut = self.gone = True
        self._wake_all()

    async def cut_off(self) -> None:
        """The application is cancelled, and its end waited for, a bounded time; unless the request's own end, or
        the bridge's, does so: a second time would cut its cleanup short.
        """
        self._cut()
        task = self.task
        if task is None:
            return
        if not (self.life.closing or (self.request is not None and self.request.cancelled)):
            task.cancel()
        await asyncio.wait({task}, timeout=self.life.cleanup)

    # -- receive --

    async def _receive(self) -> _Message:
        if self.readers is not None and not (self.told or self.gone):
            assert self.parts is not None
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
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
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

    async def _send(self, message: _Message) -> None:
        """What comes after the response's start."""
        kind = message["type"]
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
        # The server ends the request now, but what follows the response is the application's, and of this request.
        self._hold()
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
            self.pauser = pauser = asyncio.get_running_loop().create_future()
            await pauser
            if self.cut:
                raise ClientDisconnected(f"nobody takes this response any more [{ClientDisconnected.code}]")
