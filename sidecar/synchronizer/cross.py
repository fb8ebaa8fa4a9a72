"""From one running loop to another: awaiting here what runs there, and neither thread waits."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from sidecar import _core
from sidecar._sent import Sent
from sidecar._submit import _context_of_nobody
from sidecar.errors import BridgeClosedError

if TYPE_CHECKING:
    from sidecar._loop import BridgeLoop


async def cross(loop: BridgeLoop, coro: Coroutine[Any, Any, Any], name: str) -> Any:
    """Run ``coro`` on ``loop`` and await it on this one; cancelled here, it is cancelled there and waited for.

    After a cancellation its result does not count: ``CancelledError`` is raised whatever it has come to, for it
    could not be told from one that came to its end at that very moment. A second one ends the waiting.
    """
    here = asyncio.get_running_loop()
    crossing = _Crossing(here, coro, name)
    try:
        _Begin(crossing).send(loop)
    except BaseException:
        coro.close()
        raise
    try:
        await crossing.wait()
    except asyncio.CancelledError:
        crossing.cancel(loop)
        await crossing.wait()
        raise
    return crossing.result()


# A loop knows its tasks by weak references only.
_running: set[_Crossing] = set()


class _Crossing:
    def __init__(self, here: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], name: str) -> None:
        self._here = here
        self._coro = coro
        self._name = name
        self._context = _context_of_nobody()
        self._task: asyncio.Task[Any] | None = None
        self._over = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    # -- there --

    def begin(self, loop: BridgeLoop) -> None:
        inner: Any = self._run()
        inner.__name__ = inner.__qualname__ = self._name
        if sys.version_info >= (3, 11):
            self._task = loop.create_task(inner, context=self._context)
        else:
            self._task = self._context.run(loop.create_task, inner)
        _running.add(self)
        self._task.add_done_callback(self._ended)

    async def _run(self) -> None:
        try:
            self._value = await self._coro
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            # KeyboardInterrupt and SystemExit, too: they are the caller's, and would end who drives this loop.
            self._error = error

    def _ended(self, task: asyncio.Task[Any]) -> None:
        _running.discard(self)
        if task.cancelled():
            self._coro.close()  # it may not have begun
            self._error = asyncio.CancelledError()
        elif self._error is None:
            self._error = task.exception()
        self.end()

    def end(self) -> None:
        self._over = True
        try:
            self._here.call_soon_threadsafe(self._wake)
        except RuntimeError:
            pass  # that loop was closed: nobody waits

    def fail(self, error: BaseException) -> None:
        self._coro.close()
        self._error = error
        self.end()

    # -- here --

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        self._waiter = self._here.create_future()
        if self._over:  # after the waiter is there: whoever ended it before has woken nobody
            return
        await self._waiter

    def cancel(self, loop: BridgeLoop) -> None:
        try:
            loop.call_soon_threadsafe(self._cancel_task)
        except RuntimeError:
            pass  # it was closed, and has cancelled all that ran on it

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def result(self) -> Any:
        error, self._error = self._error, None
        if error is None:
            return self._value
        _core.prune(error)
        try:
            raise error
        finally:
            del error


class _Begin(Sent):
    """On its way to its loop. One that does not get there ends what waits for it."""

    def __init__(self, crossing: _Crossing) -> None:
        self._crossing: _Crossing | None = crossing

    def arrive(self, loop: BridgeLoop) -> None:
        crossing, self._crossing = self._crossing, None
        assert crossing is not None
        crossing.begin(loop)

    def drop(self) -> None:
        crossing, self._crossing = self._crossing, None
        if crossing is not None:
            crossing.fail(
                BridgeClosedError(f"the Synchronizer was closed before this call began [{BridgeClosedError.code}]")
            )
