"""``gather()``: many at once, none left behind."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from sidecar import _core
from sidecar._support import coroutine_of, note_orphan, note_orphan_end, orphan_text, timeout_text
from sidecar.errors import CallTimeoutError

if TYPE_CHECKING:
    from sidecar._bridge import Sidecar

__all__ = ["gather", "gathered", "within"]


def gather(bridge: Sidecar, aws: tuple[Any, ...], return_exceptions: bool, timeout: float | None) -> Any:
    """``bridge.gather(*aws, ...)``."""
    coro = gathered(aws, return_exceptions)
    try:
        if asyncio._get_running_loop() is None:
            return bridge.run_sync(coro, timeout=timeout)
        limit = None if timeout is None else _seconds(timeout)
    except BaseException:
        coro.drop()
        raise
    return coro if limit is None else within(coro, limit, bridge._cleanup_timeout)


def _seconds(timeout: float) -> float:
    seconds = float(timeout)
    if not seconds >= 0.0:
        raise ValueError(f"timeout must be a number of seconds from 0 on, or None for no limit, not {timeout!r}")
    return seconds


class Gathered(Coroutine[Any, Any, Any]):
    """A coroutine of ours for others to await: no frame of it in tracebacks.

    Closed, or dropped by a call that fails, before its first step it closes what it was to await.
    """

    def __init__(self, coro: Coroutine[Any, Any, Any], name: str, inner: tuple[Any, ...]) -> None:
        self.__name__ = self.__qualname__ = name
        self._coro = coro
        self._inner: tuple[Any, ...] | None = inner  # until it is begun

    def send(self, value: Any) -> Any:
        self._inner = None
        return self._coro.send(value)

    def throw(self, *args: Any) -> Any:
        inner, self._inner = self._inner, None
        _close(inner or ())
        return self._coro.throw(*args)

    def close(self) -> None:
        self.drop()
        self._coro.close()

    def drop(self) -> None:
        """It will not be begun; nothing to do where it was."""
        inner, self._inner = self._inner, None
        if inner is not None:
            self._coro.close()
            _close(inner)

    def __next__(self) -> Any:
        self._inner = None
        return self._coro.send(None)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self

    def __iter__(self) -> Gathered:
        return self


for _name in ("send", "throw", "close", "__next__"):
    setattr(Gathered, _name, _core.frameless(getattr(Gathered, _name)))


def _close(aws: tuple[Any, ...]) -> None:
    for aw in aws:
        if isinstance(aw, Coroutine):
            aw.close()


def gathered(aws: tuple[Any, ...], return_exceptions: bool) -> Gathered:
    """A coroutine that awaits them all at once. Raises ``TypeError`` for what is none, and closes the others."""
    for aw in aws:
        if not (isinstance(aw, Awaitable) or inspect.isawaitable(aw)):
            _close(aws)
            raise TypeError(f"gather() takes awaitables, not {aw!r}")
    return Gathered(_all(aws, return_exceptions), f"gather() of {len(aws)}", aws)


async def _all(aws: tuple[Any, ...], return_exceptions: bool) -> list[Any]:
    loop = asyncio.get_running_loop()
    if any(asyncio.isfuture(aw) and aw.get_loop() is not loop for aw in aws):
        _close(aws)
        raise ValueError("gather() takes futures of the loop that it runs on, and one is of another")
    found: dict[int, asyncio.Future[Any]] = {}
    for aw in aws:
        if id(aw) not in found:  # not awaited twice
            found[id(aw)] = aw if asyncio.isfuture(aw) else loop.create_task(coroutine_of(aw))
    futures = [found[id(aw)] for aw in aws]
    try:
        failed = await _first_failure(set(futures), return_exceptions)
    except BaseException:
        await _cancel(futures)
        raise
    if failed is not None:
        await _cancel(futures)
        failed.result()
    return [_outcome(future) for future in futures]


async def _first_failure(futures: set[asyncio.Future[Any]], return_exceptions: bool) -> asyncio.Future[Any] | None:
    """When all have ended: None; or the first that fails."""
    over: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    left = len(futures)

    def note(future: asyncio.Future[Any]) -> None:
        nonlocal left
        left -= 1
        failed = future.cancelled() or future.exception() is not None
        if not over.done():
            if failed and not return_exceptions:
                over.set_result(future)
            elif left == 0:
                over.set_result(None)

    for future in futures:
        future.add_done_callback(note)
    return await over if futures else None


async def _cancel(futures: list[asyncio.Future[Any]]) -> None:
    """Once each, and wait for their cleanup."""
    rest = {future for future in futures if not future.done()}
    for future in rest:
        future.cancel()
    if rest:
        await asyncio.wait(rest)


def _outcome(future: asyncio.Future[Any]) -> Any:
    if not future.cancelled():
        error = future.exception()
        return future.result() if error is None else error
    try:
        return future.result()
    except asyncio.CancelledError as cancelled:
        return cancelled.with_traceback(None)


# Nothing else holds a task that nobody waits for.
_orphans: set[asyncio.Task[Any]] = set()


def within(coro: Gathered, limit: float, cleanup: float = 5.0) -> Gathered:
    """In a coroutine: ``run_sync``'s rule for time-outs."""
    return Gathered(_within(coro, limit, cleanup), coro.__qualname__, (coro,))


async def _within(coro: Gathered, limit: float, cleanup: float) -> Any:
    task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(coro)
    try:
        await asyncio.wait({task}, timeout=limit)
    except asyncio.CancelledError:
        await _cancel([task])
        raise
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.wait({task}, timeout=cleanup)
    if not task.done():
        _leave(task, coro)
        raise CallTimeoutError(f"{orphan_text(coro, cleanup)} [{CallTimeoutError.code}]")
    ended = _outcome(task)
    if isinstance(ended, (asyncio.CancelledError, Exception)):
        raise CallTimeoutError(f"{timeout_text(coro)} [{CallTimeoutError.code}]") from ended
    return task.result()


def _leave(task: asyncio.Task[Any], coro: Gathered) -> None:
    def note(task: asyncio.Task[Any]) -> None:
        _orphans.discard(task)
        note_orphan_end(coro, None if task.cancelled() else task.exception())

    note_orphan(coro)
    _orphans.add(task)
    task.add_done_callback(note)
