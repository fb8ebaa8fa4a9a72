"""``submit()``: work that nobody waits for just now, and what becomes of its errors."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import sys
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any

from sidecar import _core
from sidecar._support import coroutine_of, logger, name_of

if TYPE_CHECKING:
    from sidecar._bridge import Sidecar

__all__ = ["SubmittedFuture", "submit"]


class SubmittedFuture(concurrent.futures.Future):  # type: ignore[type-arg]
    """The future of ``submit()``. An exception that nobody has asked it for is logged when it goes.

    Asked for by ``result()`` or ``exception()``; a callback that does neither has not asked.
    """

    _what: object = None
    _request: str | None = None
    _asked = False
    _task: asyncio.Task[Any] | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    def result(self, timeout: float | None = None) -> Any:
        self._asked = True
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._asked = True
        return super().exception(timeout)

    def cancel(self) -> bool:
        """As ``concurrent.futures``' does; a coroutine is cancelled, wherever it has come to."""
        cancelled = super().cancel()
        if cancelled and self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._cancel_task)
            except RuntimeError:
                pass  # the loop was closed, and has cancelled all that ran on it
        return cancelled

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def __del__(self) -> None:
        error = self._exception
        if error is None or self._asked:
            return
        what = name_of(self._what) if inspect.iscoroutine(self._what) else repr(self._what)
        request = f" of request {self._request}" if self._request else ""
        logger.error("submit: %s%s failed, and nobody asked for it", what, request, exc_info=error)


def submit(bridge: Sidecar, work: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> SubmittedFuture:
    """``bridge.submit(work, *args, **kwargs)``."""
    if isinstance(work, Awaitable) or inspect.isawaitable(work):
        if args or kwargs:
            if inspect.iscoroutine(work):
                work.close()
            raise TypeError(f"submit({work!r}) takes no arguments: they are the coroutine function's")
        return _submit_awaitable(bridge, work)
    if not callable(work):
        raise TypeError(f"submit() takes a function or an awaitable, not {work!r}")
    if inspect.iscoroutinefunction(work) or asyncio.iscoroutinefunction(work):
        return _submit_awaitable(bridge, work(*args, **kwargs))
    bridge.get_loop()
    future = _new_future(work)
    bridge._pool.submit_into(future, work, *args, **kwargs)
    return future


def _new_future(what: object) -> SubmittedFuture:
    future = SubmittedFuture()
    future._what = what
    request = _core.current()
    if request is not None:
        future._request = request.id
    return future


def _submit_awaitable(bridge: Sidecar, awaitable: Awaitable[Any]) -> SubmittedFuture:
    """Make a task of it on the loop, from any thread, in a copy of this context."""
    coro = coroutine_of(awaitable)
    try:
        loop = bridge.get_loop()
        future = _new_future(coro)
        future._loop = loop
        context = contextvars.copy_context()
        loop.call_soon_threadsafe(_begin, future, coro, context, context=contextvars.Context())
    except BaseException:
        coro.close()
        raise
    return future


# A loop knows its tasks by weak references only.
_running: set[asyncio.Task[Any]] = set()


def _begin(future: SubmittedFuture, coro: Coroutine[Any, Any, Any], context: contextvars.Context) -> None:
    if future.cancelled():
        coro.close()
        future.set_running_or_notify_cancel()
        return
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 11):
        task = loop.create_task(coro, context=context)
    else:
        task = context.run(loop.create_task, coro)
    _running.add(task)
    future._task = task
    if future.cancelled():
        task.cancel()  # meanwhile, by another thread that saw no task yet
    task.add_done_callback(lambda task: _end(future, task))


def _end(future: SubmittedFuture, task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    future._task = None
    error = None if task.cancelled() else task.exception()
    if future.cancelled():
        future.set_running_or_notify_cancel()
        return
    if task.cancelled():
        concurrent.futures.Future.cancel(future)
        future.set_running_or_notify_cancel()
    elif future.set_running_or_notify_cancel():
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())
