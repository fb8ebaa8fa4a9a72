"""``wsgi.input`` of an ASGI request: read on the application's thread, received on the server's loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from sidecar._support import native_lock
from sidecar.errors import ClientDisconnected

__all__ = ["AHEAD", "RequestBody"]

# Of a body how much may be there before it is asked for. The first part comes ahead of all questions.
AHEAD = 64 * 1024

_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


def _gone() -> ClientDisconnected:
    return ClientDisconnected(f"the client has gone, and the rest of its request with it [{ClientDisconnected.code}]")


class RequestBody:
    """PEP 3333's input, with ``read``, ``readline``, ``readlines`` and iteration. A thread at a time reads.

    receive: the server's. One task on its loop calls it, from the first question on, and stands still while there is
        enough to read.
    lost: called on the loop where the client has gone.

    What the thread and the task share is under the lock: the parts, how many bytes they have, who waits, and whether
    the task goes on: one that is about to end is none, so that a question that comes just then begins another.
    """

    __slots__ = (
        "_asleep",
        "_busy",
        "_closed",
        "_ended",
        "_error",
        "_held",
        "_lock",
        "_loop",
        "_lost",
        "_part",
        "_parts",
        "_place",
        "_receive",
        "_task",
        "_watches",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: _Receive, lost: Callable[[], object]) -> None:
        self._loop = loop
        self._receive = receive
        self._lost: Callable[[], object] | None = lost
        self._lock = native_lock()
        self._parts: deque[bytes] = deque()
        self._held = 0
        self._busy = self._closed = False
        self._ended = False
        self._watches = False
        self._error: BaseException | None = None
        self._asleep: Any = None
        self._task: asyncio.Task[None] | None = None
        # The thread's: the part that is being read, and up to where.
        self._part = b""
        self._place = 0

    # -- the loop's --

    def fetch(self) -> None:
        """Receive, unless that is so already or there is nothing more to come."""
        with self._lock:
            if self._busy or self._is_enough():
                return
            self._busy = True
        # Kept here: a loop knows its tasks by weak references only.
        self._task = self._loop.create_task(self._fill())

    def watch(self) -> None:
        """Go on to receive after the body's end, to hear of a client that goes."""
        self._watches = True
        self.fetch()

    def close(self) -> None:
        """The request is over: nothing more is received; who reads gets what is there, and then an error."""
        with self._lock:
            self._closed = True
            asleep, self._asleep = self._asleep, None
        if asleep is not None:
            asleep.release()
        self._lost = None  # which has this object
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()

    async def _fill(self) -> None:
        try:
            while self._goes_on():
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    self._fail(_gone())
                    if self._lost is not None:
                        self._lost()
                    return
                self._put(message.get("body", b""), message.get("more_body", False))
        except asyncio.CancelledError:
            if not self._closed:
                raise  # by the loop; what close() has done needs no trace, which would hold this object
        except Exception as error:
            self._fail(error)

    def _goes_on(self) -> bool:
        with self._lock:
            self._busy = not self._is_enough()
            return self._busy

    def _is_enough(self) -> bool:
        if self._closed or self._error is not None:
            return True
        return not self._watches if self._ended else self._held >= AHEAD

    def _put(self, part: bytes, more: bool) -> None:
        with self._lock:
            if part:
                self._parts.append(part if type(part) is bytes else bytes(part))
                self._held += len(part)
            self._ended = not more
            asleep = None
            if part or not more:
                asleep, self._asleep = self._asleep, None
        if asleep is not None:
            asleep.release()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
            asleep, self._asleep = self._asleep, None
        if asleep is not None:
            asleep.release()

    # -- the thread's --

    def _next(self) -> bytes:
        """The next part, which is not empty before the end; where there is none yet it waits."""
        while True:
            asleep = None
            with self._lock:
                parts = self._parts
                if parts:
                    part = parts.popleft()
                    self._held -= len(part)
                    asks = not (self._ended or self._busy) and self._held < AHEAD
                elif self._ended:
                    return b""
                elif self._error is not None:
                    raise self._error
                elif self._closed:
                    raise _gone()
                else:
                    part = b""
                    asks = not self._busy
                    asleep = self._asleep = native_lock()
                    asleep.acquire()
            if asks:
                self._ask()
            if asleep is None:
                return part
            asleep.acquire()

    def _ask(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self.fetch)
        except RuntimeError:
            self._fail(_gone())  # the server's loop is closed

    def read(self, size: int | None = -1) -> bytes:
        """So many bytes, fewer only at the end; without a number all that is left."""
        if size is None or size < 0:
            return self._read_all()
        start = self._place
        part = self._part
        if size <= len(part) - start:
            self._place = start + size
            return part if size == len(part) else part[start : start + size]
        found = []
        while size:
            if start >= len(part):
                part, start = self._next(), 0
                if not part:
                    break
            block = part[start : start + size]
            start += len(block)
            size -= len(block)
            found.append(block)
        self._part, self._place = part, start
        return found[0] if len(found) == 1 else b"".join(found)

    def _read_all(self) -> bytes:
        found = [self._part[self._place :]] if self._place < len(self._part) else []
        self._part, self._place = b"", 0
        while True:
            part = self._next()
            if not part:
                return found[0] if len(found) == 1 else b"".join(found)
            found.append(part)

    def readline(self, size: int | None = -1) -> bytes:
        """Up to the next line's end, and with it; no more than ``size`` bytes."""
        left = -1 if size is None or size < 0 else size
        found = []
        while left:
            if self._place >= len(self._part):
                self._part, self._place = self._next(), 0
                if not self._part:
                    break
            end = self._part.find(b"\n", self._place) + 1 or len(self._part)
            if left > 0:
                end = min(end, self._place + left)
            block = self._part[self._place : end]
            self._place = end
            left -= len(block) if left > 0 else 0
            found.append(block)
            if block.endswith(b"\n"):
                break
        return found[0] if len(found) == 1 else b"".join(found)

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """The lines that are left; with a hint, no more of them once they have so many bytes."""
        lines = []
        total = 0
        for line in self:
            lines.append(line)
            total += len(line)
            if hint is not None and 0 < hint <= total:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line
