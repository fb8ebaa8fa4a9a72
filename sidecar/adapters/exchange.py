"""One request of an ASGI server as one call of a WSGI application.

The application runs on a thread of the pool. What it says goes to the coroutine that the server has called, and from
there to the server. A body that is a list is whole when the application returns: the loop is woken once for all of it.
Other bodies go out block by block; those that the server has not taken yet are joined, and a thread that is too far
ahead of it sleeps.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from sidecar._pool import PatientPool
from sidecar._support import native_lock
from sidecar.adapters.answer import NO_BODY, headers_of, status_of
from sidecar.adapters.request_body import RequestBody
from sidecar.errors import BridgeClosedError, ClientDisconnected

if TYPE_CHECKING:
    from sidecar._bridge import Sidecar

__all__ = ["AHEAD", "Exchange", "RaisingExchange"]

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# Of the response's body, what an application may have said ahead of its server, and what a block costs beside that.
AHEAD = 64 * 1024
BLOCK = 256

# Seconds that an application may take for its answer before somebody looks whether the client is still there.
PATIENCE = 1.0


class Exchange:
    """It is its job's future as well: the pool tells it of its begin and its end.

    What threads and the coroutine share is under the lock: ``blocks``, and ``held``, what they count; ``woken``: the
    coroutine was called, and will look; ``writers``: threads that are too far ahead; ``finished``: no more blocks come;
    ``over``: the application's call has ended; ``gone``: nobody takes anything any more.
    """

    __slots__ = (
        "app",
        "blocks",
        "body",
        "call",
        "error",
        "exc_info",
        "finished",
        "gone",
        "headers",
        "held",
        "is_head",
        "left",
        "lock",
        "loop",
        "mute",
        "over",
        "part_cost",
        "send",
        "sent",
        "started",
        "status",
        "waiter",
        "whole",
        "woken",
        "writers",
    )

    def __init__(self, app: Any, scope: _Scope, receive: _Receive, send: _Send, part_cost: int = BLOCK) -> None:
        self.app = app
        self.send = send
        self.loop = asyncio.get_running_loop()
        self.body = RequestBody(self.loop, receive, self.lose)
        self.lock = native_lock()
        self.blocks: list[bytes] = []
        self.held = 0
        self.part_cost = part_cost
        self.woken = self.finished = self.over = self.gone = False
        self.writers: list[threading.Lock] = []
        # The thread's, until it has told of them. `left`: of the length that the application has announced, or -1.
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.left = -1
        self.sent = False
        self.is_head = self.mute = scope["method"] == "HEAD"
        self.whole: bytes | None = None
        self.error: BaseException | None = None
        self.exc_info: Any = None
        # The coroutine's.
        self.started = False
        self.call: asyncio.Future[None] | None = None
        self.waiter: asyncio.Future[None] = self.loop.create_future()

    # -- the coroutine's --

    async def run(self, bridge: Sidecar, environ: dict[str, Any]) -> None:
        """Until the application's call has ended. Raises what that has raised, ``Overloaded`` by the pool."""
        is_expected = "HTTP_EXPECT" in environ  # the client waits to be asked for its body
        timer = None
        try:
            if not is_expected and (environ.get("CONTENT_LENGTH", "0") != "0" or "HTTP_TRANSFER_ENCODING" in environ):
                # What has come already is there before a thread asks for it; the rest comes while that begins.
                self.body.fetch()
                await asyncio.sleep(0)
            bridge.get_loop()
            pool = bridge._pool
            if isinstance(pool, PatientPool):
                await self._submit_in_turn(pool, environ)
            else:
                pool.submit_into(self, self._serve, environ)  # type: ignore[arg-type]
            if not is_expected:
                timer = self.loop.call_later(PATIENCE, self.body.watch)
            await self.waiter
            await self._answer()
        except BaseException:
            self.lose()
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self.body.close()
        self._raise_error()

    async def _submit_in_turn(self, pool: PatientPool, environ: dict[str, Any]) -> None:
        """Once there is room in the queue; this loop goes on meanwhile."""
        places = pool._room._places
        if not places.take():
            await pool._room._wait_in_loop()
        self.call = asyncio.ensure_future(pool.call_placed(None, self._serve_placed, environ))
        self.call.add_done_callback(self._was_called)

    def _was_called(self, call: asyncio.Future[None]) -> None:
        self.call = None
        if call.cancelled() and not self.over:
            self.cancel()

    async def _answer(self) -> None:
        try:
            if self.whole is not None and not self.gone:
                await self._start(len(self.whole))
                await self._say(self.whole, False)
            else:
                await self._send_blocks()
        except OSError:
            # The server says so where the client has gone. The application is told, too, and this is its request.
            self.lose()
            self.body.watch()
            await self._send_blocks()
            raise

    async def _send_blocks(self) -> None:
        is_open = True
        while True:
            with self.lock:
                blocks, self.blocks = self.blocks, []
                finished, over = self.finished, self.over
                writers, self.writers = self.writers, []
                self.held = 0
                self.woken = False
            for writer in writers:
                writer.release()
            if is_open and not self.gone and (blocks or finished):
                body = blocks[0] if len(blocks) == 1 else b"".join(blocks)
                if not self.started:
                    if not finished:
                        self.body.watch()
                    await self._start(-1)
                is_open = not finished
                await self._say(body, is_open)
            elif over:
                if is_open and self.started and self.left == 0 and not self.gone:
                    await self._say(b"", False)  # it has announced no more than that
                return
            else:
                if self.waiter.done():
                    self.waiter = self.loop.create_future()
                await self.waiter

    async def _start(self, size: int) -> None:
        """``size``: of the whole body, where it is known."""
        self.started = True
        headers = self.headers
        if size >= 0 and self.left < 0 and not self.mute:
            headers.append((b"content-length", b"%d" % size))
        await self.send({"type": "http.response.start", "status": self.status, "headers": headers})

    async def _say(self, body: bytes, more: bool) -> None:
        await self.send({"type": "http.response.body", "body": b"" if self.mute else body, "more_body": more})

    def lose(self) -> None:
        """Nobody takes anything any more: the application is told when it writes or reads."""
        with self.lock:
            self.gone = True
            writers, self.writers = self.writers, []
        for writer in writers:
            writer.release()
        self._wake()

    def _wake(self) -> None:
        if not self.waiter.done():
            self.waiter.set_result(None)

    def _raise_error(self) -> None:
        error, self.error = self.error, None
        self.exc_info = None
        if error is None or (self.gone and isinstance(error, ClientDisconnected)):
            return
        try:
            raise error
        finally:
            error = None  # its traceback has this frame

    # -- the pool's, as of a future --

    def set_running_or_notify_cancel(self) -> bool:
        with self.lock:
            begins = not (self.gone or self.over)
        if not begins:
            self.set_result(None)
        return begins

    def cancel(self) -> bool:
        """The bridge is shut down, and no thread has begun it."""
        self.set_exception(BridgeClosedError(f"the bridge is shut down [{BridgeClosedError.code}]"))
        return True

    def set_exception(self, error: BaseException) -> None:
        self.error = error
        self.set_result(None)

    def set_result(self, _: object) -> None:
        with self.lock:
            self.over = True
            wakes = not self.woken
            self.woken = True
        if wakes:
            self._call()

    def _call(self) -> None:
        try:
            self.loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            self.gone = True  # the server's loop is closed

    # -- the thread's --

    def _serve(self, environ: dict[str, Any]) -> None:
        parts = self.app(environ, self.start_response)
        kind = type(parts)
        if kind is list or kind is tuple:
            self._serve_whole(parts)
            return
        try:
            for part in parts:
                self.write(part)
            self._finish()
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()

    def _serve_placed(self, environ: dict[str, Any]) -> None:
        """By the pool's other way, which knows another future."""
        if self.set_running_or_notify_cancel():
            try:
                self._serve(environ)
            except BaseException as error:
                self.set_exception(error)
            else:
                self.set_result(None)

    def _serve_whole(self, parts: Sequence[bytes]) -> None:
        """All of it is there, and nothing can close it."""
        if self.sent or len(parts) != 1:
            for part in parts:
                self._check(part)
            body = b"".join(parts)
        else:
            body = self._check(parts[0])
        if self.sent:
            self.write(body)
            self._finish()
            return
        if self.left >= 0 and not self.mute:
            body = self._within_length(body)
        self.whole = body
        self._check_end()

    def _finish(self) -> None:
        """No more parts come; what the application does in its ``close()`` holds up nobody."""
        self._check_end()
        if not self.sent:
            self.whole = b""
            return
        with self.lock:
            self.finished = True
            wakes = not self.woken
            self.woken = True
        if wakes:
            self._call()

    def _check_end(self) -> None:
        if not self.status:
            raise RuntimeError("the WSGI application has returned without a call of start_response()")
        if self.left > 0 and not self.mute:
            self.whole = None
            raise RuntimeError(f"the body of the response ends {self.left} bytes short of its Content-Length")

    def _check(self, part: Any) -> bytes:
        if type(part) is bytes or isinstance(part, bytes):
            return part
        raise TypeError(f"a part of the body of a response is bytes, not {part!r}")

    def _within_length(self, part: bytes) -> bytes:
        """As much of it as was announced; an error is told after that was sent."""
        if len(part) > self.left:
            self.error = RuntimeError("the body of the response is longer than its Content-Length")
            part = part[: self.left]
        self.left -= len(part)
        return part

    def write(self, part: bytes) -> None:
        """PEP 3333's; the parts of the body take this way as well."""
        if type(part) is not bytes:
            self._check(part)
        if not part:
            return
        if not self.status:
            raise RuntimeError("the WSGI application has sent a part of its body before it has called start_response()")
        if self.gone:
            raise _gone()
        self.sent = True
        if not self.mute:
            if self.left >= 0:
                part = self._within_length(part)
            if part:
                self._put(part)
            if self.error is not None:
                raise self.error

    def _put(self, part: bytes) -> None:
        asleep = None
        with self.lock:
            self.blocks.append(part)
            self.held += len(part) + self.part_cost
            wakes = not self.woken
            self.woken = True
            if self.held > AHEAD and not self.gone:
                asleep = native_lock()
                asleep.acquire()
                self.writers.append(asleep)
        if wakes:
            self._call()
        if asleep is not None:
            asleep.acquire()
            if self.gone:
                raise _gone()

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """PEP 3333's."""
        if exc_info:
            try:
                if self.sent:
                    raise exc_info[1].with_traceback(exc_info[2])
                self.exc_info = exc_info
            finally:
                exc_info = None
        elif self.status:
            raise RuntimeError("start_response() was called already, and this call has no exc_info")
        number = status_of(status)
        self.headers, self.left = headers_of(headers)
        self.mute = self.is_head or number in NO_BODY
        self.status = number
        return self.write


class RaisingExchange(Exchange):
    """What the application has given as ``exc_info`` is raised after the response, for the server to log."""

    __slots__ = ()

    def _raise_error(self) -> None:
        exc_info, self.exc_info = self.exc_info, None
        super()._raise_error()
        if exc_info is not None:
            try:
                raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # its traceback has this frame


def _gone() -> ClientDisconnected:
    return ClientDisconnected(f"nobody takes this response any more [{ClientDisconnected.code}]")
